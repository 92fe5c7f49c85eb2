//! One-word programs, so that a demo or test image needs nothing but this file.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use knarr_sys::supervise::{Events, SignalFd, poll_one};

const PAGE: usize = 4096;

/// Runs a helper. None when there is none of this name or its arguments are wrong.
pub(crate) fn run(command: &str, arguments: &[&str]) -> Option<io::Result<ExitCode>> {
    Some(match (command, arguments) {
        ("true", []) => Ok(ExitCode::SUCCESS),
        ("false", []) => Ok(ExitCode::FAILURE),
        ("exit", [code]) => Ok(ExitCode::from(code.parse::<u8>().ok()?)),
        ("echo", words) => print(&(words.join(" ") + "\n")),
        ("env", []) => env(),
        ("cat", []) => cat(),
        ("lines", [count]) => lines(count.parse().ok()?),
        ("sleep", []) => sleep(None),
        ("sleep", [seconds]) => sleep(Some(duration(seconds)?)),
        ("hog", [mebibytes]) => hog(mebibytes.parse().ok()?),
        ("spin", []) => spin(),
        _ => return None,
    })
}

pub(crate) fn print(text: &str) -> io::Result<ExitCode> {
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn duration(seconds: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds.parse().ok()?).ok()
}

fn env() -> io::Result<ExitCode> {
    let mut text = String::new();
    for (name, value) in std::env::vars_os() {
        text += &format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy());
    }
    print(&text)
}

fn cat() -> io::Result<ExitCode> {
    io::copy(&mut io::stdin().lock(), &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn lines(count: u64) -> io::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    for n in 1..=count {
        writeln!(out, "line {n}")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn sleep(time: Option<Duration>) -> io::Result<ExitCode> {
    let signals = SignalFd::new(&crate::STOP)?;
    poll_one(signals.as_fd(), Events::READ, time)?;
    Ok(ExitCode::SUCCESS)
}

fn hog(mebibytes: usize) -> io::Result<ExitCode> {
    let mut held = Vec::new();
    for n in 1..=mebibytes {
        let mut chunk = vec![0_u8; 1 << 20];
        // A page that was never written takes no memory.
        for page in chunk.chunks_mut(PAGE) {
            page[0] = 1;
        }
        held.push(std::hint::black_box(chunk));
        if n % 16 == 0 {
            print(&format!("holding {n} MiB\n"))?;
        }
    }
    print(&format!("holding all {} MiB\n", held.len()))?;
    sleep(None)
}

fn spin() -> io::Result<ExitCode> {
    let signals = SignalFd::new(&crate::STOP)?;
    loop {
        for n in 0..50_000_000_u64 {
            std::hint::black_box(n);
        }
        if signals.take()?.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

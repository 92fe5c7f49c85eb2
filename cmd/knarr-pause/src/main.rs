//! The pause process of a pod, and small helpers for demos and tests.
//!
//! `knarr-pause` alone holds the pod's namespaces: it reaps orphans when it is pid 1 and leaves
//! with 0 on SIGTERM or SIGINT. The helpers make an image of this one file useful.

mod helpers;
mod serve;

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use knarr_sys::supervise::{Events, SignalFd, kill_process, poll_one, wait_any, with_default_signals};

const USAGE: &str = "usage: knarr-pause [COMMAND]
  (none)          hold the pod's namespaces until SIGTERM
  init PROGRAM... run a program as pid 1: reap orphans, pass signals on, leave with its code
  serve [PORT]    HTTP server on PORT (8080): hostname, address, request count
  sleep [SECONDS] wait, for ever without SECONDS; SIGTERM ends it with 0
  echo WORD...    print the words
  env             print the environment
  cat             copy stdin to stdout
  lines N         print N numbered lines
  hog MIB         use this much memory, then wait
  spin            use all the CPU time there is
  exit CODE       leave with CODE
  true, false     leave with 0, with 1
";

/// The signals that end a waiting helper in good order.
pub(crate) const STOP: [i32; 2] = [SIGINT, SIGTERM];
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] | ["pause"] => pause(),
        ["init", program, rest @ ..] => init(program, rest),
        ["serve"] => serve::run(8080),
        ["serve", port] => match port.parse() {
            Ok(port) => serve::run(port),
            Err(_) => return usage(),
        },
        ["--help" | "-h" | "help"] => helpers::print(USAGE),
        [command, rest @ ..] => match helpers::run(command, rest) {
            Some(result) => result,
            None => return usage(),
        },
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("knarr-pause: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one program and whatever it leaves behind.
fn init(program: &str, arguments: &[&str]) -> io::Result<ExitCode> {
    // Before the program's first moment, so that no end is missed; the program gets the signals
    // back as they were.
    let signals = SignalFd::new(&[SIGINT, SIGTERM, SIGCHLD])?;
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    let child = with_default_signals(|| command.spawn())??;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    loop {
        while let Some(ended) = wait_any()? {
            if ended.pid == pid {
                return Ok(ExitCode::from(u8::try_from(ended.status.code()).unwrap_or(1)));
            }
        }
        poll_one(signals.as_fd(), Events::READ, None)?;
        while let Some(signal) = signals.take()? {
            if STOP.contains(&signal) {
                kill_process(pid, signal)?;
            }
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

fn pause() -> io::Result<ExitCode> {
    let signals = SignalFd::new(&[SIGINT, SIGTERM, SIGCHLD])?;
    loop {
        // Orphans may have ended before the signals were blocked.
        while wait_any()?.is_some() {}
        poll_one(signals.as_fd(), Events::READ, None)?;
        while let Some(signal) = signals.take()? {
            if STOP.contains(&signal) {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

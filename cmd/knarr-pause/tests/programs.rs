//! The pause process and its helpers as programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr-pause"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// Waits until the program sleeps with its signals blocked, so that none can come too early.
fn settled(child: &Child) {
    let path = format!("/proc/{}/status", child.id());
    let start = Instant::now();
    loop {
        let status = std::fs::read_to_string(&path).unwrap();
        let blocked = status
            .lines()
            .find_map(|l| l.strip_prefix("SigBlk:"))
            .unwrap()
            .trim();
        if u64::from_str_radix(blocked, 16).unwrap() & (1 << 14) != 0 {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it does not settle"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stop(child: &mut Child, signal: &str) -> (Option<i32>, Duration) {
    settled(child);
    let start = Instant::now();
    Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    (child.wait().unwrap().code(), start.elapsed())
}

#[test]
fn pause_leaves_at_once_and_in_good_order() {
    for (arguments, signal) in [
        (&[][..], "-TERM"),
        (&[], "-INT"),
        (&["sleep"], "-TERM"),
        (&["hog", "1"], "-TERM"),
    ] {
        let mut child = program(arguments).spawn().unwrap();
        let (code, took) = stop(&mut child, signal);
        assert_eq!(code, Some(0), "{arguments:?}");
        assert!(took < Duration::from_secs(1), "{arguments:?} took {took:?}");
    }
}

#[test]
fn pause_as_pid_1_reaps_orphans() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["sh", "-c", r#"(sleep 0.2 & sleep 0.2 &) ; exec "$0""#]);
    let child = command
        .arg(env!("CARGO_BIN_EXE_knarr-pause"))
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    std::thread::sleep(Duration::from_millis(100));
    if let Some(status) = child.try_wait().unwrap() {
        let mut why = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut why)
            .unwrap();
        assert!(why.contains("unshare"), "{status}");
        eprintln!("skipped: {why}");
        return;
    }
    std::thread::sleep(Duration::from_millis(600));
    let children =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pause: u32 = children(child.id()).trim().parse().unwrap();
    assert_eq!(children(pause), "", "orphans are left");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn helpers_do_what_they_say() {
    assert_eq!(run(&["echo", "a", "b"]).stdout, b"a b\n");
    assert_eq!(run(&["true"]).status.code(), Some(0));
    assert_eq!(run(&["false"]).status.code(), Some(1));
    assert_eq!(run(&["exit", "42"]).status.code(), Some(42));
    assert_eq!(run(&["sleep", "0.01"]).status.code(), Some(0));
    assert_eq!(run(&["lines", "2"]).stdout, b"line 1\nline 2\n");
    let wrong = run(&["no-such-helper"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).starts_with("usage:"));
}

#[test]
fn the_server_tells_who_answers_and_counts() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut child = program(&["serve", &port.to_string()]).spawn().unwrap();
    let mut first = [0; 1];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    // One that says nothing must not hold up the others.
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for count in 1..=2 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for want in ["\nhostname: ", "\naddress: 127.0.0.1\n", "\npath: /x\n"] {
            assert!(answer.replace("\r\n", "\n").contains(want), "{answer}");
        }
        assert!(
            answer.ends_with(&format!("requests: {count}\n")),
            "{answer}"
        );
    }
    assert_eq!(stop(&mut child, "-TERM").0, Some(0));
}

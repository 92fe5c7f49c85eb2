//! The demo: a web server that tells who answered.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use knarr_sys::supervise::{Events, PollSet, SignalFd};

const IDLE: Duration = Duration::from_secs(30);
const MAX_CONNECTIONS: usize = 128;
const MAX_LINE: u64 = 16 << 10;
const STACK: usize = 128 << 10;

struct Server {
    hostname: String,
    requests: AtomicU64,
    connections: AtomicUsize,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(port: u16) -> io::Result<ExitCode> {
    let signals = SignalFd::new(&crate::STOP)?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    listener.set_nonblocking(true)?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let server = Arc::new(Server {
        hostname: hostname.trim().to_owned(),
        requests: AtomicU64::new(0),
        connections: AtomicUsize::new(0),
    });
    crate::helpers::print(&format!("{} serves on port {port}\n", server.hostname))?;
    let mut poll = PollSet::default();
    loop {
        poll.clear();
        let stop = poll.add(signals.as_fd(), Events::READ);
        poll.add(listener.as_fd(), Events::READ);
        poll.wait(None)?;
        if poll.events(stop).any() {
            return Ok(ExitCode::SUCCESS);
        }
        while let Ok((stream, peer)) = listener.accept() {
            if server.connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
                continue;
            }
            server.connections.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(&server);
            let started = thread::Builder::new().stack_size(STACK).spawn(move || {
                // A client that breaks off is its own business.
                let _ = connection(&shared, &stream, peer);
                shared.connections.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                server.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn connection(server: &Server, stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(4096, stream);
    while let Some(request) = Request::read(&mut reader)? {
        let count = server.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let address = stream.local_addr()?.ip().to_canonical();
        let body = format!(
            "hostname: {}\naddress: {address}\nclient: {}\npath: {}\nrequests: {count}\n",
            server.hostname,
            peer.ip().to_canonical(),
            request.path,
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
            body.len(),
            if request.keep { "keep-alive" } else { "close" },
        );
        let body = if request.head_only { "" } else { body.as_str() };
        let mut out = stream;
        out.write_all((head + body).as_bytes())?;
        if !request.keep {
            break;
        }
    }
    Ok(())
}

struct Request {
    path: String,
    keep: bool,
    head_only: bool,
}

impl Request {
    /// Reads a request's head; bodies are not expected and end the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
        let first = line(reader)?;
        let mut words = first.split_whitespace();
        let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
        else {
            return Ok(None);
        };
        let mut request = Request {
            path: path.to_owned(),
            keep: version == "HTTP/1.1",
            head_only: method == "HEAD",
        };
        loop {
            let header = line(reader)?;
            let Some((name, value)) = header.split_once(':') else {
                return Ok(Some(request));
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "connection" if value.eq_ignore_ascii_case("close") => request.keep = false,
                "content-length" if value != "0" => request.keep = false,
                "transfer-encoding" => request.keep = false,
                _ => {}
            }
        }
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Read::take(reader, MAX_LINE).read_until(b'\n', &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

//! Exec, attach and port-forward behind the streaming server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use knarr_cri_api::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use knarr_streaming::{
    AttachParams, ExecParams, ExecResult, Handler, PortForwardParams, PortStream, Server, Streams,
    TerminalSize,
};
use rustix::thread::LinkNameSpaceType;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::{Cri, Error, spec};

/// How long output may come after the process has ended (from what it left running).
const DRAIN: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(10);

/// Holds no services alive.
struct Sessions(Weak<Cri>);

impl Cri {
    pub(crate) async fn serve_streams(self: &Arc<Self>) -> Result<(), Error> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let handler = Arc::new(Sessions(Arc::downgrade(self)));
        let server = Server::bind(address, handler)
            .await
            .map_err(Error::io("listen on", address.to_string()))?;
        // Only set here.
        let _ = self.streaming.set(server);
        Ok(())
    }

    fn server(&self) -> Result<&Server, Error> {
        self.streaming
            .get()
            .ok_or_else(|| Error::State("the streaming server does not run".to_owned()))
    }

    pub(crate) async fn exec_url(&self, r: ExecRequest) -> Result<String, Error> {
        if r.cmd.is_empty() {
            return Err(Error::Invalid("exec needs a command".to_owned()));
        }
        if r.tty && r.stderr {
            return Err(Error::Invalid("tty and stderr cannot both be true".to_owned()));
        }
        if !(r.stdin || r.stdout || r.stderr) {
            return Err(Error::Invalid(
                "one of stdin, stdout, or stderr must be set".to_owned(),
            ));
        }
        let container = self.container(&r.container_id)?;
        container.running().await?;
        Ok(self.server()?.exec_url(ExecParams {
            container_id: container.id.clone(),
            command: r.cmd,
            tty: r.tty,
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
        }))
    }

    pub(crate) async fn attach_url(&self, r: AttachRequest) -> Result<String, Error> {
        if r.tty && r.stderr {
            return Err(Error::Invalid("tty and stderr cannot both be true".to_owned()));
        }
        let container = self.container(&r.container_id)?;
        container.running().await?;
        Ok(self.server()?.attach_url(AttachParams {
            container_id: container.id.clone(),
            tty: container.config().tty,
            stdin: r.stdin,
            stdout: r.stdout,
            stderr: r.stderr,
        }))
    }

    pub(crate) async fn port_forward_url(&self, r: PortForwardRequest) -> Result<String, Error> {
        let sandbox = self.sandbox(&r.pod_sandbox_id)?;
        if !sandbox.ready() {
            return Err(Error::State("sandbox container is not running".to_owned()));
        }
        let port = |p: &i32| {
            u16::try_from(*p).map_err(|_| Error::Invalid(format!("invalid port {p}")))
        };
        Ok(self.server()?.port_forward_url(PortForwardParams {
            pod_sandbox_id: sandbox.id.clone(),
            ports: r.port.iter().map(port).collect::<Result<_, _>>()?,
        }))
    }
}

#[tonic::async_trait]
impl Handler for Sessions {
    async fn exec(&self, params: ExecParams, streams: Streams) -> ExecResult {
        let Some(cri) = self.0.upgrade() else { return gone() };
        let started = async {
            let container = cri.container(&params.container_id)?;
            container.exec(params.command, params.tty, streams.stdin.is_some()).await
        };
        let mut session = match started.await {
            Ok(session) => session,
            Err(e) => return ExecResult::Failed(e.to_string()),
        };
        let (input, out, err) = (session.stdin.take(), session.stdout.take(), session.stderr.take());
        let output = futures::future::join(carry(out, streams.stdout), carry(err, streams.stderr));
        let mut output = std::pin::pin!(output);
        let mut feeding = std::pin::pin!(carry(streams.stdin, input));
        let mut sizes = streams.resize;
        let mut ending = std::pin::pin!(session.wait());
        let (mut fed, mut told) = (false, false);
        let code = loop {
            tokio::select! {
                code = &mut ending => break code,
                () = &mut feeding, if !fed => fed = true,
                _ = &mut output, if !told => told = true,
                size = next(&mut sizes) => {
                    let _ = session.resize(size.width, size.height).await; // it may be gone
                }
            }
        };
        if !told {
            // What is too late is lost.
            let _ = tokio::time::timeout(DRAIN, output).await;
        }
        match code {
            Ok(code) => ExecResult::Exited(code),
            Err(e) => ExecResult::Failed(e.to_string()),
        }
    }

    async fn attach(&self, params: AttachParams, streams: Streams) -> ExecResult {
        let Some(cri) = self.0.upgrade() else { return gone() };
        let joined = async {
            let container = cri.container(&params.container_id)?;
            let shim = container.running().await?;
            Ok::<_, Error>(shim.attach().await?)
        };
        let mut session = match joined.await {
            Ok(session) => session,
            Err(e) => return ExecResult::Failed(e.to_string()),
        };
        let (input, out, err) = (session.stdin.take(), session.stdout.take(), session.stderr.take());
        let output = futures::future::join(carry(out, streams.stdout), carry(err, streams.stderr));
        let mut output = std::pin::pin!(output);
        let mut feeding = std::pin::pin!(carry(streams.stdin, input));
        let mut sizes = streams.resize;
        let mut fed = false;
        loop {
            tokio::select! {
                _ = &mut output => return ExecResult::Exited(0),
                () = &mut feeding, if !fed => fed = true,
                size = next(&mut sizes) => {
                    let _ = session.resize(size.width, size.height).await; // it may be gone
                }
            }
        }
    }

    async fn port_forward(
        &self,
        pod_sandbox_id: &str,
        port: u16,
        mut stream: PortStream,
    ) -> Result<(), String> {
        let cri = self.0.upgrade().ok_or("the runtime is shutting down")?;
        let sandbox = cri.sandbox(pod_sandbox_id).map_err(|e| e.to_string())?;
        if !sandbox.ready() {
            return Err("sandbox container is not running".to_owned());
        }
        let netns = (!spec::host_network(&sandbox.config))
            .then(|| PathBuf::from(format!("/proc/{}/ns/net", sandbox.record().pause_pid)));
        drop((cri, sandbox));
        let mut connection = connect(netns, port).await.map_err(|e| {
            format!("failed to connect to localhost:{port} inside namespace: {e}")
        })?;
        // An end by reset is an end.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut connection).await;
        Ok(())
    }
}

fn gone() -> ExecResult {
    ExecResult::Failed("the runtime is shutting down".to_owned())
}

/// Copies to the end and closes. What has no taker is read all the same, so that nobody blocks;
/// what has no giver leaves the taker open (a stdin that was not asked for).
async fn carry(from: Option<impl AsyncRead + Unpin>, to: Option<impl AsyncWrite + Unpin>) {
    match (from, to) {
        (Some(mut from), Some(mut to)) => {
            if tokio::io::copy(&mut from, &mut to).await.is_err() {
                // The taker is gone: let the giver go on.
                let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
            }
            let _ = to.shutdown().await; // it may be closed already
        }
        (Some(mut from), None) => {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
        (None, _) => {}
    }
}

/// The next size; never, if none is to come.
async fn next(sizes: &mut Option<mpsc::Receiver<TerminalSize>>) -> TerminalSize {
    if let Some(receiver) = sizes
        && let Some(size) = receiver.recv().await
    {
        return size;
    }
    *sizes = None;
    std::future::pending().await
}

/// Connects to a pod's own loopback. A namespace is a thread's: the thread that enters it makes
/// the connection and ends.
async fn connect(netns: Option<PathBuf>, port: u16) -> std::io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let work = move || -> std::io::Result<std::net::TcpStream> {
        if let Some(path) = netns {
            let file = std::fs::File::open(path)?;
            use std::os::fd::AsFd;
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(LinkNameSpaceType::Network),
            )?;
        }
        let mut last = None;
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            match std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(e) => last = last.or(Some(e)),
            }
        }
        Err(last.unwrap_or_else(|| std::io::ErrorKind::ConnectionRefused.into()))
    };
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        let _ = sender.send(work()); // the client may have left
    })?;
    let stream = receiver
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

//! Stock kubectl against the server through the tunnel, over WebSocket and over SPDY.
//!
//! `KNARR_TEST_KUBECTL` names the kubectl to use; otherwise the one in PATH is.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use knarr_streaming::{
    AttachParams, Body, ExecParams, ExecResult, Handler, PortForwardParams, PortStream, Server,
    Streams, Upstream, tunnel,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Runs commands on the host and forwards to a local server.
#[derive(Default)]
struct Host {
    target: u16,
    running: AtomicUsize,
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Host {
    fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(&self.running)
    }
}

async fn copy<R, W>(from: Option<R>, to: Option<W>)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    if let (Some(mut from), Some(mut to)) = (from, to) {
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

#[async_trait]
impl Handler for Host {
    async fn exec(&self, params: ExecParams, streams: Streams) -> ExecResult {
        let _running = self.enter();
        if params.command == ["fail"] {
            return ExecResult::Failed("it cannot be".into());
        }
        let Streams {
            stdin,
            stdout,
            stderr,
            mut resize,
        } = streams;
        if params.command == ["size"] {
            let size = resize.as_mut().unwrap().recv().await.unwrap();
            stdout
                .unwrap()
                .write_all(format!("{size:?}\n").as_bytes())
                .await
                .unwrap();
            return ExecResult::Exited(0);
        }
        let mut child = Command::new(&params.command[0])
            .args(&params.command[1..])
            .stdin(if stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let outputs = async { tokio::join!(copy(output, stdout), copy(errors, stderr)) };
        let input = copy(stdin, input);
        let ended = async { (outputs.await, child.wait().await.unwrap()).1 };
        tokio::pin!(input, ended);
        let status = tokio::select! {
            status = &mut ended => status,
            () = &mut input => ended.await,
        };
        ExecResult::Exited(status.code().unwrap_or(255))
    }

    async fn attach(&self, params: AttachParams, streams: Streams) -> ExecResult {
        let command = ["cat".to_owned()].to_vec();
        let AttachParams {
            container_id,
            tty,
            stdin,
            stdout,
            stderr,
        } = params;
        let params = ExecParams {
            container_id,
            command,
            tty,
            stdin,
            stdout,
            stderr,
        };
        self.exec(params, streams).await
    }

    async fn port_forward(&self, _: &str, port: u16, mut stream: PortStream) -> Result<(), String> {
        let _running = self.enter();
        if port != 80 {
            return Err("connection refused".into());
        }
        let mut target = TcpStream::connect(("127.0.0.1", self.target))
            .await
            .unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
        Ok(())
    }
}

fn reply(status: StatusCode, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string()))
        .map_err(|never| match never {})
        .boxed();
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    response.body(body).unwrap()
}

fn query(request: &Request<Incoming>, name: &str) -> Vec<String> {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| {
            let mut out = Vec::new();
            let mut bytes = value.bytes();
            while let Some(b) = bytes.next() {
                out.push(match b {
                    b'+' => b' ',
                    b'%' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    b => b,
                });
            }
            String::from_utf8(out).unwrap()
        })
        .collect()
}

/// Just enough of an API server for kubectl to find one pod.
async fn api(
    request: Request<Incoming>,
    server: Arc<Server>,
    upgrades: &std::sync::Mutex<Vec<String>>,
) -> Response<Body> {
    if let Some(upgrade) = request.headers().get("upgrade") {
        upgrades
            .lock()
            .unwrap()
            .push(upgrade.to_str().unwrap().to_ascii_lowercase());
    }
    let yes = |name| {
        query(&request, name)
            .iter()
            .any(|v| v == "true" || v == "1")
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "1"},
        "spec": {"containers": [{"name": "c", "image": "i", "stdin": true}]},
        "status": {"phase": "Running"},
    });
    let path = request.uri().path().to_owned();
    let url = match path.as_str() {
        "/api" => {
            return reply(
                StatusCode::OK,
                &json!({"kind": "APIVersions", "versions": ["v1"]}),
            );
        }
        "/apis" => {
            return reply(
                StatusCode::OK,
                &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
            );
        }
        "/api/v1" => {
            let verbs = ["get", "list", "create", "watch"];
            let resources = json!([{"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": verbs}]);
            return reply(
                StatusCode::OK,
                &json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": resources}),
            );
        }
        "/api/v1/namespaces/default/pods/p" => return reply(StatusCode::OK, &pod),
        "/api/v1/namespaces/default/pods/p/exec" => server.exec_url(ExecParams {
            container_id: "c".into(),
            command: query(&request, "command"),
            tty: yes("tty"),
            stdin: yes("stdin"),
            stdout: yes("stdout"),
            stderr: yes("stderr"),
        }),
        "/api/v1/namespaces/default/pods/p/attach" => server.attach_url(AttachParams {
            container_id: "c".into(),
            tty: yes("tty"),
            stdin: yes("stdin"),
            stdout: yes("stdout"),
            stderr: yes("stderr"),
        }),
        "/api/v1/namespaces/default/pods/p/portforward" => {
            server.port_forward_url(PortForwardParams {
                pod_sandbox_id: "s".into(),
                ports: Vec::new(),
            })
        }
        _ => {
            return reply(
                StatusCode::NOT_FOUND,
                &json!({"kind": "Status", "status": "Failure", "code": 404}),
            );
        }
    };
    let upstream = Upstream::plain(url.parse().unwrap());
    match tunnel(request, &upstream).await {
        Ok(response) => response,
        Err(e) => reply(
            StatusCode::BAD_GATEWAY,
            &json!({"kind": "Status", "message": e.to_string()}),
        ),
    }
}

struct Cluster {
    address: SocketAddr,
    host: Arc<Host>,
    kubectl: String,
    /// What clients have asked to upgrade to.
    upgrades: Arc<std::sync::Mutex<Vec<String>>>,
    _server: Arc<Server>,
}

impl Cluster {
    /// None, with the reason printed, when there is no kubectl.
    async fn start(target: u16) -> Option<Cluster> {
        let kubectl = std::env::var("KNARR_TEST_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let version = std::process::Command::new(&kubectl)
            .args(["version", "--client"])
            .output();
        if !version.is_ok_and(|v| v.status.success()) {
            eprintln!("skipped: no {kubectl}");
            return None;
        }
        let host = Arc::new(Host {
            target,
            running: AtomicUsize::new(0),
        });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Arc::new(Server::bind(any, Arc::clone(&host) as _).await.unwrap());
        let listener = TcpListener::bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&server);
        let upgrades = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&upgrades);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (server, seen) = (Arc::clone(&shared), Arc::clone(&seen));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (server, seen) = (Arc::clone(&server), Arc::clone(&seen));
                        async move { Ok::<_, Infallible>(api(request, server, &seen).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Some(Cluster {
            address,
            host,
            kubectl,
            upgrades,
            _server: server,
        })
    }

    fn kubectl(&self, spdy: bool, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        let websocket = if spdy { "false" } else { "true" };
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket)
            .env("KUBECONFIG", "/dev/null")
            .env("HOME", "/nonexistent")
            .arg(format!("--server=http://{}", self.address))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs kubectl with this input; answers (exit code, stdout, stderr).
    async fn run(&self, spdy: bool, arguments: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
        let mut child: Child = self.kubectl(spdy, arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feed = async {
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let work = async { tokio::join!(feed, child.wait_with_output()).1 };
        let limit = Duration::from_secs(120);
        let output = tokio::time::timeout(limit, work)
            .await
            .expect("kubectl hangs")
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), output.stdout, errors)
    }

    /// A kubectl that failed over to the other protocol would prove nothing.
    fn assert_only(&self, spdy: bool) {
        let upgrades = std::mem::take(&mut *self.upgrades.lock().unwrap());
        let want = if spdy { "spdy/3.1" } else { "websocket" };
        assert!(
            !upgrades.is_empty() && upgrades.iter().all(|u| u == want),
            "{upgrades:?}"
        );
    }

    async fn assert_idle(&self) {
        let start = Instant::now();
        while self.host.running.load(Ordering::SeqCst) > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "a handler was left behind"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

const BOTH: [bool; 2] = [false, true];

#[tokio::test]
async fn exec_keeps_streams_and_codes_apart() {
    let Some(cluster) = Cluster::start(0).await else {
        return;
    };
    for spdy in BOTH {
        let script = "echo out; echo err >&2; exit 7";
        let (code, out, err) = cluster
            .run(spdy, &["exec", "p", "--", "sh", "-c", script], b"")
            .await;
        assert_eq!(
            (code, out.as_slice()),
            (7, b"out\n".as_slice()),
            "spdy {spdy}: {err}"
        );
        assert!(
            err.starts_with("err\n") && err.contains("exit code 7"),
            "{err}"
        );
        let (code, _, err) = cluster.run(spdy, &["exec", "p", "--", "true"], b"").await;
        assert_eq!((code, err.as_str()), (0, ""));
        let (code, _, err) = cluster.run(spdy, &["exec", "p", "--", "fail"], b"").await;
        assert!(code == 1 && err.contains("it cannot be"), "{code} {err}");
        cluster.assert_only(spdy);
    }
    cluster.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_megabytes_go_through_unchanged() {
    let Some(cluster) = Cluster::start(0).await else {
        return;
    };
    let bytes = noise(64 << 20);
    for spdy in BOTH {
        let start = Instant::now();
        let (code, out, err) = cluster
            .run(spdy, &["exec", "-i", "p", "--", "cat"], &bytes)
            .await;
        assert_eq!(code, 0, "spdy {spdy}: {err}");
        assert_eq!(out.len(), bytes.len());
        assert!(out == bytes, "spdy {spdy}: other bytes came back");
        eprintln!(
            "spdy {spdy}: 64 MiB there and back in {:?}",
            start.elapsed()
        );
    }
    cluster.assert_idle().await;
}

#[tokio::test]
async fn attach_carries_stdin_to_its_end() {
    let Some(cluster) = Cluster::start(0).await else {
        return;
    };
    for spdy in BOTH {
        let (code, out, err) = cluster.run(spdy, &["attach", "-i", "p"], b"hello\n").await;
        assert_eq!(
            (code, out.as_slice()),
            (0, b"hello\n".as_slice()),
            "spdy {spdy}: {err}"
        );
    }
    cluster.assert_idle().await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing() {
    let Some(cluster) = Cluster::start(0).await else {
        return;
    };
    for spdy in BOTH {
        let arguments = [
            "exec",
            "-i",
            "p",
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 600",
        ];
        let mut child = cluster.kubectl(spdy, &arguments).spawn().unwrap();
        let mut first = [0; 3];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .await
            .unwrap();
        child.kill().await.unwrap();
        cluster.assert_idle().await;
        cluster.assert_only(spdy);
    }
}

/// A server that answers each connection with what it got, once the client has ended its side.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_byte_for_byte() {
    let Some(cluster) = Cluster::start(echo_server().await).await else {
        return;
    };
    for spdy in BOTH {
        let arguments = ["port-forward", "p", "--address", "127.0.0.1", ":80"];
        let mut child = cluster.kubectl(spdy, &arguments).spawn().unwrap();
        let mut said = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        while !said.contains("->") {
            let mut chunk = [0; 256];
            let n = stdout.read(&mut chunk).await.unwrap();
            assert!(n > 0, "spdy {spdy}: kubectl left");
            said += std::str::from_utf8(&chunk[..n]).unwrap();
        }
        let port: u16 = said
            .split("127.0.0.1:")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let bytes = Arc::new(noise(16 << 20));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let bytes = Arc::clone(&bytes);
            all.spawn(async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut reader, mut writer) = stream.into_split();
                let sent = Arc::clone(&bytes);
                let send = async move {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let mut back = Vec::new();
                let receive = async { reader.read_to_end(&mut back).await.unwrap() };
                tokio::join!(send, receive);
                assert!(
                    back == *bytes,
                    "{} of {} bytes came back",
                    back.len(),
                    bytes.len()
                );
            });
        }
        let done = async {
            while let Some(one) = all.join_next().await {
                one.unwrap()
            }
        };
        tokio::time::timeout(Duration::from_secs(120), done)
            .await
            .expect("port-forward hangs");
        // Many short ones after one another.
        for _ in 0..50 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"x");
        }
        cluster.assert_only(spdy);
        child.kill().await.unwrap();
        cluster.assert_idle().await;
    }
}

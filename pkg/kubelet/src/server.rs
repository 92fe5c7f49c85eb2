//! The kubelet's HTTPS server: logs, exec, attach, port-forward, pods, statistics.
//!
//! A caller shows a certificate of the client authority, or a bearer token that the API server
//! knows (TokenReview), and must be allowed `nodes/proxy` (SubjectAccessReview). `/healthz` is
//! open. Exec, attach and port-forward are tunnelled byte for byte to the address that the
//! runtime gives.
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Error, Tls},
    logs,
    manager::{Entry, Table},
    spec,
    worker::{Found, Msg, Shared},
};

mod auth;
mod checkpoint;
mod stats;
mod tls;

type Body = BoxBody<Bytes, std::io::Error>;
type Answer = Response<Body>;

/// The server, bound and ready.
pub struct Server {
    listener: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    state: Arc<State>,
}

struct State {
    sh: Arc<Shared>,
    table: watch::Receiver<Table>,
    auth: auth::Auth,
}

/// An answer that is not the wanted one.
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(text: impl Into<String>) -> Self {
        Refusal(StatusCode::NOT_FOUND, text.into())
    }
    fn bad(text: impl Into<String>) -> Self {
        Refusal(StatusCode::BAD_REQUEST, text.into())
    }
    fn internal(text: impl Into<String>) -> Self {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    }
}

fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into()).map_err(|e| match e {}).boxed()
}

fn text(status: StatusCode, s: impl Into<String>) -> Answer {
    let mut r = Response::new(full(s.into()));
    *r.status_mut() = status;
    r.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    r
}

fn json(v: &impl serde::Serialize) -> Result<Answer, Refusal> {
    let data = serde_json::to_vec(v).map_err(|e| Refusal::internal(e.to_string()))?;
    let mut r = Response::new(full(data));
    r.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    Ok(r)
}

impl Server {
    /// Binds the address and reads the certificates.
    ///
    /// # Errors
    /// When the address is taken or a PEM file is no good.
    pub async fn bind(
        addr: SocketAddr,
        tls: &Tls,
        sh: Arc<Shared>,
        table: watch::Receiver<Table>,
    ) -> Result<Self, Error> {
        let config = tls::server_config(tls)?;
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|source| Error::Listen { addr, source })?;
        let auth = auth::Auth::new(sh.client.clone(), &sh.cfg.node_name);
        Ok(Server {
            listener,
            tls: tokio_rustls::TlsAcceptor::from(Arc::new(config)),
            state: Arc::new(State { sh, table, auth }),
        })
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let (tcp, _) = tokio::select! {
                a = self.listener.accept() => match a {
                    Ok(a) => a,
                    Err(error) => {
                        tracing::warn!(%error, "accepting");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => return,
            };
            let _ = tcp.set_nodelay(true);
            let (acceptor, state) = (self.tls.clone(), Arc::clone(&self.state));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let identity = tls::identity(stream.get_ref().1);
                let service = hyper::service::service_fn(move |req| {
                    let (state, identity) = (Arc::clone(&state), identity.clone());
                    async move { Ok::<_, std::convert::Infallible>(state.serve(req, identity).await) }
                });
                let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(error, "a connection");
                }
            });
        }
    }
}

/// Query parameters, repeated ones in order.
fn query(req: &Request<Incoming>) -> Vec<(String, String)> {
    let q = req.uri().query().unwrap_or_default();
    q.split('&')
        .filter(|p| !p.is_empty())
        .map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (percent(k), percent(v))
        })
        .collect()
}

fn percent(s: &str) -> String {
    let b = s.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        match b[i] {
            b'+' => out.push(b' '),
            b'%' => {
                let hex = s.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
                match hex {
                    Some(v) => {
                        out.push(v);
                        i += 2;
                    }
                    None => out.push(b'%'),
                }
            }
            c => out.push(c),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

struct Query(Vec<(String, String)>);

impl Query {
    fn get(&self, k: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str())
    }
    fn on(&self, k: &str) -> bool {
        matches!(self.get(k), Some("1" | "true" | "True" | "TRUE" | "t" | "T"))
    }
    fn all(&self, k: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == k).map(|(_, v)| v.clone()).collect()
    }
}

impl State {
    async fn serve(&self, req: Request<Incoming>, identity: Option<auth::Identity>) -> Answer {
        let path = req.uri().path().to_owned();
        if path == "/healthz" || path == "/healthz/ping" {
            return text(StatusCode::OK, "ok");
        }
        if let Err(Refusal(status, why)) = self.auth.check(&req, identity).await {
            return text(status, why);
        }
        match self.route(req, &path).await {
            Ok(a) => a,
            Err(Refusal(status, why)) => text(status, why),
        }
    }

    async fn route(&self, req: Request<Incoming>, path: &str) -> Result<Answer, Refusal> {
        let parts: Vec<String> = path
            .split('/')
            .filter(|p| !p.is_empty())
            .map(percent)
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let q = Query(query(&req));
        let get = req.method() == Method::GET;
        match parts.as_slice() {
            ["pods"] if get => json(&pod_list(self.pods().await)),
            ["runningpods"] if get => {
                let pods = self.pods().await;
                let running = pods
                    .into_iter()
                    .filter(|p| {
                        p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
                    })
                    .collect();
                json(&pod_list(running))
            }
            ["containerLogs", ns, pod, container] if get => {
                self.logs(ns, pod, container, &q).await
            }
            ["exec", ns, pod, container] | ["exec", ns, pod, _, container] => {
                let found = self.running(ns, pod, container).await?;
                let answer = self
                    .sh
                    .cri
                    .exec(knarr_cri_api::v1::ExecRequest {
                        container_id: found,
                        cmd: q.all("command"),
                        tty: q.on("tty"),
                        stdin: q.on("input") || q.on("stdin"),
                        stdout: q.on("output") || q.on("stdout"),
                        stderr: (q.on("error") || q.on("stderr")) && !q.on("tty"),
                    })
                    .await
                    .map_err(|e| Refusal::internal(e.message()))?;
                tunnel(req, &answer.url).await
            }
            ["attach", ns, pod, container] | ["attach", ns, pod, _, container] => {
                let found = self.running(ns, pod, container).await?;
                let tty = self.tty(ns, pod, container);
                let answer = self
                    .sh
                    .cri
                    .attach(knarr_cri_api::v1::AttachRequest {
                        container_id: found,
                        stdin: q.on("input") || q.on("stdin"),
                        stdout: q.on("output") || q.on("stdout"),
                        stderr: (q.on("error") || q.on("stderr")) && !tty,
                        tty,
                    })
                    .await
                    .map_err(|e| Refusal::internal(e.message()))?;
                tunnel(req, &answer.url).await
            }
            ["portForward", ns, pod] | ["portForward", ns, pod, _] => {
                let found = self.find(ns, pod, "").await?;
                let sandbox = found.sandbox.ok_or_else(|| {
                    Refusal::internal(format!("pod {pod} in namespace {ns} is not running"))
                })?;
                let answer = self
                    .sh
                    .cri
                    .port_forward(knarr_cri_api::v1::PortForwardRequest {
                        pod_sandbox_id: sandbox,
                        port: q
                            .all("port")
                            .iter()
                            .chain(&q.all("ports"))
                            .flat_map(|p| p.split(','))
                            .filter_map(|p| p.parse().ok())
                            .collect(),
                    })
                    .await
                    .map_err(|e| Refusal::internal(e.message()))?;
                tunnel(req, &answer.url).await
            }
            ["checkpoint", ns, pod, container] if req.method() == Method::POST => {
                self.checkpoint(ns, pod, container, &q).await
            }
            ["run", ns, pod, container] | ["run", ns, pod, _, container] if !get => {
                let found = self.running(ns, pod, container).await?;
                let cmd = q
                    .all("cmd")
                    .iter()
                    .flat_map(|c| c.split(' ').map(str::to_owned).collect::<Vec<_>>())
                    .collect();
                let out = self
                    .sh
                    .cri
                    .exec_sync(&found, cmd, std::time::Duration::ZERO)
                    .await
                    .map_err(|e| Refusal::internal(e.message()))?;
                let all = [&out.stdout[..], &out.stderr[..]].concat();
                Ok(text(StatusCode::OK, String::from_utf8_lossy(&all)))
            }
            ["stats", "summary"] if get => json(&stats::summary(&self.sh).await?),
            ["metrics"] | ["metrics", "cadvisor" | "resource" | "probes"] if get => {
                Ok(text(StatusCode::OK, self.metrics().await))
            }
            ["configz"] if get => json(&self.configz()),
            ["debug", "pod", uid] if get => {
                let entry = self
                    .table
                    .borrow()
                    .get(*uid)
                    .cloned()
                    .ok_or_else(|| Refusal::not_found(format!("no pod {uid}")))?;
                let view = ask(&entry, Msg::Inspect).await;
                json(&view.ok_or_else(|| Refusal::not_found(format!("no pod {uid}")))?)
            }
            _ => Err(Refusal::not_found("404 page not found")),
        }
    }

    async fn pods(&self) -> Vec<Pod> {
        let entries: Vec<Entry> = self.table.borrow().values().cloned().collect();
        let mut out = Vec::new();
        for e in entries {
            out.extend(ask(&e, Msg::Show).await);
        }
        out
    }

    fn entry(&self, ns: &str, name: &str) -> Result<Entry, Refusal> {
        self.table
            .borrow()
            .values()
            .filter(|e| spec::namespace(&e.pod) == ns && spec::name(&e.pod) == name)
            .max_by_key(|e| e.pod.metadata.creation_timestamp.clone())
            .cloned()
            .ok_or_else(|| Refusal::not_found(format!("pod \"{name}\" not found")))
    }

    async fn find(&self, ns: &str, pod: &str, container: &str) -> Result<Found, Refusal> {
        let entry = self.entry(ns, pod)?;
        let name = container.to_owned();
        ask(&entry, |tx| Msg::Find(name, tx))
            .await
            .ok_or_else(|| Refusal::not_found(format!("pod \"{pod}\" not found")))
    }

    /// The id of a running container.
    async fn running(&self, ns: &str, pod: &str, container: &str) -> Result<String, Refusal> {
        let found = self.find(ns, pod, container).await?;
        match found.current {
            Some(c) if c.state == crate::model::CtrState::Running => Ok(c.id),
            _ => Err(Refusal::not_found(format!("container not found (\"{container}\")"))),
        }
    }

    fn tty(&self, ns: &str, pod: &str, container: &str) -> bool {
        self.entry(ns, pod)
            .ok()
            .and_then(|e| spec::find(&e.pod, container))
            .is_some_and(|(_, c)| c.tty == Some(true))
    }

    async fn logs(
        &self,
        ns: &str,
        pod: &str,
        container: &str,
        q: &Query,
    ) -> Result<Answer, Refusal> {
        let entry = self.entry(ns, pod)?;
        if spec::find(&entry.pod, container).is_none() {
            return Err(Refusal::not_found(format!(
                "container \"{container}\" not found in pod \"{pod}\""
            )));
        }
        let found = self.find(ns, pod, container).await?;
        let instance = if q.on("previous") {
            found.previous.ok_or_else(|| {
                Refusal::bad(format!(
                    "previous terminated container \"{container}\" in pod \"{pod}\" not found"
                ))
            })?
        } else {
            found.current.ok_or_else(|| {
                let why = found.waiting.unwrap_or_else(|| "ContainerCreating".into());
                Refusal::bad(format!(
                    "container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"
                ))
            })?
        };
        let path = if instance.log_path.is_empty() {
            self.sh
                .cfg
                .log_dir(ns, pod, spec::uid(&entry.pod))
                .join(container)
                .join(format!("{}.log", instance.attempt))
        } else {
            instance.log_path.clone().into()
        };
        let number = |k: &str| -> Result<Option<i64>, Refusal> {
            q.get(k)
                .filter(|v| !v.is_empty())
                .map(|v| v.parse().map_err(|_| Refusal::bad(format!("invalid {k}: {v}"))))
                .transpose()
        };
        let since = match (number("sinceSeconds")?, q.get("sinceTime").filter(|t| !t.is_empty())) {
            (Some(s), _) => Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok(),
            (None, Some(t)) => Some(
                t.parse()
                    .map_err(|_| Refusal::bad(format!("invalid sinceTime: {t}")))?,
            ),
            (None, None) => None,
        };
        let options = logs::Options {
            follow: q.on("follow"),
            tail: number("tailLines")?.and_then(|n| usize::try_from(n).ok()),
            since,
            timestamps: q.on("timestamps"),
            limit: number("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
            only: match q.get("stream") {
                Some("Stdout") => Some("stdout".into()),
                Some("Stderr") => Some("stderr".into()),
                _ => None,
            },
        };
        if !path.exists() {
            return Ok(text(StatusCode::OK, ""));
        }
        let (end_tx, end_rx) = oneshot::channel();
        entry.handle.send(Msg::WhenEnded(instance.id, end_tx));
        let ended = async {
            let _ = end_rx.await;
        };
        let (tx, rx) = mpsc::channel(8);
        tokio::spawn(logs::stream(path, options, ended, tx));
        let body = StreamBody::new(futures::StreamExt::map(ReceiverStream::new(rx), |r| {
            r.map(Frame::data)
        }));
        let mut answer = Response::new(BodyExt::boxed(body));
        answer.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("text/plain"),
        );
        Ok(answer)
    }

    async fn metrics(&self) -> String {
        let pods = self.pods().await;
        let mut phases: HashMap<String, usize> = HashMap::new();
        let mut containers = 0;
        for p in &pods {
            let s = p.status.as_ref();
            *phases
                .entry(s.and_then(|s| s.phase.clone()).unwrap_or_default())
                .or_default() += 1;
            containers += s
                .and_then(|s| s.container_statuses.as_ref())
                .into_iter()
                .flatten()
                .filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
                .count();
        }
        let mut out = String::from("# TYPE kubelet_running_pods gauge\n");
        let running = phases.get("Running").copied().unwrap_or(0);
        out.push_str(&format!("kubelet_running_pods {running}\n"));
        out.push_str("# TYPE kubelet_running_containers gauge\n");
        out.push_str(&format!(
            "kubelet_running_containers{{container_state=\"running\"}} {containers}\n"
        ));
        out.push_str("# TYPE kubelet_node_name gauge\n");
        out.push_str(&format!(
            "kubelet_node_name{{node=\"{}\"}} 1\n",
            self.sh.cfg.node_name
        ));
        out
    }

    fn configz(&self) -> serde_json::Value {
        let c = &self.sh.cfg;
        serde_json::json!({"kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": c.listen.map(|l| l.ip().to_string()),
            "port": c.listen.map(|l| l.port()),
            "staticPodPath": c.manifests,
            "clusterDomain": c.cluster_domain,
            "clusterDNS": c.cluster_dns,
            "maxPods": c.max_pods,
            "podCIDR": c.pod_cidr,
            "cgroupRoot": c.cgroup_root,
            "cgroupDriver": "cgroupfs",
            "resolvConf": c.resolv_conf,
            "containerLogMaxSize": c.log_max_size.to_string(),
            "containerLogMaxFiles": c.log_max_files,
        }})
    }
}

/// Hands an upgrade request on to the runtime's streaming server, byte for byte.
async fn tunnel(req: Request<Incoming>, url: &str) -> Result<Answer, Refusal> {
    let uri: http::Uri = url
        .parse()
        .map_err(|e| Refusal::internal(format!("streaming address {url}: {e}")))?;
    let answer = knarr_streaming::tunnel(req, &knarr_streaming::Upstream::plain(uri))
        .await
        .map_err(|e| Refusal::internal(e.to_string()))?;
    Ok(answer.map(|b| b.map_err(std::io::Error::other).boxed()))
}

async fn ask<T>(e: &Entry, msg: impl FnOnce(oneshot::Sender<T>) -> Msg) -> Option<T> {
    let (tx, rx) = oneshot::channel();
    e.handle.send(msg(tx));
    rx.await.ok()
}

fn pod_list(items: Vec<Pod>) -> serde_json::Value {
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

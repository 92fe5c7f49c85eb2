//! Probes: one timer task per probe of a running container; only what changes is told.
use std::{
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    events::Kind,
    worker::{Msg, Shared},
};

mod grpc;
pub mod http;

/// What probes find about a container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// The startup probe has succeeded.
    Started,
    /// The readiness probe changed its mind.
    Ready(bool),
    /// A probe has failed often enough that the container is to be killed.
    Failed(&'static str),
}

/// What a prober needs to know.
#[derive(Clone)]
pub struct Target {
    /// What all pods share.
    pub sh: Arc<Shared>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// The instance.
    pub id: String,
    /// Address to connect to.
    pub ip: String,
    /// When the instance started.
    pub started: Timestamp,
    /// Where findings go.
    pub tx: mpsc::UnboundedSender<Msg>,
}

/// The probers of one container instance; they end when this is dropped.
#[derive(Default)]
pub struct Set {
    startup: Option<AbortHandle>,
    readiness: Option<AbortHandle>,
    liveness: Option<AbortHandle>,
}

impl Drop for Set {
    fn drop(&mut self) {
        for h in [&self.startup, &self.readiness, &self.liveness] {
            if let Some(h) = h {
                h.abort();
            }
        }
    }
}

impl Set {
    /// Starts what should run: the startup probe first, the others after it.
    pub fn keep(&mut self, t: Target, started: bool) {
        let c = t.container.clone();
        if !started {
            if let (None, Some(p)) = (&self.startup, c.startup_probe) {
                self.startup = Some(spawn(t, p, "Startup"));
            }
            return;
        }
        if let Some(h) = self.startup.take() {
            h.abort();
        }
        if let (None, Some(p)) = (&self.readiness, c.readiness_probe) {
            self.readiness = Some(spawn(t.clone(), p, "Readiness"));
        }
        if let (None, Some(p)) = (&self.liveness, c.liveness_probe) {
            self.liveness = Some(spawn(t, p, "Liveness"));
        }
    }

    /// Ends the probers that could ask for the container's death.
    pub fn stop_killers(&mut self) {
        for h in [self.startup.take(), self.liveness.take()].into_iter().flatten() {
            h.abort();
        }
    }
}

fn spawn(t: Target, p: Probe, which: &'static str) -> AbortHandle {
    tokio::spawn(run(t, p, which)).abort_handle()
}

fn secs(v: Option<i32>, default: u64) -> u64 {
    v.and_then(|v| u64::try_from(v).ok()).unwrap_or(default)
}

async fn run(t: Target, p: Probe, which: &'static str) {
    let period = Duration::from_secs(secs(p.period_seconds, 10).max(1));
    let delay = Duration::from_secs(secs(p.initial_delay_seconds, 0));
    let need_ok = secs(p.success_threshold, 1).max(1);
    let need_bad = secs(p.failure_threshold, 3).max(1);
    let age = Timestamp::now().duration_since(t.started);
    let age = Duration::try_from(age).unwrap_or_default();
    if let Some(left) = delay.checked_sub(age) {
        tokio::time::sleep(left).await;
    }
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut ok, mut bad) = (0u64, 0u64);
    let mut told = None;
    // until the first success, ask soon again: a process needs moments to listen
    let mut eager: Vec<u64> = if which == "Readiness" || which == "Startup" {
        vec![800, 400, 200, 100]
    } else {
        Vec::new()
    };
    loop {
        ticks.tick().await;
        let result = once(&t, &p).await;
        match result {
            Ok(()) => {
                ok += 1;
                bad = 0;
                eager.clear();
                if ok >= need_ok && told != Some(true) {
                    told = Some(true);
                    let finding = match which {
                        "Startup" => Finding::Started,
                        "Readiness" => Finding::Ready(true),
                        _ => continue,
                    };
                    let _ = t.tx.send(Msg::Probe(t.id.clone(), finding));
                    if which == "Startup" {
                        return;
                    }
                }
            }
            Err(text) => {
                ok = 0;
                if let Some(ms) = eager.pop()
                    && u128::from(ms) < period.as_millis()
                {
                    // does not count as one of the failures
                    ticks.reset_after(Duration::from_millis(ms));
                    continue;
                }
                bad += 1;
                t.sh.recorder.pod(
                    &t.pod,
                    Some(&t.container.name),
                    Kind::Warning,
                    "Unhealthy",
                    format!("{which} probe failed: {text}"),
                );
                if bad < need_bad {
                    continue;
                }
                match which {
                    "Readiness" => {
                        if told != Some(false) {
                            told = Some(false);
                            let _ = t.tx.send(Msg::Probe(t.id.clone(), Finding::Ready(false)));
                        }
                    }
                    "Startup" => {
                        let _ = t.tx.send(Msg::Probe(t.id.clone(), Finding::Failed("startup")));
                        return;
                    }
                    _ => {
                        let _ = t.tx.send(Msg::Probe(t.id.clone(), Finding::Failed("liveness")));
                        return;
                    }
                }
            }
        }
    }
}

/// One try of a probe; an error is what `Unhealthy` says.
async fn once(t: &Target, p: &Probe) -> Result<(), String> {
    let timeout = Duration::from_secs(secs(p.timeout_seconds, 1).max(1));
    if let Some(e) = &p.exec {
        let cmd = e.command.clone().unwrap_or_default();
        return match t.sh.cri.exec_sync(&t.id, cmd, timeout).await {
            Ok(out) if out.exit_code == 0 => Ok(()),
            Ok(out) => Err(String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat())
                .chars()
                .take(10 * 1024)
                .collect()),
            Err(e) if e.code() == tonic::Code::DeadlineExceeded => Err(format!(
                "command timed out: {} timed out after {}s",
                serde_json::to_string(&p.exec.as_ref().map(|e| &e.command)).unwrap_or_default(),
                timeout.as_secs()
            )),
            Err(e) => Err(e.message().to_owned()),
        };
    }
    if let Some(h) = &p.http_get {
        let target = http::Target::of_action(h, &t.container, &t.ip)?;
        return http::probe(&target, timeout).await;
    }
    if let Some(s) = &p.tcp_socket {
        let port = port(&s.port, &t.container)?;
        let host = s.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| t.ip.clone());
        let addr = join(&host, port);
        return match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(&addr)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(format!("dial tcp {addr}: connect: {}", short(&e))),
            Err(_) => Err(format!("dial tcp {addr}: i/o timeout")),
        };
    }
    if let Some(g) = &p.grpc {
        let port = u16::try_from(g.port).map_err(|_| "invalid port".to_owned())?;
        let service = g.service.clone().unwrap_or_default();
        return grpc::check(&join(&t.ip, port), &service, timeout).await;
    }
    Err("missing probe handler".into())
}

/// `host:port`, with brackets where needed.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// An I/O error without its number.
pub fn short(e: &std::io::Error) -> String {
    let s = e.to_string();
    s.split(" (os error").next().unwrap_or(&s).to_lowercase()
}

/// A port by number or by the name of a container port.
pub fn port(p: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match p {
        IntOrString::Int(n) => *n,
        IntOrString::String(s) => match c
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(s))
        {
            Some(p) => p.container_port,
            None => s
                .parse()
                .map_err(|_| format!("couldn't find port: {s} in pod"))?,
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

//! What acts on a cluster: controllers and scheduler, each seen through kubectl.
//!
//! One node serves all functions; each has a namespace of its own and they run side by side, so
//! that what one waits for costs the others nothing. `WORKLOADS=part-of-a-name` runs some only.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use knarr_e2e::{Cluster, image::BUSYBOX};
use serde_json::Value;

#[path = "workloads/apps.rs"]
mod apps;
#[path = "workloads/batch.rs"]
mod batch;
#[path = "workloads/lifecycle.rs"]
mod lifecycle;
#[path = "workloads/placement.rs"]
mod placement;
#[path = "workloads/policy.rs"]
mod policy;
#[path = "workloads/storage.rs"]
mod storage;

/// How many functions run at once.
const SIDE_BY_SIDE: usize = 6;

/// A namespace of a test's own.
struct Space<'a> {
    cluster: &'a Cluster,
    name: &'a str,
}

type Check = fn(&Space<'_>) -> Result<()>;

impl Space<'_> {
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.name];
        all.extend(arguments);
        self.cluster.kubectl(&all)
    }
    fn apply(&self, manifest: &str) -> Result<String> {
        self.cluster.kubectl_input(&["-n", self.name, "apply", "-f", "-"], manifest)
    }
    fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["-n", self.name];
        all.extend(arguments);
        self.cluster.get(&all)
    }
    /// The items of a list.
    fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        Ok(self.get(arguments)?["items"].as_array().cloned().unwrap_or_default())
    }
    fn wait(&self, arguments: &[&str], condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut all = vec!["-n", self.name];
        all.extend(arguments);
        self.cluster.wait_for(&all, condition)
    }
    /// Waits until a list's items are as wanted.
    fn wait_list(&self, arguments: &[&str], f: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let list = self.wait(arguments, |l| l["items"].as_array().is_some_and(|i| f(i)))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
    /// Waits until an object is no more.
    fn wait_gone(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["get", "-o", "name", "--ignore-not-found"];
        all.extend(arguments);
        let begin = Instant::now();
        loop {
            let left = self.kubectl(&all)?;
            if left.trim().is_empty() {
                return Ok(());
            }
            if begin.elapsed() > knarr_e2e::PATIENCE {
                bail!("{arguments:?} is still there");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    /// Waits for an event of this reason about an object; gives its message.
    fn event(&self, about: &str, reason: &str) -> Result<String> {
        let name = format!("involvedObject.name={about},reason={reason}");
        let list = self.wait_list(&["events", "--field-selector", &name], |l| !l.is_empty())?;
        Ok(list[0]["message"].as_str().unwrap_or_default().to_owned())
    }
    /// Waits until all replicas of a workload serve its present template.
    fn rolled_out(&self, what: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", what, "--timeout=60s"]).map(drop)
    }
}

/// A condition's status and reason.
fn condition<'a>(object: &'a Value, kind: &str) -> (&'a str, &'a str) {
    object["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["type"] == kind))
        .map_or(("", ""), |c| {
            (c["status"].as_str().unwrap_or(""), c["reason"].as_str().unwrap_or(""))
        })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// A pod's spec with one busybox container that runs a shell line.
fn spec(shell: &str, more: &str) -> String {
    let line = serde_json::to_string(shell).unwrap_or_default();
    format!(
        "{{terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{BUSYBOX}', \
         command: [sh, -c, {line}]}}]{more}}}"
    )
}

/// A pod template with the label `app`.
fn template(app: &str, shell: &str, more: &str) -> String {
    format!("{{metadata: {{labels: {{app: {app}}}}}, spec: {}}}", spec(shell, more))
}

fn pod(name: &str, shell: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, \
         spec: {}}}",
        spec(shell, more)
    )
}

const SLEEP: &str = "sleep 100000";
/// Lets a pod wait for a node for ever.
const NOWHERE: &str = ", nodeSelector: {nowhere: 'true'}";

fn all() -> Vec<(&'static str, Check)> {
    // The slowest first.
    [
        batch::CHECKS,
        lifecycle::CHECKS,
        storage::CHECKS,
        apps::CHECKS,
        policy::CHECKS,
        placement::CHECKS,
    ]
    .concat()
}

#[test]
fn workloads() {
    let only = std::env::var("WORKLOADS").unwrap_or_default();
    let checks: Vec<_> = all().into_iter().filter(|(n, _)| n.contains(&only)).collect();
    let cluster = Cluster::up(&[]).unwrap();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some((name, check)) = checks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let space = Space { cluster: &cluster, name };
                    let begin = Instant::now();
                    let run = || {
                        cluster.kubectl(&["create", "namespace", name])?;
                        check(&space)
                    };
                    let result = catch_unwind(AssertUnwindSafe(run))
                        .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")));
                    eprintln!("{name}: {} ({:.1?})",
                        if result.is_ok() { "ok" } else { "FAILED" }, begin.elapsed());
                    if let Err(e) = result {
                        let seen = space.kubectl(&["get", "events"]).unwrap_or_default();
                        let text = format!("--- {name}: {e:#}\n{seen}");
                        failures.lock().unwrap().push(text);
                    }
                    let _ = cluster.kubectl(&["delete", "namespace", name, "--wait=false"]);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

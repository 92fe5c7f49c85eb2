//! A pod's row: the status that people read is derived from its containers.

use serde_json::Value;

use super::cells::{View, int, items, text};
use crate::time;

struct Restarts {
    count: i64,
    last: Option<time::Instant>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += int(status, "/restartCount");
        let finished = status.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str).and_then(time::parse);
        self.last = self.last.max(finished);
    }
}

fn ended(terminated: &Value, prefix: &str) -> String {
    let reason = text(terminated, "/reason");
    if !reason.is_empty() {
        return format!("{prefix}{reason}");
    }
    match int(terminated, "/signal") {
        0 => format!("{prefix}ExitCode:{}", int(terminated, "/exitCode")),
        signal => format!("{prefix}Signal:{signal}"),
    }
}

fn condition(pod: &Value, kind: &str) -> bool {
    items(pod, "/status/conditions").find(|c| text(c, "/type") == kind).is_some_and(|c| text(c, "/status") == "True")
}

fn some_condition(pod: &Value, kind: &str) -> bool {
    items(pod, "/status/conditions").any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}

pub(super) fn row(view: &View<'_>) -> Vec<Value> {
    let pod = view.object;
    let phase = text(pod, "/status/phase");
    let mut reason = match text(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    if items(pod, "/status/conditions").any(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    // Init containers that restart are sidecars: they count as containers.
    let sidecar = |name: &str| items(pod, "/spec/initContainers").filter(|c| text(c, "/name") == name).last().is_some_and(|c| text(c, "/restartPolicy") == "Always");
    let inits = items(pod, "/spec/initContainers").count();
    let total = items(pod, "/spec/containers").count() + items(pod, "/spec/initContainers").filter(|c| text(c, "/restartPolicy") == "Always").count();
    let mut ready = 0;
    let mut all = Restarts { count: 0, last: None };
    let mut sidecars = Restarts { count: 0, last: None };
    let mut initializing = false;
    for (i, status) in items(pod, "/status/initContainerStatuses").enumerate() {
        all.add(status);
        let restartable = sidecar(text(status, "/name"));
        if restartable {
            sidecars.add(status);
        }
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        match terminated {
            Some(t) if int(t, "/exitCode") == 0 => continue,
            _ => {}
        }
        if restartable && status.get("started") == Some(&Value::Bool(true)) {
            ready += usize::from(status.get("ready") == Some(&Value::Bool(true)));
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        reason = match terminated {
            Some(t) => ended(t, "Init:"),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{inits}"),
        };
        initializing = true;
        break;
    }
    if !initializing || condition(pod, "Initialized") {
        all = sidecars;
        let (mut running, mut failure) = (false, String::new());
        let statuses: Vec<&Value> = items(pod, "/status/containerStatuses").collect();
        for status in statuses.into_iter().rev() {
            all.add(status);
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(t) = status.pointer("/state/terminated").filter(|t| !t.is_null()) {
                reason = ended(t, "");
                if int(t, "/exitCode") != 0 {
                    failure.clone_from(&reason);
                }
            } else if status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some_and(|r| !r.is_null()) {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && some_condition(pod, "Ready") {
                reason = "Running".into();
            } else if !failure.is_empty() {
                reason = failure;
            } else if running {
                reason = "NotReady".into();
            }
        }
    }
    if view.deleted() {
        if text(pod, "/status/reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    let restarts = match all.last {
        Some(last) if all.count != 0 => format!("{} ({} ago)", all.count, time::human(view.now.seconds - last.seconds)),
        _ => all.count.to_string(),
    };
    let or_none = |path: &str| match text(pod, path) {
        "" => Value::from("<none>"),
        value => value.into(),
    };
    let gates: Vec<&Value> = items(pod, "/spec/readinessGates").collect();
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        format!("{}/{}", gates.iter().filter(|g| condition(pod, text(g, "/conditionType"))).count(), gates.len())
    };
    vec![
        view.name(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        view.age(),
        or_none("/status/podIPs/0/ip"),
        or_none("/spec/nodeName"),
        or_none("/status/nominatedNodeName"),
        gates.into(),
    ]
}

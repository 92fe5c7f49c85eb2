//! The trace for people.

use serde_json::Value;

/// The trace as lines, the API object at the top and the process at the bottom.
pub(super) fn text(trace: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let pod = &trace["pod"];
    let mut put = |text: String| out.push(text);

    put(format!("pod {}/{}", show(&pod["namespace"]), show(&pod["name"])));
    put("9 control plane".into());
    put(format!(
        "    object      uid {}  resourceVersion {}  generation {}",
        show(&pod["uid"]),
        show(&pod["resourceVersion"]),
        show(&pod["generation"])
    ));
    for owner in items(&trace["owners"]) {
        put(format!(
            "    owned by    {} {}  replicas {}/{}",
            show(&owner["kind"]),
            show(&owner["name"]),
            show(&owner["readyReplicas"]),
            show(&owner["replicas"])
        ));
    }
    if !pod["static"].is_null() {
        put(format!("    source      {} (static pod, this is its mirror)", show(&pod["static"])));
    }
    let scheduling = &trace["scheduling"];
    put(format!(
        "    scheduled   {} by {}  {}",
        show(&scheduling["node"]),
        show(&scheduling["scheduler"]),
        show(&scheduling["event"]["message"])
    ));
    for node in items(&scheduling["decision"]["nodes"]) {
        put(format!("                {node}"));
    }

    let kubelet = &trace["kubelet"];
    put("8 kubelet".into());
    put(format!(
        "    status      {}  QoS {}  pod IP {}  node IP {}",
        show(&kubelet["phase"]),
        show(&kubelet["qosClass"]),
        show(&pod["podIP"]),
        show(&pod["hostIP"])
    ));
    let conditions: Vec<_> = items(&kubelet["conditions"])
        .map(|c| format!("{}={}", show(&c["type"]), show(&c["status"])))
        .collect();
    put(format!("    conditions  {}", conditions.join(" ")));
    for status in items(&kubelet["containerStatuses"]) {
        let state = status["state"].as_object().and_then(|s| s.keys().next().cloned());
        put(format!(
            "    container   {}  {}  ready {}  restarts {}",
            show(&status["name"]),
            state.unwrap_or_default(),
            show(&status["ready"]),
            show(&status["restartCount"])
        ));
    }

    let runtime = &trace["runtime"];
    if let Some(error) = runtime["error"].as_str() {
        put(format!("7 pod         {error}"));
        return out;
    }
    let sandbox = &runtime["sandbox"];
    put("7 pod".into());
    put(format!(
        "    sandbox     {}  {}  address {}  pause pid {}",
        short(&sandbox["id"]),
        show(&sandbox["state"]),
        show(&sandbox["ip"]),
        show(&sandbox["pausePid"])
    ));
    for container in items(&runtime["containers"]) {
        layers_of(container, &mut put);
    }
    put("3 namespaces    (inode: who is in it)".into());
    for (kind, list) in runtime["namespaces"].as_object().into_iter().flatten() {
        let text: Vec<_> = items(list)
            .map(|ns| {
                let who: Vec<_> = items(&ns["sharedBy"]).map(show).collect();
                let host = if ns["host"] == true { " (the host's)" } else { "" };
                format!("{}: {}{host}", show(&ns["inode"]), who.join(", "))
            })
            .collect();
        put(format!("    {kind:<11} {}", text.join("   ")));
    }
    out
}

fn layers_of(container: &Value, put: &mut impl FnMut(String)) {
    let process = &container["process"];
    put(format!("container {}", show(&container["name"])));
    put(format!(
        "  6 runtime     {}  {}  attempt {}  shim pid {}",
        short(&container["id"]),
        show(&container["state"]),
        show(&container["attempt"]),
        show(&container["shim"])
    ));
    put(format!("                image {}", show(&container["image"])));
    put(format!("                bundle {}", show(&container["bundle"])));
    put(format!("                log {}", show(&container["logPath"])));
    if process.is_null() {
        put(format!(
            "                not running: exit code {} {}",
            show(&container["exitCode"]),
            show(&container["reason"])
        ));
        return;
    }
    let root = &process["rootfs"];
    put(format!("  5 rootfs      {} {}", show(&root["type"]), show(&root["flags"])));
    for layer in items(&root["readOnlyLayers"]) {
        put(format!("                read-only {}", show(layer)));
    }
    put(format!("                writable  {}", show(&root["writableLayer"])));
    let cgroup = &process["cgroup"];
    let (memory, cpu) = (&cgroup["memory"], &cgroup["cpu"]);
    put(format!("  4 cgroup      {}", show(&cgroup["paths"]["memory"])));
    put(format!(
        "                memory {} of {}  OOM kills {}",
        show(&memory["usage"]),
        limit(&memory["limit"]),
        show(&memory["oomKills"])
    ));
    put(format!(
        "                cpu {} µs per {} µs  shares {}  throttled {} of {} periods, {} ns",
        limit(&cpu["quotaMicroseconds"]),
        show(&cpu["periodMicroseconds"]),
        show(&cpu["shares"]),
        show(&cpu["throttledPeriods"]),
        show(&cpu["periods"]),
        show(&cpu["throttledNanoseconds"])
    ));
    put(format!(
        "                tasks {} of {}",
        show(&cgroup["pids"]["current"]),
        limit(&cgroup["pids"]["limit"])
    ));
    put(format!(
        "  2 clone       pid {} ({} inside)  parent {}  uid {}  seccomp {}  no_new_privs {}",
        show(&process["pid"]),
        show(&process["pidInNamespace"]),
        show(&process["parent"]),
        show(&process["uid"]),
        show(&process["seccomp"]),
        show(&process["noNewPrivs"])
    ));
    let argv: Vec<_> = items(&process["argv"]).map(|a| format!("{a}")).collect();
    put(format!("  1 execve      {} [{}]", show(&process["exe"]), argv.join(", ")));
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn limit(value: &Value) -> String {
    if value.is_null() { "no limit".into() } else { show(value) }
}

/// The first characters of an identifier, as runtimes print it.
fn short(value: &Value) -> String {
    show(value).chars().take(13).collect()
}

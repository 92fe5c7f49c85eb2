//! Owners, namespaces, nodes: how things end.

use super::*;

pub const CHECKS: &[(&str, Check)] = &[
    ("no-execute", no_execute),
    ("cascades", cascades),
    ("finalizers", finalizers),
    ("mirroring", mirroring),
];

fn set(name: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: {name}}}, spec: {{\
         replicas: 2, selector: {{matchLabels: {{app: {name}}}}}, template: {}}}}}",
        template(name, SLEEP, NOWHERE)
    )
}

fn cascades(s: &Space<'_>) -> Result<()> {
    for name in ["orphan", "foreground", "background"] {
        s.apply(&set(name))?;
        s.wait_list(&["pods", "-l", &format!("app={name}")], |l| l.len() == 2)?;
    }
    s.kubectl(&["delete", "replicaset", "orphan", "--cascade=orphan"])?;
    s.wait_gone(&["replicaset", "orphan"])?;
    let left = s.list(&["pods", "-l", "app=orphan"])?;
    ensure!(left.len() == 2, "{}", left.len());
    ensure!(left.iter().all(|p| p["metadata"]["ownerReferences"].is_null()), "{left:#?}");

    // A dependent that is held holds its owner.
    let pods = s.list(&["pods", "-l", "app=foreground"])?;
    let held = name(&pods[0]).to_owned();
    let finalizers = |list: &str| {
        let patch = format!("{{\"metadata\":{{\"finalizers\":{list}}}}}");
        s.kubectl(&["patch", "pod", &held, "--type=merge", "-p", &patch])
    };
    finalizers(r#"["example.org/hold"]"#)?;
    s.kubectl(&["delete", "replicaset", "foreground", "--cascade=foreground", "--wait=false"])?;
    s.wait_list(&["pods", "-l", "app=foreground"], |l| {
        l.len() == 1 && !l[0]["metadata"]["deletionTimestamp"].is_null()
    })?;
    let owner = s.get(&["replicaset", "foreground"])?;
    ensure!(owner["metadata"]["finalizers"][0] == "foregroundDeletion", "{owner:#}");
    finalizers("null")?;
    s.wait_gone(&["replicaset", "foreground"])?;

    s.kubectl(&["delete", "replicaset", "background"])?;
    s.wait_list(&["pods", "-l", "app=background"], <[Value]>::is_empty)?;
    Ok(())
}

fn finalizers(s: &Space<'_>) -> Result<()> {
    s.kubectl(&["create", "namespace", "held"])?;
    let held = Space { cluster: s.cluster, name: "held" };
    held.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, finalizers: [example.org/hold]}}",
    )?;
    s.kubectl(&["delete", "namespace", "held", "--wait=false"])?;
    let n = s.wait(&["namespace", "held"], |n| {
        condition(n, "NamespaceFinalizersRemaining") == ("True", "SomeFinalizersRemain")
    })?;
    ensure!(n["status"]["phase"] == "Terminating", "{n:#}");
    ensure!(condition(&n, "NamespaceContentRemaining") == ("True", "SomeResourcesRemain"), "{n:#}");
    let refused = held.kubectl(&["create", "configmap", "late"]).unwrap_err().to_string();
    ensure!(refused.contains("because it is being terminated"), "{refused}");
    held.kubectl(&["patch", "configmap", "c", "--type=merge", "-p",
        r#"{"metadata":{"finalizers":null}}"#])?;
    s.wait_gone(&["namespace", "held"])?;
    Ok(())
}

fn mirroring(s: &Space<'_>) -> Result<()> {
    s.apply("{apiVersion: v1, kind: Service, metadata: {name: out}, spec: {ports: [{port: 80}]}}")?;
    s.apply(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: out}, subsets: [{\
         addresses: [{ip: 192.0.2.7}], ports: [{port: 8080}]}]}",
    )?;
    let slices = |f: &dyn Fn(&[Value]) -> bool| {
        s.wait_list(&["endpointslices", "-l", "kubernetes.io/service-name=out"], f)
    };
    let found = slices(&|l| l.len() == 1)?;
    let by = &found[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    ensure!(by == "endpointslicemirroring-controller.k8s.io", "{by}");
    ensure!(found[0]["endpoints"][0]["addresses"][0] == "192.0.2.7", "{found:#?}");
    s.kubectl(&["patch", "endpoints", "out", "--type=merge", "-p",
        r#"{"subsets":[{"addresses":[{"ip":"192.0.2.8"}],"ports":[{"port":8080}]}]}"#])?;
    slices(&|l| l.len() == 1 && l[0]["endpoints"][0]["addresses"][0] == "192.0.2.8")?;
    s.kubectl(&["delete", "endpoints", "out"])?;
    slices(&<[Value]>::is_empty)?;
    Ok(())
}

/// A node that only the API knows.
fn node(s: &Space<'_>, name: &str, more: &str) -> Result<()> {
    s.apply(&format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{paper: {name}}}}}, \
         spec: {{taints: [{{key: paper, effect: NoSchedule}}]}}}}"
    ))?;
    let now = "2999-01-01T00:00:00Z";
    let status = format!(
        "{{\"status\":{{\"allocatable\":{{\"cpu\":\"1\",\"memory\":\"1Gi\",\"pods\":\"10\"{more}}},\
         \"conditions\":[{{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"KubeletReady\",\
         \"lastHeartbeatTime\":\"{now}\"}}]}}}}"
    );
    s.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status])?;
    Ok(())
}

fn no_execute(s: &Space<'_>) -> Result<()> {
    node(s, "paper-a", "")?;
    let on = |tolerate: &str| {
        format!(", nodeName: paper-a, tolerations: [{{key: paper, operator: Exists}}{tolerate}]")
    };
    s.apply(&pod("at-once", SLEEP, &on("")))?;
    let later = ", {key: bad, operator: Exists, effect: NoExecute, tolerationSeconds: 2}";
    s.apply(&pod("later", SLEEP, &on(later)))?;
    s.apply(&pod("stays", SLEEP, &on(", {key: bad, operator: Exists, effect: NoExecute}")))?;
    s.kubectl(&["taint", "node", "paper-a", "bad=x:NoExecute"])?;
    s.wait_gone(&["pod", "at-once"])?;
    s.event("at-once", "TaintManagerEviction")?;
    s.wait_gone(&["pod", "later"])?;
    let stays = s.get(&["pod", "stays"])?;
    ensure!(stays["metadata"]["deletionTimestamp"].is_null(), "{stays:#}");
    // A pod whose node is gone is collected.
    s.kubectl(&["delete", "node", "paper-a"])?;
    s.wait_gone(&["pod", "stays"])?;
    Ok(())
}

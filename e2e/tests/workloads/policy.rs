//! Budgets, quotas.

use super::*;

pub const CHECKS: &[(&str, Check)] = &[("budget", budget), ("quota", quota)];

fn budget(s: &Space<'_>) -> Result<()> {
    s.apply(&format!(
        "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: web}}, spec: {{\
         replicas: 2, selector: {{matchLabels: {{app: web}}}}, template: {}}}}}",
        template("web", SLEEP, "")
    ))?;
    s.apply(
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, spec: {\
         minAvailable: 2, selector: {matchLabels: {app: web}}}}",
    )?;
    let b = s.wait(&["pdb", "web"], |b| b["status"]["currentHealthy"] == 2)?;
    ensure!(b["status"]["desiredHealthy"] == 2 && b["status"]["expectedPods"] == 2, "{b:#}");
    ensure!(condition(&b, "DisruptionAllowed") == ("False", "InsufficientPods"), "{b:#}");
    let pods = s.list(&["pods"])?;
    let one = name(&pods[0]).to_owned();
    let evict = || {
        let path = format!("/api/v1/namespaces/{}/pods/{one}/eviction", s.name);
        let body = format!(
            "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{one}\",\
             \"namespace\":\"{}\"}}}}",
            s.name
        );
        s.cluster.kubectl_input(&["create", "--raw", &path, "-f", "-"], &body)
    };
    let refused = evict().unwrap_err().to_string();
    ensure!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    s.kubectl(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":1}}"#])?;
    s.wait(&["pdb", "web"], |b| {
        b["status"]["disruptionsAllowed"] == 1
            && b["status"]["observedGeneration"] == b["metadata"]["generation"]
    })?;
    evict()?;
    s.wait_gone(&["pod", &one])?;
    s.wait(&["pdb", "web"], |b| {
        b["status"]["currentHealthy"] == 2 && b["status"]["disruptedPods"].as_object().is_none_or(|d| d.is_empty())
    })?;
    Ok(())
}

fn quota(s: &Space<'_>) -> Result<()> {
    s.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {\
         pods: 1, configmaps: 3}}}",
    )?;
    s.wait(&["quota", "q"], |q| q["status"]["used"]["pods"] == "0")?;
    s.apply(&pod("one", SLEEP, NOWHERE))?;
    let refused = s.apply(&pod("two", SLEEP, NOWHERE)).unwrap_err().to_string();
    ensure!(
        refused.contains("pods \"two\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
        "{refused}"
    );
    s.wait(&["quota", "q"], |q| q["status"]["used"]["pods"] == "1")?;
    s.kubectl(&["delete", "pod", "one"])?;
    s.wait(&["quota", "q"], |q| q["status"]["used"]["pods"] == "0")?;
    s.apply(&pod("two", SLEEP, NOWHERE))?;
    Ok(())
}

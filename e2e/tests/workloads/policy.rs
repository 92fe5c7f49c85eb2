//! Budgets, quotas, certificates.

use super::*;

pub const CHECKS: &[(&str, Check)] = &[("budget", budget), ("quota", quota), ("certificates", certificates)];

/// O=dev, CN=alice.
const ALICE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIYU1JR0FBZ0VBTUI0eEREQUtCZ05WQkFvTUEyUmxkakVPTUF3R0ExVUVBd3dGWVd4cFkyVXdXVEFUQmdjcQpoa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVNaR20raEwrMWEyeXdScDB5cWY5a3RpZDkycXN1UHJEb3BUYk5LCkZncGNNTjdGamt0cEVZNTdjdzhqZVlBRUhBNHlQUjRIQTBMRS8wNEYwL2poRmEzdm9BQXdDZ1lJS29aSXpqMEUKQXdJRFNRQXdSZ0loQVBQb3NnMVhhMU1rd2x0MXNOekl1dHc5dG9tMndmUjJ2cENvT1UyaXY0cDRBaUVBL2hYaQpkV1FlUXYvZDQ3blFZRFZFNWJMd2piNmp2Sno5NnRPa2xDVlljU009Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";

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

fn certificates(s: &Space<'_>) -> Result<()> {
    let request = |name: &str, signer: &str| {
        s.apply(&format!(
            "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, \
             metadata: {{name: {name}}}, spec: {{request: {ALICE}, \
             signerName: kubernetes.io/{signer}, expirationSeconds: 3600, \
             usages: [client auth, digital signature]}}}}"
        ))
    };
    request("alice", "kube-apiserver-client")?;
    let r = s.get(&["csr", "alice"])?;
    ensure!(r["status"]["certificate"].is_null(), "nobody approved it: {r:#}");
    s.kubectl(&["certificate", "approve", "alice"])?;
    let r = s.wait(&["csr", "alice"], |r| !r["status"]["certificate"].is_null())?;
    ensure!(condition(&r, "Approved").0 == "True", "{r:#}");
    let pem = text(&r["status"]["certificate"]);
    ensure!(pem.starts_with("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS"), "{pem}");
    // What a signer does not sign fails, also when it is approved.
    request("no-kubelet", "kubelet-serving")?;
    s.kubectl(&["certificate", "approve", "no-kubelet"])?;
    s.wait(&["csr", "no-kubelet"], |r| {
        condition(r, "Failed") == ("True", "SignerValidationFailure")
    })?;
    request("denied", "kube-apiserver-client")?;
    s.kubectl(&["certificate", "deny", "denied"])?;
    let table = s.kubectl(&["get", "csr", "denied"])?;
    ensure!(table.contains("Denied"), "{table}");
    s.kubectl(&["delete", "csr", "alice", "no-kubelet", "denied"])?;
    Ok(())
}

//! Volumes and claims.

use super::*;

pub const CHECKS: &[(&str, Check)] = &[
    ("claims", claims),
    ("late-binding", late_binding),
    ("ephemeral", ephemeral),
];

/// A volume in a folder of the node.
fn volume(s: &Space<'_>, name: &str, class: &str, more: &str) -> Result<String> {
    s.apply(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{\
         capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: {class}, \
         persistentVolumeReclaimPolicy: Retain, \
         hostPath: {{path: {}/{name}, type: DirectoryOrCreate}}{more}}}}}",
        s.cluster.data_dir().join("volumes").display()
    ))
}

fn claim(name: &str, class: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {}}}",
        claim_spec(class)
    )
}

fn claim_spec(class: &str) -> String {
    format!(
        "{{accessModes: [ReadWriteOnce], storageClassName: {class}, \
         resources: {{requests: {{storage: 500Mi}}}}}}"
    )
}

fn using(name: &str, claim: &str, shell: &str) -> String {
    let volumes = format!(", volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]");
    pod(name, shell, &volumes).replacen(
        "command:",
        "volumeMounts: [{name: v, mountPath: /data}], command:",
        1,
    )
}

fn is_phase(phase: &'static str) -> impl Fn(&Value) -> bool {
    move |o| o["status"]["phase"] == phase
}

fn claims(s: &Space<'_>) -> Result<()> {
    s.apply(&claim("c", "by-hand"))?;
    s.wait(&["pvc", "c"], is_phase("Pending"))?;
    s.apply(&using("p", "c", "echo kept > /data/file; sleep 100000"))?;
    s.wait(&["pod", "p"], |p| condition(p, "PodScheduled") == ("False", "Unschedulable"))?;
    let said = s.event("p", "FailedScheduling")?;
    ensure!(said.contains("pod has unbound immediate PersistentVolumeClaims"), "{said}");
    volume(s, "by-hand-1", "by-hand", "")?;
    let c = s.wait(&["pvc", "c"], is_phase("Bound"))?;
    ensure!(c["spec"]["volumeName"] == "by-hand-1", "{c:#}");
    ensure!(c["status"]["capacity"]["storage"] == "1Gi", "{c:#}");
    ensure!(c["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] == "yes", "{c:#}");
    let v = s.wait(&["pv", "by-hand-1"], is_phase("Bound"))?;
    ensure!(v["spec"]["claimRef"]["uid"] == c["metadata"]["uid"], "{v:#}");
    s.wait(&["pod", "p"], |p| condition(p, "Ready").0 == "True")?;
    // A claim in use stays until its pod is gone.
    s.kubectl(&["delete", "pvc", "c", "--wait=false"])?;
    std::thread::sleep(Duration::from_millis(500));
    let c = s.get(&["pvc", "c"])?;
    ensure!(c["metadata"]["finalizers"][0] == "kubernetes.io/pvc-protection", "{c:#}");
    s.kubectl(&["delete", "pv", "by-hand-1", "--wait=false"])?;
    let v = s.get(&["pv", "by-hand-1"])?;
    ensure!(v["metadata"]["finalizers"][0] == "kubernetes.io/pv-protection", "{v:#}");
    s.kubectl(&["delete", "pod", "p"])?;
    s.wait_gone(&["pvc", "c"])?;
    s.wait_gone(&["pv", "by-hand-1"])?;
    let file = s.cluster.data_dir().join("volumes/by-hand-1/file");
    ensure!(std::fs::read_to_string(file)?.trim() == "kept");
    Ok(())
}

fn late_binding(s: &Space<'_>) -> Result<()> {
    s.apply(
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: late}, \
         provisioner: kubernetes.io/no-provisioner, volumeBindingMode: WaitForFirstConsumer}",
    )?;
    let far = ", nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [\
        {key: nowhere, operator: Exists}]}]}}";
    volume(s, "late-far", "late", far)?;
    s.apply(&claim("c", "late"))?;
    let said = s.event("c", "WaitForFirstConsumer")?;
    ensure!(said == "waiting for first consumer to be created before binding", "{said}");
    s.apply(&using("p", "c", SLEEP))?;
    s.wait(&["pod", "p"], |p| condition(p, "PodScheduled") == ("False", "Unschedulable"))?;
    let said = s.event("p", "FailedScheduling")?;
    ensure!(said.contains("node(s) didn't find available persistent volumes to bind"), "{said}");
    volume(s, "late-near", "late", "")?;
    s.wait(&["pod", "p"], |p| condition(p, "Ready").0 == "True")?;
    let c = s.get(&["pvc", "c"])?;
    ensure!(c["spec"]["volumeName"] == "late-near", "{c:#}");
    s.kubectl(&["delete", "pod", "p"])?;
    s.kubectl(&["delete", "pvc", "c"])?;
    s.wait(&["pv", "late-near"], is_phase("Released"))?;
    s.kubectl(&["delete", "pv", "late-near", "late-far"])?;
    Ok(())
}

fn ephemeral(s: &Space<'_>) -> Result<()> {
    volume(s, "passing", "passing", "")?;
    let volumes = format!(
        ", volumes: [{{name: v, ephemeral: {{volumeClaimTemplate: {{spec: {}}}}}}}]",
        claim_spec("passing")
    );
    s.apply(&pod("p", SLEEP, &volumes))?;
    let c = s.wait(&["pvc", "p-v"], is_phase("Bound"))?;
    ensure!(c["metadata"]["ownerReferences"][0]["name"] == "p", "{c:#}");
    s.wait(&["pod", "p"], |p| condition(p, "Ready").0 == "True")?;
    s.kubectl(&["delete", "pod", "p"])?;
    s.wait_gone(&["pvc", "p-v"])?;
    s.kubectl(&["delete", "pv", "passing"])?;
    Ok(())
}

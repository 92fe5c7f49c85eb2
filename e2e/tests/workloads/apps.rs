//! Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets.

use super::*;

pub const CHECKS: &[(&str, Check)] = &[
    ("recreate", recreate),
    ("paused", paused),
    ("deadline", deadline),
    ("collision", collision),
    ("rollback", rollback),
    ("replication-controller", replication_controller),
    ("adoption", adoption),
    ("statefulset-partition", statefulset_partition),
    ("statefulset-parallel", statefulset_parallel),
    ("daemonset-update", daemonset_update),
];

fn deployment(name: &str, replicas: i32, more: &str, template: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{\
         replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}{more}, \
         template: {template}}}}}"
    )
}

fn recreate(s: &Space<'_>) -> Result<()> {
    let make = |line: &str| {
        deployment("web", 2, ", strategy: {type: Recreate}", &template("web", line, ""))
    };
    s.apply(&make("sleep 100001"))?;
    s.rolled_out("deployment/web")?;
    s.apply(&make("sleep 100002"))?;
    let begin = Instant::now();
    loop {
        let pods = s.list(&["pods"])?;
        let hashes: std::collections::BTreeSet<&str> =
            pods.iter().map(|p| text(&p["metadata"]["labels"]["pod-template-hash"])).collect();
        ensure!(hashes.len() <= 1, "old and new pods live side by side: {hashes:?}");
        let d = s.get(&["deployment", "web"])?;
        if d["status"]["updatedReplicas"] == 2 && d["status"]["availableReplicas"] == 2
            && d["status"]["observedGeneration"] == d["metadata"]["generation"]
        {
            break;
        }
        ensure!(begin.elapsed() < knarr_e2e::PATIENCE, "{d:#}");
    }
    let sets = s.list(&["replicasets"])?;
    ensure!(sets.len() == 2, "the old set is kept: {}", sets.len());
    Ok(())
}

fn paused(s: &Space<'_>) -> Result<()> {
    s.apply(&deployment("web", 1, "", &template("web", SLEEP, NOWHERE)))?;
    s.wait_list(&["replicasets"], |l| l.len() == 1)?;
    s.kubectl(&["rollout", "pause", "deployment/web"])?;
    s.wait(&["deployment", "web"], |d| {
        condition(d, "Progressing") == ("Unknown", "DeploymentPaused")
    })?;
    s.kubectl(&["set", "env", "deployment/web", "A=b"])?;
    s.kubectl(&["scale", "deployment/web", "--replicas=3"])?;
    // Scaling works while paused; a rollout does not begin.
    s.wait_list(&["replicasets"], |l| l.len() == 1 && l[0]["spec"]["replicas"] == 3)?;
    s.kubectl(&["rollout", "resume", "deployment/web"])?;
    s.wait_list(&["replicasets"], |l| l.len() == 2)?;
    Ok(())
}

fn deadline(s: &Space<'_>) -> Result<()> {
    let more = ", progressDeadlineSeconds: 2";
    s.apply(&deployment("web", 1, more, &template("web", SLEEP, NOWHERE)))?;
    let d = s.wait(&["deployment", "web"], |d| {
        condition(d, "Progressing") == ("False", "ProgressDeadlineExceeded")
    })?;
    ensure!(condition(&d, "Available") == ("False", "MinimumReplicasUnavailable"), "{d:#}");
    Ok(())
}

fn collision(s: &Space<'_>) -> Result<()> {
    let make = || deployment("web", 0, "", &template("web", SLEEP, ""));
    s.apply(&make())?;
    let sets = s.wait_list(&["replicasets"], |l| l.len() == 1)?;
    let set = name(&sets[0]).to_owned();
    s.kubectl(&["delete", "deployment", "web", "--cascade=orphan"])?;
    s.wait(&["replicaset", &set], |r| r["metadata"]["ownerReferences"].is_null())?;
    s.kubectl(&["set", "env", &format!("replicaset/{set}"), "A=b"])?;
    s.apply(&make())?;
    s.wait(&["deployment", "web"], |d| d["status"]["collisionCount"] == 1)?;
    s.wait_list(&["replicasets"], |l| {
        l.len() == 2 && l.iter().all(|r| r["metadata"]["ownerReferences"][0]["name"] == "web")
    })?;
    Ok(())
}

fn rollback(s: &Space<'_>) -> Result<()> {
    let make = |line: &str| deployment("web", 1, "", &template("web", line, ""));
    s.apply(&make("sleep 100001"))?;
    s.rolled_out("deployment/web")?;
    s.apply(&make("sleep 100002"))?;
    s.rolled_out("deployment/web")?;
    let history = s.kubectl(&["rollout", "history", "deployment/web"])?;
    ensure!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    s.kubectl(&["rollout", "undo", "deployment/web"])?;
    s.rolled_out("deployment/web")?;
    let d = s.get(&["deployment", "web"])?;
    let line = &d["spec"]["template"]["spec"]["containers"][0]["command"][2];
    ensure!(line == "sleep 100001", "{line}");
    ensure!(d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3", "{d:#}");
    ensure!(s.list(&["replicasets"])?.len() == 2, "the first set is used again");
    Ok(())
}

fn replication_controller(s: &Space<'_>) -> Result<()> {
    s.apply(&format!(
        "{{apiVersion: v1, kind: ReplicationController, metadata: {{name: rc}}, spec: {{\
         replicas: 2, selector: {{app: rc}}, template: {}}}}}",
        template("rc", SLEEP, "")
    ))?;
    s.wait(&["rc", "rc"], |r| r["status"]["availableReplicas"] == 2)?;
    let pods = s.list(&["pods"])?;
    let one = name(&pods[0]).to_owned();
    s.kubectl(&["label", "pod", &one, "app=other", "--overwrite"])?;
    s.wait(&["pod", &one], |p| p["metadata"]["ownerReferences"].is_null())?;
    s.wait_list(&["pods", "-l", "app=rc"], |l| l.len() == 2)?;
    s.kubectl(&["scale", "rc", "rc", "--replicas=1"])?;
    s.wait_list(&["pods", "-l", "app=rc"], |l| l.len() == 1)?;
    s.wait(&["rc", "rc"], |r| r["status"]["replicas"] == 1)?;
    s.event("rc", "SuccessfulDelete")?;
    Ok(())
}

fn adoption(s: &Space<'_>) -> Result<()> {
    s.apply(&pod("lone", SLEEP, NOWHERE))?;
    s.apply(&format!(
        "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: set}}, spec: {{\
         replicas: 1, selector: {{matchLabels: {{app: lone}}}}, template: {}}}}}",
        template("lone", SLEEP, NOWHERE)
    ))?;
    let p = s.wait(&["pod", "lone"], |p| {
        p["metadata"]["ownerReferences"][0]["name"] == "set"
    })?;
    ensure!(p["metadata"]["ownerReferences"][0]["controller"] == true, "{p:#}");
    s.wait(&["replicaset", "set"], |r| r["status"]["replicas"] == 1)?;
    ensure!(s.list(&["pods"])?.len() == 1);
    Ok(())
}

fn statefulset(replicas: i32, more: &str, template: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: db}}, spec: {{clusterIP: None, \
         selector: {{app: db}}, ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: db}}, spec: {{\
         serviceName: db, replicas: {replicas}, selector: {{matchLabels: {{app: db}}}}{more}, \
         template: {template}}}}}"
    )
}

fn statefulset_partition(s: &Space<'_>) -> Result<()> {
    let make = |line: &str, partition: i32| {
        let more = format!(
            ", updateStrategy: {{type: RollingUpdate, rollingUpdate: {{partition: {partition}}}}}"
        );
        statefulset(3, &more, &template("db", line, ""))
    };
    s.apply(&make("sleep 100001", 0))?;
    s.rolled_out("statefulset/db")?;
    let created: Vec<String> = s
        .list(&["pods"])?
        .iter()
        .map(|p| text(&p["metadata"]["creationTimestamp"]).to_owned())
        .collect();
    ensure!(created.is_sorted(), "one after the other: {created:?}");
    let line = |n: i32| -> Result<String> {
        let p = s.get(&["pod", &format!("db-{n}")])?;
        Ok(text(&p["spec"]["containers"][0]["command"][2]).to_owned())
    };
    s.apply(&make("sleep 100002", 2))?;
    s.wait(&["statefulset", "db"], |x| {
        x["status"]["updatedReplicas"] == 1 && x["status"]["readyReplicas"] == 3
    })?;
    ensure!(line(2)? == "sleep 100002" && line(1)? == "sleep 100001");
    // A pod below the partition comes back at the old revision.
    s.kubectl(&["delete", "pod", "db-0"])?;
    s.wait(&["statefulset", "db"], |x| x["status"]["readyReplicas"] == 3)?;
    ensure!(line(0)? == "sleep 100001", "{}", line(0)?);
    s.apply(&make("sleep 100002", 0))?;
    let done = s.wait(&["statefulset", "db"], |x| {
        x["status"]["updatedReplicas"] == 3
            && x["status"]["readyReplicas"] == 3
            && x["status"]["currentRevision"] == x["status"]["updateRevision"]
    })?;
    ensure!(done["status"]["currentReplicas"] == 3, "{done:#}");
    s.kubectl(&["scale", "statefulset", "db", "--replicas=1"])?;
    s.wait_list(&["pods"], |l| l.len() == 1 && name(&l[0]) == "db-0")?;
    Ok(())
}

fn statefulset_parallel(s: &Space<'_>) -> Result<()> {
    let more = ", podManagementPolicy: Parallel";
    s.apply(&statefulset(3, more, &template("db", SLEEP, NOWHERE)))?;
    // Nobody waits for anybody: none can become ready.
    s.wait_list(&["pods"], |l| l.len() == 3)?;
    s.kubectl(&["scale", "statefulset", "db", "--replicas=1"])?;
    s.wait_list(&["pods"], |l| l.len() == 1)?;
    Ok(())
}

fn daemonset_update(s: &Space<'_>) -> Result<()> {
    let make = |line: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: ds}}, spec: {{\
             selector: {{matchLabels: {{app: ds}}}}, template: {}}}}}",
            template("ds", line, ", nodeSelector: {kubernetes.io/os: linux}")
        )
    };
    s.apply(&make("sleep 100001"))?;
    s.rolled_out("daemonset/ds")?;
    s.apply(&make("sleep 100002"))?;
    s.rolled_out("daemonset/ds")?;
    let pods = s.wait_list(&["pods"], |l| {
        !l.is_empty() && l.iter().all(|p| p["metadata"]["deletionTimestamp"].is_null())
    })?;
    ensure!(
        pods.iter().all(|p| p["spec"]["containers"][0]["command"][2] == "sleep 100002"),
        "{pods:#?}"
    );
    ensure!(s.list(&["controllerrevisions"])?.len() == 2);
    // A pod that failed is replaced.
    let one = name(&pods[0]).to_owned();
    s.kubectl(&["patch", "pod", &one, "--subresource=status", "--type=merge", "-p",
        r#"{"status":{"phase":"Failed"}}"#])?;
    s.wait_list(&["pods"], |l| !l.is_empty() && l.iter().all(|p| name(p) != one))?;
    Ok(())
}

//! The scheduler.

use super::*;

pub const CHECKS: &[(&str, Check)] =
    &[("gates", gates), ("unfit", unfit), ("preemption", preemption)];

fn gates(s: &Space<'_>) -> Result<()> {
    s.apply(&pod("gated", SLEEP, ", schedulingGates: [{name: example.org/wait}]"))?;
    let p = s.wait(&["pod", "gated"], |p| condition(p, "PodScheduled").0 == "False")?;
    ensure!(condition(&p, "PodScheduled").1 == "SchedulingGated", "{p:#}");
    s.kubectl(&["patch", "pod", "gated", "--type=json", "-p",
        r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#])?;
    s.wait(&["pod", "gated"], |p| condition(p, "Ready").0 == "True")?;
    Ok(())
}

fn unfit(s: &Space<'_>) -> Result<()> {
    s.apply(&pod("nowhere", SLEEP, NOWHERE))?;
    let p = s.wait(&["pod", "nowhere"], |p| {
        condition(p, "PodScheduled") == ("False", "Unschedulable")
    })?;
    let said = s.event("nowhere", "FailedScheduling")?;
    ensure!(
        said.contains(" nodes are available: ")
            && said.contains("node(s) didn't match Pod's node affinity/selector")
            && said.contains(". preemption: 0/")
            && said.ends_with(" Preemption is not helpful for scheduling."),
        "{said}"
    );
    // What other pods do cannot help it: it is not tried again.
    let before = p["metadata"]["resourceVersion"].clone();
    s.apply(&pod("other", SLEEP, ""))?;
    s.wait(&["pod", "other"], |p| condition(p, "Ready").0 == "True")?;
    s.kubectl(&["delete", "pod", "other"])?;
    std::thread::sleep(Duration::from_secs(2));
    let p = s.get(&["pod", "nowhere"])?;
    let events = s.list(&["events", "--field-selector",
        "involvedObject.name=nowhere,reason=FailedScheduling"])?;
    let times: i64 = events
        .iter()
        .map(|e| e["series"]["count"].as_i64().or(e["count"].as_i64()).unwrap_or(1).max(1))
        .sum();
    ensure!(times <= 3, "told {times} times: {events:#?}");
    if times == 1 {
        ensure!(p["metadata"]["resourceVersion"] == before, "its status was written again");
    }
    Ok(())
}

fn preemption(s: &Space<'_>) -> Result<()> {
    let node = s.list(&["nodes", "-l", "!paper"])?;
    let node = name(node.first().context("no node")?).to_owned();
    s.kubectl(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p",
        r#"{"status":{"capacity":{"example.org/seat":"1"},"allocatable":{"example.org/seat":"1"}}}"#])?;
    for (name, value) in [("humble", 10), ("proud", 1000)] {
        s.apply(&format!(
            "{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {name}}}, \
             value: {value}}}"
        ))?;
    }
    let seated = |name: &str, class: &str| {
        pod(name, SLEEP, &format!(", priorityClassName: {class}")).replacen(
            "command:",
            "resources: {limits: {example.org/seat: 1}}, command:",
            1,
        )
    };
    s.apply(&seated("low", "humble"))?;
    s.wait(&["pod", "low"], |p| condition(p, "Ready").0 == "True")?;
    s.apply(&seated("lower", "humble"))?;
    s.wait(&["pod", "lower"], |p| condition(p, "PodScheduled").1 == "Unschedulable")?;
    let said = s.event("lower", "FailedScheduling")?;
    ensure!(
        said.contains("1 Insufficient example.org/seat")
            && said.contains("No preemption victims found for incoming pod"),
        "{said}"
    );
    s.apply(&seated("high", "proud"))?;
    s.wait(&["pod", "high"], |p| condition(p, "Ready").0 == "True")?;
    s.wait_gone(&["pod", "low"])?;
    let said = s.event("low", "Preempted")?;
    ensure!(said.starts_with("Preempted by pod ") && said.ends_with(&node), "{said}");
    Ok(())
}

use serde_json::json;

use super::*;
use crate::model::Sandbox;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + secs).expect("a time")
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .expect("a pod")
}

fn simple(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}))
}

/// A pod with a ready sandbox and ready volumes.
fn up() -> (Runtime, Local) {
    let mut rt = Runtime::default();
    rt.sandboxes.insert(
        "s0".into(),
        Sandbox { id: "s0".into(), attempt: 0, ready: true, created: at(0), ips: vec!["1.1.1.1".into()] },
    );
    (rt, Local { volumes: Volumes::Ready, ..Local::default() })
}

fn ctr(rt: &mut Runtime, name: &str, attempt: u32, state: CtrState, code: i32) -> String {
    let id = format!("{name}{attempt}");
    rt.containers.insert(
        id.clone(),
        Ctr {
            id: id.clone(),
            sandbox: "s0".into(),
            name: name.into(),
            attempt,
            state,
            created: at(0),
            started: Some(at(0)),
            finished: (state == CtrState::Exited).then(|| at(10)),
            exit_code: code,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_id: String::new(),
            hash: String::new(),
            user: None,
            termination_message: None,
            log_path: String::new(),
            message_file: None,
            message_policy: String::new(),
        },
    );
    id
}

fn starts(p: &Plan) -> Vec<(&str, u32)> {
    p.actions
        .iter()
        .filter_map(|a| match a {
            Action::Start { name, attempt, .. } => Some((name.as_str(), *attempt)),
            _ => None,
        })
        .collect()
}

fn kills(p: &Plan) -> Vec<&str> {
    p.actions
        .iter()
        .filter_map(|a| match a {
            Action::Kill { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_new_pod_gets_volumes_and_sandbox_together() {
    let p = plan(&simple("Always"), &Runtime::default(), &Local::default(), at(0));
    assert_eq!(p.actions, [Action::PrepareVolumes, Action::RunSandbox { attempt: 0 }]);
}

#[test]
fn what_is_under_way_is_not_started_again() {
    let busy = Local { volumes: Volumes::Preparing, sandbox_busy: true, ..Local::default() };
    assert!(plan(&simple("Always"), &Runtime::default(), &busy, at(0)).actions.is_empty());
    let (rt, mut local) = up();
    local.starting = Some("a".into());
    assert!(starts(&plan(&simple("Always"), &rt, &local, at(0))).is_empty());
}

#[test]
fn containers_start_one_at_a_time_in_order() {
    let (mut rt, local) = up();
    let p = simple("Always");
    assert_eq!(starts(&plan(&p, &rt, &local, at(0))), [("a", 0)]);
    ctr(&mut rt, "a", 0, CtrState::Running, 0);
    assert_eq!(starts(&plan(&p, &rt, &local, at(0))), [("b", 0)]);
}

#[test]
fn a_failed_step_rests() {
    let mut local = Local::default();
    local.retry.insert(SANDBOX.into(), at(5));
    local.retry.insert(VOLUMES.into(), at(3));
    let p = plan(&simple("Always"), &Runtime::default(), &local, at(0));
    assert!(p.actions.is_empty());
    assert_eq!(p.wake, Some(at(3)));
    assert_eq!(plan(&simple("Always"), &Runtime::default(), &local, at(5)).actions.len(), 2);
}

#[test]
fn restart_rules() {
    for (policy, code, restarts, complete) in [
        ("Always", 0, true, false),
        ("Always", 1, true, false),
        ("OnFailure", 0, false, true),
        ("OnFailure", 1, true, false),
        ("Never", 0, false, true),
        ("Never", 1, false, true),
    ] {
        let (mut rt, local) = up();
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        ctr(&mut rt, "a", 0, CtrState::Exited, code);
        let plan = plan(&p, &rt, &local, at(10));
        assert_eq!(!starts(&plan).is_empty(), restarts, "{policy} {code}");
        assert_eq!(plan.complete, complete, "{policy} {code}");
    }
}

#[test]
fn restart_rules_of_one_container_win() {
    let (mut rt, local) = up();
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
    ctr(&mut rt, "a", 0, CtrState::Exited, 42);
    assert_eq!(starts(&plan(&p, &rt, &local, at(10))), [("a", 1)]);
}

#[test]
fn backoff_doubles_to_the_limit_and_is_forgotten() {
    let mut b = Backoff::next(None, at(0), at(0));
    let mut delays = vec![b.delay.as_secs()];
    for _ in 0..6 {
        b = Backoff::next(Some(&b), at(0), at(0));
        delays.push(b.delay.as_secs());
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(Backoff::until(Some(&b), at(0), at(1)), Some(at(300)));
    assert_eq!(Backoff::until(Some(&b), at(0), at(300)), None);
    assert_eq!(Backoff::until(Some(&b), at(601), at(602)), None, "ran ten minutes");
    assert_eq!(Backoff::next(Some(&b), at(601), at(602)).delay, BACKOFF_FIRST);
}

#[test]
fn a_crash_loop_is_held_back_with_upstreams_words() {
    let (mut rt, mut local) = up();
    let p = pod(json!({"containers": [{"name": "a"}]}));
    ctr(&mut rt, "a", 1, CtrState::Exited, 1);
    local.backoff.insert("a".into(), Backoff { delay: SignedDuration::from_secs(80), updated: at(0) });
    let held = plan(&p, &rt, &local, at(11));
    assert!(starts(&held).is_empty());
    assert_eq!(held.wake, Some(at(90)));
    assert_eq!(
        held.held["a"],
        ("CrashLoopBackOff".into(), "back-off 1m20s restarting failed container=a pod=p_ns(u)".into())
    );
    assert_eq!(starts(&plan(&p, &rt, &local, at(90))), [("a", 2)]);
}

#[test]
fn a_restart_under_way_is_not_held_back() {
    let (mut rt, mut local) = up();
    let p = pod(json!({"containers": [{"name": "a"}]}));
    ctr(&mut rt, "a", 0, CtrState::Exited, 1);
    local.backoff.insert("a".into(), Backoff::next(None, at(10), at(10)));
    local.starting = Some("a".into());
    assert_eq!(plan(&p, &rt, &local, at(10)), Plan::default());
}

fn with_inits() -> Pod {
    pod(json!({"initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]}))
}

#[test]
fn init_containers_gate_the_others() {
    let (mut rt, mut local) = up();
    let p = with_inits();
    assert_eq!(starts(&plan(&p, &rt, &local, at(0))), [("i", 0)]);
    ctr(&mut rt, "i", 0, CtrState::Running, 0);
    assert!(starts(&plan(&p, &rt, &local, at(0))).is_empty());
    ctr(&mut rt, "i", 0, CtrState::Exited, 0);
    assert_eq!(starts(&plan(&p, &rt, &local, at(0))), [("side", 0)]);
    let side = ctr(&mut rt, "side", 0, CtrState::Running, 0);
    assert!(starts(&plan(&p, &rt, &local, at(0))).is_empty(), "not started yet");
    local.probed.insert(side, Probed { started: true, ..Probed::default() });
    assert_eq!(starts(&plan(&p, &rt, &local, at(0))), [("a", 0)]);
    ctr(&mut rt, "a", 0, CtrState::Running, 0);
    ctr(&mut rt, "side", 0, CtrState::Exited, 0);
    assert_eq!(starts(&plan(&p, &rt, &local, at(20))), [("side", 1)], "a sidecar comes back");
}

#[test]
fn a_failed_init_container_restarts_or_ends_the_pod() {
    let (mut rt, local) = up();
    ctr(&mut rt, "i", 0, CtrState::Exited, 1);
    assert_eq!(starts(&plan(&with_inits(), &rt, &local, at(10))), [("i", 1)]);
    let mut never = with_inits();
    if let Some(s) = &mut never.spec {
        s.restart_policy = Some("Never".into());
    }
    assert!(plan(&never, &rt, &local, at(10)).complete);
}

#[test]
fn sidecars_stop_last_then_the_sandbox_then_the_end() {
    let (mut rt, mut local) = up();
    let p = with_inits();
    local.stop = Some(Stop { deadline: at(30), delete: true });
    let a = ctr(&mut rt, "a", 0, CtrState::Running, 0);
    let side = ctr(&mut rt, "side", 0, CtrState::Running, 0);
    assert_eq!(kills(&plan(&p, &rt, &local, at(0))), [&a]);
    local.killing.insert(a);
    assert!(plan(&p, &rt, &local, at(0)).actions.is_empty());
    ctr(&mut rt, "a", 0, CtrState::Exited, 143);
    assert_eq!(kills(&plan(&p, &rt, &local, at(0))), [&side]);
    ctr(&mut rt, "side", 0, CtrState::Exited, 143);
    let stop = Action::StopSandbox { id: "s0".into() };
    assert_eq!(plan(&p, &rt, &local, at(0)).actions, [stop]);
    local.stopped.insert("s0".into());
    assert_eq!(plan(&p, &rt, &local, at(0)).actions, [Action::Finish]);
    local.finished = true;
    assert!(plan(&p, &rt, &local, at(0)).actions.is_empty());
}

#[test]
fn a_pod_that_ended_takes_its_sidecars_along() {
    let (mut rt, local) = up();
    let mut p = with_inits();
    if let Some(s) = &mut p.spec {
        s.restart_policy = Some("Never".into());
    }
    ctr(&mut rt, "i", 0, CtrState::Exited, 0);
    ctr(&mut rt, "a", 0, CtrState::Exited, 0);
    let side = ctr(&mut rt, "side", 0, CtrState::Running, 0);
    let p = plan(&p, &rt, &local, at(0));
    assert!(p.complete);
    assert_eq!(kills(&p), [&side]);
}

#[test]
fn a_lost_sandbox_is_stopped_and_made_again() {
    let (mut rt, mut local) = up();
    let p = simple("Always");
    let a = ctr(&mut rt, "a", 0, CtrState::Running, 0);
    rt.sandboxes.values_mut().for_each(|s| s.ready = false);
    assert_eq!(kills(&plan(&p, &rt, &local, at(0))), [&a]);
    ctr(&mut rt, "a", 0, CtrState::Exited, 137);
    assert_eq!(plan(&p, &rt, &local, at(0)).actions, [Action::StopSandbox { id: "s0".into() }]);
    local.stopped.insert("s0".into());
    assert_eq!(plan(&p, &rt, &local, at(0)).actions, [Action::RunSandbox { attempt: 1 }]);
}

#[test]
fn probes_and_changes_kill() {
    let (mut rt, mut local) = up();
    let p = pod(json!({"containers": [{"name": "a", "image": "new"}]}));
    let a = ctr(&mut rt, "a", 0, CtrState::Running, 0);
    assert!(kills(&plan(&p, &rt, &local, at(0))).is_empty());
    local.probed.insert(a.clone(), Probed { failed: Some("liveness"), ..Probed::default() });
    assert_eq!(kills(&plan(&p, &rt, &local, at(0))), [&a]);
    local.probed.clear();
    if let Some(c) = rt.containers.get_mut(&a) {
        c.hash = "of another definition".into();
    }
    assert_eq!(kills(&plan(&p, &rt, &local, at(0))), [&a]);
}

#[test]
fn only_the_last_dead_instance_is_kept() {
    let (mut rt, local) = up();
    let p = pod(json!({"containers": [{"name": "a"}]}));
    ctr(&mut rt, "a", 0, CtrState::Exited, 1);
    ctr(&mut rt, "a", 1, CtrState::Exited, 1);
    ctr(&mut rt, "a", 2, CtrState::Running, 0);
    assert_eq!(plan(&p, &rt, &local, at(0)).actions, [Action::Remove { id: "a0".into() }]);
}

#[test]
fn ephemeral_containers_start_once() {
    let (mut rt, local) = up();
    let p = pod(json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}));
    ctr(&mut rt, "a", 0, CtrState::Running, 0);
    assert_eq!(starts(&plan(&p, &rt, &local, at(0))), [("e", 0)]);
    ctr(&mut rt, "e", 0, CtrState::Exited, 1);
    assert!(plan(&p, &rt, &local, at(0)).actions.is_empty());
}

#[test]
fn changed_resources_are_applied_or_need_a_restart_or_wait() {
    let (mut rt, mut local) = up();
    let p = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}},
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}));
    let a = ctr(&mut rt, "a", 0, CtrState::Running, 0);
    let with = |cpu: &str, mem: &str| serde_json::from_value(json!({"requests": {"cpu": cpu, "memory": mem}})).expect("resources");
    local.applied.insert(a.clone(), with("0.2", "1024Mi"));
    assert!(plan(&p, &rt, &local, at(0)).actions.is_empty(), "the same amounts");
    local.applied.insert(a.clone(), with("100m", "1Gi"));
    assert_eq!(plan(&p, &rt, &local, at(0)).actions, [Action::Resize { id: a.clone(), name: "a".into() }]);
    local.applied.insert(a.clone(), with("200m", "2Gi"));
    assert_eq!(kills(&plan(&p, &rt, &local, at(0))), [&a]);
    local.resize_refused = Some(("Infeasible".into(), String::new()));
    assert!(plan(&p, &rt, &local, at(0)).actions.is_empty());
}

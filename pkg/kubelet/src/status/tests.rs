use serde_json::json;

use super::*;
use crate::model::Sandbox;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + secs).expect("a time")
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3}, "spec": spec
    }))
    .expect("a pod")
}

struct Case {
    pod: Pod,
    rt: Runtime,
    local: Local,
    old: PodStatus,
}

impl Case {
    fn new(spec: serde_json::Value) -> Self {
        let mut rt = Runtime::default();
        rt.sandboxes.insert(
            "s".into(),
            Sandbox { id: "s".into(), attempt: 0, ready: true, created: at(0), ips: vec!["10.1.1.1".into()] },
        );
        Case { pod: pod(spec), rt, local: Local::default(), old: PodStatus::default() }
    }

    fn ctr(&mut self, name: &str, attempt: u32, state: CtrState, code: i32) -> &mut Ctr {
        let id = format!("{name}{attempt}");
        if state == CtrState::Running {
            let p = crate::plan::Probed { started: true, ready: true, ..Default::default() };
            self.local.probed.insert(id.clone(), p);
        }
        let c = Ctr {
            id: id.clone(),
            sandbox: "s".into(),
            name: name.into(),
            attempt,
            state,
            created: at(0),
            started: Some(at(1)),
            finished: (state == CtrState::Exited).then(|| at(2)),
            exit_code: code,
            reason: String::new(),
            message: String::new(),
            image: "img".into(),
            image_id: "sha256:1".into(),
            hash: String::new(),
            user: Some((1, 2, vec![3])),
            termination_message: None,
            log_path: String::new(),
            message_file: None,
            message_policy: String::new(),
        };
        self.rt.containers.entry(id).insert_entry(c).into_mut()
    }

    fn status(&self) -> PodStatus {
        let plan = crate::plan::plan(&self.pod, &self.rt, &self.local, at(5));
        let host = Host { ip: "192.168.0.1".into(), runtime: "knarr".into() };
        status(&self.pod, &self.rt, &self.local, &plan, &self.old, &host, at(5))
    }
}

fn cond<'a>(s: &'a PodStatus, t: &str) -> &'a PodCondition {
    s.conditions.iter().flatten().find(|c| c.type_ == t).expect("the condition")
}

fn first(s: &PodStatus) -> &ContainerStatus {
    &s.container_statuses.as_ref().expect("statuses")[0]
}

fn waiting(s: &ContainerStatus) -> Option<&str> {
    s.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

#[test]
fn a_new_pod_waits() {
    let mut c = Case::new(json!({"containers": [{"name": "a", "image": "img"}]}));
    c.rt = Runtime::default();
    let s = c.status();
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(first(&s)), Some("ContainerCreating"));
    assert_eq!(s.pod_ip, None);
    assert_eq!(s.observed_generation, Some(3));
    let c = cond(&s, "PodReadyToStartContainers");
    assert_eq!((c.status.as_str(), c.observed_generation), ("False", Some(3)));
    assert_eq!(cond(&s, "Ready").message.as_deref(), Some("containers with unready status: [a]"));
    assert_eq!(cond(&s, "Initialized").status, "True");
}

#[test]
fn a_running_pod_is_ready_with_all_its_facts() {
    let mut c = Case::new(json!({"containers": [{"name": "a", "image": "img"}]}));
    c.ctr("a", 2, CtrState::Running, 0);
    c.ctr("a", 1, CtrState::Exited, 9);
    let s = c.status();
    assert_eq!(s.phase.as_deref(), Some("Running"));
    let a = first(&s);
    assert_eq!(a.container_id.as_deref(), Some("knarr://a2"));
    assert_eq!((a.restart_count, a.ready, a.started), (2, true, Some(true)));
    let last = a.last_state.as_ref().and_then(|l| l.terminated.as_ref()).expect("a last state");
    assert_eq!((last.exit_code, last.reason.as_deref()), (9, Some("Error")));
    assert_eq!(s.pod_ip.as_deref(), Some("10.1.1.1"));
    assert_eq!(a.user.as_ref().and_then(|u| u.linux.as_ref()).map(|l| l.uid), Some(1));
}

#[test]
fn out_of_memory_shows() {
    let mut c = Case::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    c.ctr("a", 0, CtrState::Exited, 137).reason = "OOMKilled".into();
    let s = c.status();
    let t = first(&s).state.as_ref().and_then(|s| s.terminated.as_ref()).expect("ended");
    assert_eq!((t.exit_code, t.reason.as_deref()), (137, Some("OOMKilled")));
    assert_eq!(s.phase.as_deref(), Some("Failed"));
}

#[test]
fn behind_an_init_container_all_wait() {
    let mut c = Case::new(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}));
    c.ctr("i", 0, CtrState::Running, 0);
    let s = c.status();
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(first(&s)), Some("PodInitializing"));
    let i = cond(&s, "Initialized");
    assert_eq!(i.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(i.message.as_deref(), Some("containers with incomplete status: [i j]"));
}

#[test]
fn ends_by_policy() {
    for (policy, codes, phase) in [
        ("Never", [0, 0], "Succeeded"),
        ("Never", [0, 1], "Failed"),
        ("OnFailure", [0, 0], "Succeeded"),
        ("OnFailure", [0, 1], "Running"),
        ("Always", [0, 0], "Running"),
    ] {
        let mut c = Case::new(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
        c.ctr("a", 0, CtrState::Exited, codes[0]);
        c.ctr("b", 0, CtrState::Exited, codes[1]);
        let s = c.status();
        assert_eq!(s.phase.as_deref(), Some(phase), "{policy} {codes:?}");
    }
}

#[test]
fn an_ended_pod_stays_ended() {
    let mut c = Case::new(json!({"containers": [{"name": "a"}]}));
    c.old.phase = Some("Succeeded".into());
    c.ctr("a", 0, CtrState::Running, 0);
    assert_eq!(c.status().phase.as_deref(), Some("Succeeded"));
}

#[test]
fn readiness_gates_and_foreign_conditions() {
    let mut c = Case::new(json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a"}]}));
    c.ctr("a", 0, CtrState::Running, 0);
    c.old.conditions = Some(vec![PodCondition { type_: "DisruptionTarget".into(), status: "True".into(), ..Default::default() }]);
    let s = c.status();
    let ready = cond(&s, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(
        ready.message.as_deref(),
        Some("corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
    assert_eq!(cond(&s, "ContainersReady").status, "True");
    assert_eq!(cond(&s, "DisruptionTarget").status, "True");
}

#[test]
fn transition_times_move_only_with_the_status() {
    let mut c = Case::new(json!({"containers": [{"name": "a"}]}));
    c.ctr("a", 0, CtrState::Running, 0);
    let mut s = c.status();
    for x in s.conditions.iter_mut().flatten() {
        x.last_transition_time = Some(Time(at(-100)));
    }
    c.old = s.clone();
    assert_eq!(c.status(), s);
}

#[test]
fn a_deleted_pod_that_is_stopped_has_failed_or_succeeded() {
    for (code, phase) in [(0, "Succeeded"), (143, "Failed")] {
        let mut c = Case::new(json!({"containers": [{"name": "a"}]}));
        c.ctr("a", 0, CtrState::Exited, code);
        c.local.stop = Some(crate::plan::Stop { deadline: at(9), delete: true });
        assert_eq!(c.status().phase.as_deref(), Some(phase));
    }
}

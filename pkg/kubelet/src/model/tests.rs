use super::*;

fn status(id: &str, state: v1::ContainerState) -> v1::ContainerStatus {
    v1::ContainerStatus {
        id: id.into(),
        metadata: Some(v1::ContainerMetadata { name: "a".into(), attempt: 0 }),
        state: state as i32,
        created_at: 1,
        ..Default::default()
    }
}

#[test]
fn a_late_report_never_brings_a_container_back() {
    let mut rt = Runtime::default();
    assert!(rt.merge_container("s", &status("c", v1::ContainerState::ContainerRunning)));
    assert!(rt.merge_container("s", &status("c", v1::ContainerState::ContainerExited)));
    assert!(!rt.merge_container("s", &status("c", v1::ContainerState::ContainerRunning)));
    assert_eq!(rt.latest("a").map(|c| c.state), Some(CtrState::Exited));
}

#[test]
fn a_sandbox_that_was_lost_stays_lost() {
    let mut rt = Runtime::default();
    let mut s = v1::PodSandboxStatus { id: "s".into(), ..Default::default() };
    rt.merge_sandbox(&s);
    s.state = v1::PodSandboxState::SandboxNotready as i32;
    rt.merge_sandbox(&s);
    s.state = v1::PodSandboxState::SandboxReady as i32;
    rt.merge_sandbox(&s);
    assert_eq!(rt.sandbox().map(|s| s.ready), Some(false));
}

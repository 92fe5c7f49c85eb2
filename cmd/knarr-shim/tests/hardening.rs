//! What a container may not do to the shim.

mod support;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use knarr_shim::{Created, ExecSpec, Shim};
use support::{Bench, Options, alive, eventually, is_root, process, runtimes};

/// Whether a file that somebody holds open can be opened for writing through that descriptor.
fn writable(held: &File) -> bool {
    OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
        .is_ok()
}

/// Gives the bench a copy of the shim that nothing else runs: a running program is never
/// writable. By another process, so that no child of this one inherits a descriptor that writes.
fn own_copy(bench: &mut Bench) -> PathBuf {
    let own = bench.dir().join("shim-copy");
    let mut copy = Command::new("cp");
    copy.arg(&bench.launch.shim).arg(&own);
    assert!(copy.status().unwrap().success());
    bench.launch.shim = own.clone();
    own
}

/// Looks at the programs of the shim and of the init, then ends both and tries to write.
async fn assert_out_of_reach(bench: &Bench, shim: Shim, created: Created, own: &Path) {
    // Until `start` the container's init runs the shim's program.
    let mut held =
        [created.pid, created.shim_pid].map(|pid| File::open(format!("/proc/{pid}/exe")).unwrap());
    shim.start().await.unwrap();
    shim.delete().await.unwrap();
    eventually("the shim is gone", || !alive(created.shim_pid)).await;
    // It is the way there that is shut, not the file.
    let own = File::open(own).unwrap();
    eventually("the file itself is writable", || writable(&own)).await;
    for file in &mut held {
        let mut magic = [0; 4];
        file.read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
        assert!(!writable(file), "the shim's binary could be overwritten");
    }
    bench.assert_clean();
}

#[tokio::test]
async fn the_shims_binary_cannot_be_overwritten_from_a_container() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new(None, "sleep 60", Options::default());
    let own = own_copy(&mut bench);
    let (shim, created) = bench.created().await;
    assert_out_of_reach(&bench, shim, created, &own).await;
}

#[tokio::test]
async fn a_shim_that_was_started_by_its_plain_path_protects_itself() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new(None, "sleep 60", Options::default());
    let own = own_copy(&mut bench);
    let launch = serde_json::to_vec(&bench.launch).unwrap();
    std::fs::write(bench.dir().join("shim.json"), launch).unwrap();
    let mut run = Command::new(&own);
    // The shim keeps its stderr.
    run.arg("run").arg(bench.dir()).stderr(Stdio::null());
    let said = run.output();
    let said: serde_json::Value = serde_json::from_slice(&said.unwrap().stdout).unwrap();
    let created: Created = serde_json::from_value(said["created"].clone()).unwrap();
    let shim = Shim::connect(bench.dir()).await.unwrap();
    assert_out_of_reach(&bench, shim, created, &own).await;
}

#[tokio::test]
async fn an_adopting_shim_is_protected_too() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        adopt_and_look(Bench::new(runtime, "echo up; sleep 60", Options::default())).await;
    }
}

async fn adopt_and_look(mut bench: Bench) {
    let own = own_copy(&mut bench);
    let (shim, created) = bench.started().await;
    eventually("its first line", || bench.output() == "up\n").await;
    assert!(
        Command::new("kill")
            .args(["-9", &created.shim_pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    eventually("the shim is gone", || !alive(created.shim_pid)).await;
    let again = Shim::connect(bench.dir()).await.unwrap();
    let adopted = again.state().await.unwrap().shim_pid;
    let held = File::open(format!("/proc/{adopted}/exe")).unwrap();
    let exec = ExecSpec {
        process: process("exit 3"),
        ..ExecSpec::default()
    };
    let session = again.exec(exec).await.unwrap();
    assert_eq!(session.wait().await.unwrap(), 3);
    again.delete().await.unwrap();
    drop(shim);
    eventually("the adopting shim is gone", || !alive(adopted)).await;
    let own = File::open(own).unwrap();
    eventually("the file itself is writable", || writable(&own)).await;
    assert!(!writable(&held), "the shim's binary could be overwritten");
    bench.assert_clean();
}

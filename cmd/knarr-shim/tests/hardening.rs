//! What a container may not do to the shim.

mod support;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;

use knarr_shim::{ExecSpec, Shim};
use support::{Bench, Options, alive, eventually, is_root, process, runtimes};

/// Whether a file that somebody holds open can be opened for writing through that descriptor.
fn writable(held: &File) -> bool {
    OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
        .is_ok()
}

#[tokio::test]
async fn the_shims_binary_cannot_be_overwritten_from_a_container() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new(None, "sleep 60", Options::default());
    // A copy that no other test runs: a running program is never writable.
    let own = bench.dir().join("shim-copy");
    std::fs::copy(&bench.launch.shim, &own).unwrap();
    bench.launch.shim = own.clone();
    let (shim, created) = bench.created().await;
    // Until `start` the container's init runs the shim's program.
    let mut held = vec![
        File::open(format!("/proc/{}/exe", created.pid)).unwrap(),
        File::open(format!("/proc/{}/exe", created.shim_pid)).unwrap(),
    ];
    shim.start().await.unwrap();
    shim.delete().await.unwrap();
    eventually("the shim is gone", || !alive(created.shim_pid)).await;
    for file in &mut held {
        let mut magic = [0; 4];
        file.read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
        assert!(!writable(file), "the shim's binary could be overwritten");
    }
    // It is the way there that is shut, not the file.
    let own = File::open(&own).unwrap();
    eventually("the file itself is writable", || writable(&own)).await;
    bench.assert_clean();
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
    let own = bench.dir().join("shim-copy");
    std::fs::copy(&bench.launch.shim, &own).unwrap();
    bench.launch.shim = own;
    let (shim, created) = bench.started().await;
    eventually("its first line", || bench.output() == "up\n").await;
    assert!(
        std::process::Command::new("kill")
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
    assert!(!writable(&held), "the shim's binary could be overwritten");
    bench.assert_clean();
}

//! The node as a program: static pods, errors that name what to do, and nothing left behind.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use knarr_e2e::{Cluster, PATIENCE, host, image, knarr, run};

fn static_pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {}\n    \
         command: [sh, -c, 'echo started; sleep 100000']\n",
        image::BUSYBOX
    )
}

#[test]
fn a_static_pod_has_a_mirror_and_follows_its_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manifests = folder.path().to_str().context("path")?;
    fs::write(folder.path().join("one.yaml"), static_pod("one"))?;
    // A broken neighbour is named in the log and harms nobody.
    fs::write(folder.path().join("broken.yaml"), "kind: Pod\nspec: [\n")?;
    let cluster = Cluster::up(&["--manifests", manifests])?;
    let node = cluster.get(&["nodes"])?["items"][0]["metadata"]["name"]
        .as_str()
        .context("no node")?
        .to_owned();
    let mirror = cluster.wait_ready(&format!("one-{node}"))?;
    let log = fs::read_to_string(cluster.data_dir().join("knarr.log"))?;
    assert!(log.contains("broken.yaml"), "{log}");
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert!(annotations["kubernetes.io/config.mirror"].is_string());

    // Deleting the mirror does not stop the pod: it comes back with the same container.
    let id = mirror["status"]["containerStatuses"][0]["containerID"].clone();
    cluster.kubectl(&["delete", "pod", &format!("one-{node}")])?;
    let again = cluster.wait_ready(&format!("one-{node}"))?;
    assert_eq!(again["status"]["containerStatuses"][0]["containerID"], id);

    fs::remove_file(folder.path().join("one.yaml"))?;
    cluster.wait_for(&["pods"], |list| list["items"].as_array().is_some_and(Vec::is_empty))?;
    Ok(())
}

#[test]
fn a_static_pod_needs_no_api_server() -> Result<()> {
    let before = host::snapshot();
    let folder = tempfile::tempdir()?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    let folders = |command: &mut Command| {
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.arg("--run-dir").arg(folder.path().join("run"));
    };
    let archive = folder.path().join("busybox.tar");
    image::busybox(&archive)?;
    let mut kubelet = Command::new(knarr());
    kubelet.args(["kubelet", "--manifests"]).arg(&manifests);
    folders(&mut kubelet);
    let mut kubelet = kubelet.stdout(Stdio::null()).spawn()?;
    let outcome = (|| -> Result<()> {
        let mut import = Command::new(knarr());
        import.args(["images", "import"]).arg(&archive);
        folders(&mut import);
        run(&mut import)?;
        fs::write(manifests.join("one.yaml"), static_pod("alone"))?;
        let logs = folder.path().join("data/logs/pods");
        let begin = Instant::now();
        loop {
            let found = walk(&logs).into_iter().any(|file| {
                fs::read_to_string(file).is_ok_and(|log| log.contains("stdout F started"))
            });
            if found {
                break;
            }
            anyhow::ensure!(begin.elapsed() < PATIENCE, "the static pod does not run");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    })();
    run(Command::new("kill").arg(kubelet.id().to_string()))?;
    kubelet.wait()?;
    let mut reset = Command::new(knarr());
    reset.arg("reset");
    folders(&mut reset);
    run(&mut reset)?;
    outcome?;
    assert_eq!(host::difference(&before, &host::snapshot()), Vec::<String>::new());
    Ok(())
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn reset_leaves_the_machine_as_it_was() -> Result<()> {
    let before = host::snapshot();
    let cluster = Cluster::up(&[])?;
    cluster.kubectl(&["create", "deployment", "web", "--image", image::BUSYBOX, "--replicas=4",
        "--", "sleep", "100000"])?;
    cluster.kubectl(&["expose", "deployment", "web", "--port=80"])?;
    cluster.wait_for(&["deployment", "web"], |d| d["status"]["readyReplicas"] == 4)?;
    let during = host::snapshot();
    assert!(!host::difference(&before, &during).is_empty(), "the comparison sees something");
    cluster.reset()?;
    assert_eq!(host::difference(&before, &host::snapshot()), Vec::<String>::new());
    assert!(!cluster.data_dir().exists() && !cluster.run_dir().exists());
    Ok(())
}

fn fails(arguments: &[&str]) -> Result<String> {
    let output = Command::new(knarr()).args(arguments).stdin(Stdio::null()).output()?;
    anyhow::ensure!(!output.status.success(), "{arguments:?} succeeded");
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn bad_input_gives_one_clear_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (data, run_dir) = (path("data"), path("run"));
    let up = |more: &[&str]| {
        let mut all = vec!["up", "--data-dir", &data, "--run-dir", &run_dir];
        all.extend(more);
        fails(&all)
    };
    assert!(up(&["--no-such-flag"])?.contains("unexpected argument '--no-such-flag'"));
    assert!(up(&["--listen", "nowhere"])?.contains("invalid value 'nowhere'"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let error = up(&["--listen", &address])?;
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
    assert!(!folder.path().join("data").exists(), "nothing half-made");

    fs::create_dir_all(folder.path().join("data"))?;
    fs::write(folder.path().join("data/precious"), "")?;
    let error = up(&[])?;
    assert!(error.contains("was not made by knarr"), "{error}");
    fs::remove_file(folder.path().join("data/precious"))?;

    fs::create_dir_all(folder.path().join("data/store"))?;
    fs::write(folder.path().join("data/.knarr"), "")?;
    fs::write(folder.path().join("data/store/VERSION"), "knarr-store 99\n")?;
    let error = up(&[])?;
    assert!(error.contains("made by a newer knarr"), "{error}");
    let error = fails(&["status", "--run-dir", &run_dir])?;
    assert!(error.contains("knarr is not running"), "{error}");
    Ok(())
}

/// Runs `up` where one file of /proc or /sys reads otherwise, in mounts of its own.
fn up_where(file: &str, reads: &str, folder: &Path) -> Result<String> {
    fs::write(folder.join("pretended"), reads)?;
    let script = format!(
        "mount --bind {0}/pretended {file} && exec {1} up --data-dir {0}/data --run-dir {0}/run",
        folder.display(),
        knarr().display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()?;
    anyhow::ensure!(!output.status.success(), "it started");
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn a_missing_kernel_feature_is_named_and_nothing_is_made() -> Result<()> {
    let before = host::snapshot();
    let folder = tempfile::tempdir()?;
    let have = fs::read_to_string("/proc/filesystems")?;
    let without = |names: &[&str]| -> String {
        let stay = |l: &&str| !names.iter().any(|name| l.ends_with(&format!("\t{name}")));
        have.lines().filter(stay).map(|l| format!("{l}\n")).collect()
    };
    let error = up_where("/proc/filesystems", &without(&["overlay"]), folder.path())?;
    assert_eq!(error, "knarr: this kernel has no overlay file system: try `modprobe overlay`\n");
    let error = up_where("/proc/filesystems", &without(&["cgroup", "cgroup2"]), folder.path())?;
    assert_eq!(error, "knarr: this kernel has no control groups\n");
    assert_eq!(fs::read_dir(folder.path())?.count(), 1, "nothing half-made");
    assert_eq!(host::difference(&before, &host::snapshot()), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    for i in 0..8 {
        cluster.kubectl(&["create", "configmap", &format!("map-{i}"), "--from-literal=a=b"])?;
    }
    cluster.knarr(["stop"])?;
    let log = walk(&cluster.data_dir().join("store"))
        .into_iter()
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("log-")))
        .max()
        .context("no log")?;
    let sound = fs::read(&log)?;
    // One bit in the middle: what stands behind it was acknowledged and must not be lost in silence.
    let mut damaged = sound.clone();
    let used = sound.iter().rposition(|&b| b != 0).context("an empty log")?;
    damaged[used / 2] ^= 1;
    fs::write(&log, &damaged)?;
    let error = cluster.start(&[]).unwrap_err().to_string();
    assert!(error.contains(&log.display().to_string()) && error.contains("damaged"), "{error}");
    assert!(fs::read(&log)? == damaged, "it was not touched");
    // Put right again, nothing is missing.
    fs::write(&log, &sound)?;
    cluster.start(&[])?;
    for i in 0..8 {
        cluster.get(&["configmap", &format!("map-{i}")])?;
    }
    Ok(())
}

#[test]
fn the_demo_needs_no_network_and_answers() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.knarr(["stop"])?;
    // The same command again is the second `up` on a folder, too.
    let shown = cluster.knarr(["up", "--detach", "--demo"])?;
    assert!(shown.contains("service demo answers at http://10.96."), "{shown}");
    assert!(shown.contains("hostname: demo-"), "{shown}");
    assert!(shown.contains("export KUBECONFIG="), "{shown}");
    let status = cluster.knarr(["status"])?;
    assert!(status.lines().any(|l| l.starts_with("ready") && l.ends_with("true")), "{status}");
    Ok(())
}

#[test]
fn a_full_disk_loses_nothing_and_is_survived() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::create_dir(&disk)?;
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "knarr-e2e"]).arg(&disk))?;
    let disk = Disk(disk);
    // The cluster must be gone before its disk is.
    {
        let disk = &disk.0;
        let data = disk.join("data");
        let cluster = Cluster::up_in(&data, &[])?;
        cluster.kubectl(&["create", "configmap", "before", "--from-literal=a=b"])?;
        let ballast = disk.join("ballast");
        // Fill it to the last byte; the copy is expected to fail.
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", ballast.display()))
            .stderr(Stdio::null())
            .status()?;
        let big = |i: u32| {
            let name = format!("big-{i}");
            let text = "x".repeat(900_000);
            format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{a: {text}}}}}")
        };
        let mut error = String::new();
        // What was allocated ahead may still take some.
        for i in 0..16 {
            match cluster.kubectl_input(&["create", "-f", "-"], &big(i)) {
                Ok(_) => {}
                Err(e) => {
                    error = e.to_string();
                    break;
                }
            }
        }
        assert!(error.contains("No space left on device"), "{error}");
        assert_eq!(cluster.get(&["configmap", "before"])?["data"]["a"], "b", "reads go on");
        fs::remove_file(&ballast)?;
        cluster.kubectl(&["create", "configmap", "after", "--from-literal=a=b"])?;
        cluster.kill()?;
        cluster.start(&[])?;
        for name in ["before", "after"] {
            assert_eq!(cluster.get(&["configmap", name])?["data"]["a"], "b", "{name}");
        }
    }
    drop(disk);
    Ok(())
}

/// A file system of its own, unmounted also when a test fails.
struct Disk(std::path::PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn root_is_asked_for() -> Result<()> {
    // Where everybody can reach it: the build folder may be root's alone.
    let folder = tempfile::tempdir()?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join("knarr");
    fs::copy(knarr(), &program)?;
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(&program)
        .arg("up")
        .output()?;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr)?;
    assert!(error.starts_with("knarr: knarr must run as root"), "{error}");
    Ok(())
}

//! What happens to a container when what is around it dies, is slow or is too much.

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use knarr_shim::{ExecSpec, Launch, Shim, Status, read_exit};
use support::{Bench, Options, alive, eventually, is_root, process, runtimes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn kill(pid: i32) {
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn a_killed_shim_does_not_take_its_container_along() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        // It writes all the while, into a full pipe too.
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); [ $i = 100 ] && sleep 0.5; done; exit 5";
        let bench = Bench::new(runtime, script, Options::default());
        let (shim, created) = bench.started().await;
        eventually("some log", || bench.log().len() >= 50).await;
        kill(created.shim_pid);
        eventually("the shim is gone", || !alive(created.shim_pid)).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(alive(created.pid), "the container died with its shim");
        // A daemon that comes later finds it as it was.
        let again = Shim::connect(bench.dir()).await.unwrap();
        let state = again.state().await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Running, created.pid));
        assert_ne!(state.shim_pid, created.shim_pid);
        let exit = tokio::time::timeout(Duration::from_secs(20), shim.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(exit.exit_code == 5 && !exit.lost, "{exit:?}");
        // What the dead shim had read and not written is all that may be missing.
        let log = bench.output();
        assert!(
            log.ends_with("line 19999\n"),
            "{:?}",
            &log[log.len().saturating_sub(100)..]
        );
        assert!(
            log.lines().count() >= 19_990,
            "{} lines",
            log.lines().count()
        );
        again.delete().await.unwrap();
        bench.assert_clean();
    }
}

#[tokio::test]
async fn a_waiting_daemon_survives_the_shim() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime, "sleep 1; exit 4", Options::default());
        let (shim, created) = bench.started().await;
        let waiter = shim.clone();
        let wait = tokio::spawn(async move { waiter.wait().await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        kill(created.shim_pid);
        let exit = tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(exit.exit_code == 4 && !exit.lost, "{exit:?}");
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

#[tokio::test]
async fn both_dead_is_told_as_lost_and_cleaned_up() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime, "sleep 1000", Options::default());
        let (shim, created) = bench.started().await;
        kill(created.shim_pid);
        kill(created.pid);
        eventually("both are gone", || {
            !alive(created.shim_pid) && !alive(created.pid)
        })
        .await;
        let exit = tokio::time::timeout(Duration::from_secs(20), shim.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(
            exit.exit_code == 137 || (exit.lost && exit.exit_code == 255),
            "{exit:?}"
        );
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

#[tokio::test]
async fn a_terminal_and_a_stdin_outlive_the_shim() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        for terminal in [true, false] {
            let options = Options {
                stdin: true,
                terminal,
                ..Options::default()
            };
            let bench = Bench::new(
                runtime.clone(),
                "read x; echo got $x; read y; echo then $y; exit 6",
                options,
            );
            let (shim, created) = bench.started().await;
            let mut client = shim.attach().await.unwrap();
            client
                .stdin
                .as_mut()
                .unwrap()
                .write_all(b"one\n")
                .await
                .unwrap();
            eventually("the first line", || bench.output().contains("got one")).await;
            kill(created.shim_pid);
            client.closed().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(alive(created.pid), "the container lost its input");
            let mut client = shim.attach().await.unwrap();
            client
                .stdin
                .as_mut()
                .unwrap()
                .write_all(b"two\n")
                .await
                .unwrap();
            let mut out = String::new();
            client
                .stdout
                .take()
                .unwrap()
                .read_to_string(&mut out)
                .await
                .unwrap();
            assert!(out.contains("then two"), "{out:?}");
            let exit = shim.wait().await.unwrap();
            assert!(exit.exit_code == 6 && !exit.lost, "{exit:?}");
            shim.delete().await.unwrap();
            bench.assert_clean();
        }
    }
}

#[tokio::test]
async fn the_daemons_death_changes_nothing() {
    if let Ok(launch) = std::env::var("KNARR_TEST_LAUNCH") {
        return be_the_daemon(&launch).await;
    }
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime, "sleep 1; echo after; exit 2", Options::default());
        // A daemon of its own session, killed with its whole process group.
        let program = std::env::current_exe().unwrap();
        let mut daemon = std::process::Command::new(program)
            .args([
                "--exact",
                "the_daemons_death_changes_nothing",
                "--nocapture",
            ])
            .env(
                "KNARR_TEST_LAUNCH",
                serde_json::to_string(&bench.launch).unwrap(),
            )
            .process_group(0)
            .spawn()
            .unwrap();
        eventually("it was started", || bench.dir().join("started").exists()).await;
        let group = format!("-{}", daemon.id());
        assert!(
            std::process::Command::new("kill")
                .args(["-9", "--", &group])
                .status()
                .unwrap()
                .success()
        );
        daemon.wait().unwrap();
        let shim = Shim::connect(bench.dir()).await.unwrap();
        assert_eq!(shim.state().await.unwrap().status, Status::Running);
        assert_eq!(shim.wait().await.unwrap().exit_code, 2);
        assert_eq!(bench.output(), "after\n");
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

/// A service manager that stops the daemon stops everything in its cgroup.
#[tokio::test]
async fn the_shim_leaves_the_daemons_cgroup() {
    if let Ok(launch) = std::env::var("KNARR_TEST_LAUNCH") {
        return be_the_daemon(&launch).await;
    }
    if !is_root() {
        return;
    }
    let (pids, unified) = (
        Path::new("/sys/fs/cgroup/pids"),
        Path::new("/sys/fs/cgroup"),
    );
    let root = if pids.exists() { pids } else { unified };
    let folder = root.join(format!("knarr-shim-test-daemon-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let bench = Bench::new(None, "sleep 1000", Options::default());
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_shim_leaves_the_daemons_cgroup",
            "--nocapture",
        ])
        .env(
            "KNARR_TEST_LAUNCH",
            serde_json::to_string(&bench.launch).unwrap(),
        )
        .env("KNARR_TEST_CGROUP", &folder)
        .spawn()
        .unwrap();
    eventually("it was started", || bench.dir().join("started").exists()).await;
    let members = || std::fs::read_to_string(folder.join("cgroup.procs")).unwrap();
    eventually("the daemon is alone", || {
        members().trim() == daemon.id().to_string()
    })
    .await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let shim = Shim::connect(bench.dir()).await.unwrap();
    let pid = shim.state().await.unwrap().shim_pid;
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.contains(":/knarr/shims\n"), "{cgroup}");
    shim.delete().await.unwrap();
    bench.assert_clean();
    eventually("the shim is gone", || !alive(pid)).await;
    std::fs::remove_dir(&folder).unwrap();
}

/// The process that [`the_daemons_death_changes_nothing`] starts from its own program.
async fn be_the_daemon(launch: &str) {
    let launch: Launch = serde_json::from_str(launch).unwrap();
    let dir = launch.dir.clone();
    if let Ok(folder) = std::env::var("KNARR_TEST_CGROUP") {
        std::fs::write(
            format!("{folder}/cgroup.procs"),
            std::process::id().to_string(),
        )
        .unwrap();
    }
    let (shim, _) = Shim::launch(launch).await.unwrap();
    shim.start().await.unwrap();
    std::fs::write(dir.join("started"), "").unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_flood_is_logged_whole_in_bounded_memory() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let script = "head -c 64M /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done; read wait";
        let options = Options {
            stdin: true,
            ..Options::default()
        };
        let bench = Bench::new(runtime.clone(), script, options);
        let start = Instant::now();
        let (shim, created) = bench.started().await;
        let path = bench.launch.log_path.clone().unwrap();
        eventually("the flood is over", || {
            std::fs::metadata(&path).unwrap().len() > 64 << 20
                && bench_tail(&path).contains("F 999\n")
        })
        .await;
        let took = start.elapsed();
        let rollup =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", created.shim_pid)).unwrap();
        let field = |name: &str| -> u64 {
            let line = rollup.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        // Pages of the program's file are shared by all shims; what is anonymous is its own.
        let own = field("Anonymous:");
        eprintln!("{runtime:?}: 64 MiB in {took:?} with {own} KiB of its own");
        assert!(own < 1024, "{rollup}");
        let output = bench.output();
        assert_eq!(output.find('\n'), Some(64 << 20));
        assert!(output.ends_with("\n998\n999\n"));
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

fn bench_tail(path: &Path) -> String {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let mut tail = [0; 64];
    file.read_at(&mut tail, length.saturating_sub(64)).unwrap();
    String::from_utf8_lossy(&tail).into_owned()
}

#[tokio::test]
async fn the_log_is_rotated_without_a_loss() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let script = "i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done";
        let bench = Bench::new(runtime, script, Options::default());
        let (shim, _) = bench.started().await;
        let path = bench.launch.log_path.clone().unwrap();
        let mut parts = Vec::new();
        for n in 0..5 {
            let rotated = path.with_extension(format!("log.{n}"));
            if std::fs::rename(&path, &rotated).is_ok() {
                parts.push(rotated);
            }
            if shim.reopen_log().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shim.wait().await.unwrap();
        parts.push(path);
        let text: String = parts
            .iter()
            .map(|p| std::fs::read_to_string(p).unwrap_or_default())
            .collect();
        let numbers: Vec<u32> = text
            .lines()
            .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(
            numbers.iter().copied().eq(0..30_000),
            "{} lines",
            numbers.len()
        );
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

#[tokio::test]
async fn an_attached_client_gets_every_byte_and_a_stuck_one_is_dropped() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(
            runtime,
            "head -c 20M /dev/zero; sleep 1000",
            Options::default(),
        );
        let (shim, _) = bench.created().await;
        let mut reading = shim.attach().await.unwrap();
        let stuck = shim.attach().await.unwrap();
        shim.start().await.unwrap();
        let mut stdout = reading.stdout.take().unwrap();
        let mut total = 0;
        let mut chunk = vec![0; 1 << 16];
        let start = Instant::now();
        while total < 20 << 20 {
            total += stdout.read(&mut chunk).await.unwrap();
        }
        assert_eq!(total, 20 << 20);
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "a stuck client held the container up"
        );
        drop(stuck);
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

#[tokio::test]
async fn launching_is_quick_and_many_live_side_by_side() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let mut times = Vec::new();
        let mut live = Vec::new();
        for _ in 0..10 {
            let bench = Bench::new(runtime.clone(), "sleep 1000", Options::default());
            let start = Instant::now();
            let (shim, created) = bench.started().await;
            times.push(start.elapsed());
            live.push((bench, shim, created));
        }
        times.sort();
        eprintln!(
            "{runtime:?}: launch and start, p50 {:?}, max {:?}",
            times[5], times[9]
        );
        let (_, shim, _) = &live[0];
        let start = Instant::now();
        for _ in 0..10 {
            let session = shim
                .exec(ExecSpec {
                    process: process(":"),
                    ..ExecSpec::default()
                })
                .await
                .unwrap();
            assert_eq!(session.wait().await.unwrap(), 0);
        }
        eprintln!("{runtime:?}: exec round trip {:?}", start.elapsed() / 10);
        for (bench, shim, _) in &live {
            shim.kill(15, true).await.unwrap();
            shim.delete().await.unwrap();
            assert!(read_exit(bench.dir()).unwrap().is_some());
            bench.assert_clean();
        }
    }
}

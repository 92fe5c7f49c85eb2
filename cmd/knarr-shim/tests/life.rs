//! A container's life under its shim, over every OCI runtime that is there.

mod support;

use std::time::Duration;

use knarr_shim::{Error, ExecSpec, ExitRecord, Shim, Status, read_exit};
use support::{Bench, Options, alive, eventually, is_root, process, runtimes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn finish(shim: &Shim, bench: &Bench) -> ExitRecord {
    let exit = tokio::time::timeout(Duration::from_secs(20), shim.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read_exit(bench.dir()).unwrap().as_ref(), Some(&exit));
    shim.delete().await.unwrap();
    bench.assert_clean();
    exit
}

#[tokio::test]
async fn output_and_exit_code_arrive() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let script = "echo one; echo two >&2; printf tail; exit 7";
        let bench = Bench::new(runtime, script, Options::default());
        let (shim, created) = bench.created().await;
        assert!(alive(created.pid) && alive(created.shim_pid));
        assert_eq!(shim.state().await.unwrap().status, Status::Created);
        shim.start().await.unwrap();
        let exit = finish(&shim, &bench).await;
        assert_eq!(
            (exit.exit_code, exit.signal, exit.oom_killed, exit.lost),
            (7, None, false, false)
        );
        assert!(0 < exit.started_at && exit.started_at <= exit.finished_at);
        let mut log = bench.log();
        log.sort();
        let want = [
            ("stderr", "F", "two"),
            ("stdout", "F", "one"),
            ("stdout", "P", "tail"),
        ];
        assert_eq!(log, want.map(|(a, b, c)| (a.into(), b.into(), c.into())));
        eventually("the shim leaves", || !alive(created.shim_pid)).await;
        assert_eq!(shim.state().await.unwrap().status, Status::Exited);
    }
}

#[tokio::test]
async fn a_signal_and_a_memory_kill_are_told_apart() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime.clone(), "sleep 1000", Options::default());
        let (shim, _) = bench.started().await;
        shim.kill(9, false).await.unwrap();
        let exit = finish(&shim, &bench).await;
        assert_eq!(
            (exit.exit_code, exit.signal, exit.oom_killed),
            (137, Some(9), false)
        );

        let memory = Some(24 << 20);
        let bench = Bench::new(
            runtime,
            "x=$(head -c 200M /dev/zero | tr '\\0' x)",
            Options {
                memory,
                ..Options::default()
            },
        );
        let (shim, _) = bench.started().await;
        let exit = finish(&shim, &bench).await;
        assert_eq!(
            (exit.exit_code, exit.signal, exit.oom_killed),
            (137, Some(9), true)
        );
    }
}

#[tokio::test]
async fn exec_has_streams_codes_and_a_terminal() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime, "sleep 1000", Options::default());
        let (shim, _) = bench.started().await;
        let spec = ExecSpec {
            process: process("cat; echo err >&2; exit 3"),
            stdin: true,
            ..ExecSpec::default()
        };
        let mut session = shim.exec(spec).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"through").await.unwrap();
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        session
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        session
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .await
            .unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("through", "err\n"));
        assert_eq!(session.wait().await.unwrap(), 3);

        let spec = ExecSpec {
            process: process("read x; stty size; tty >/dev/null && echo got $x"),
            stdin: true,
            tty: true,
            ..ExecSpec::default()
        };
        let mut session = shim.exec(spec).await.unwrap();
        session.resize(101, 33).await.unwrap();
        session
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"word\n")
            .await
            .unwrap();
        let mut out = String::new();
        session
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        assert!(
            out.contains("33 101\r\n") && out.contains("got word\r\n"),
            "{out:?}"
        );
        assert_eq!(session.wait().await.unwrap(), 0);

        let spec = ExecSpec {
            process: process("sleep 500"),
            ..ExecSpec::default()
        };
        let session = shim.exec(spec).await.unwrap();
        session.kill(15).await.unwrap();
        assert_eq!(session.wait().await.unwrap(), 143);

        let spec = ExecSpec {
            process: process("sleep 500"),
            kill_on_disconnect: true,
            ..ExecSpec::default()
        };
        let session = shim.exec(spec).await.unwrap();
        let pid = session.pid;
        drop(session);
        eventually("the exec dies with its caller", || !alive(pid)).await;

        let spec = ExecSpec {
            process: serde_json::json!({"args": ["/no/such/program"], "cwd": "/", "user": {"uid": 0, "gid": 0}}),
            ..ExecSpec::default()
        };
        assert!(matches!(shim.exec(spec).await, Err(Error::Refused { .. })));

        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

#[tokio::test]
async fn several_clients_attach_and_stdin_ends_once() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let options = Options {
            stdin: true,
            stdin_once: true,
            ..Options::default()
        };
        let bench = Bench::new(runtime, "cat; echo end >&2", options);
        let (shim, _) = bench.created().await;
        let mut one = shim.attach().await.unwrap();
        let mut two = shim.attach().await.unwrap();
        shim.start().await.unwrap();
        let mut stdin = one.stdin.take().unwrap();
        stdin.write_all(b"hello\n").await.unwrap();
        drop(stdin);
        for session in [&mut one, &mut two] {
            let (mut out, mut err) = (String::new(), String::new());
            session
                .stdout
                .take()
                .unwrap()
                .read_to_string(&mut out)
                .await
                .unwrap();
            session
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut err)
                .await
                .unwrap();
            assert_eq!((out.as_str(), err.as_str()), ("hello\n", "end\n"));
            session.closed().await;
        }
        let exit = finish(&shim, &bench).await;
        assert_eq!(exit.exit_code, 0);
        assert_eq!(bench.output(), "hello\n");
    }
}

#[tokio::test]
async fn a_terminal_is_attached_and_resized() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let options = Options {
            stdin: true,
            terminal: true,
            ..Options::default()
        };
        let bench = Bench::new(runtime, "read x; stty size; echo got $x", options);
        let (shim, _) = bench.created().await;
        let mut client = shim.attach().await.unwrap();
        shim.start().await.unwrap();
        client.resize(90, 40).await.unwrap();
        client
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"it\n")
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
        assert!(
            out.contains("40 90\r\n") && out.contains("got it\r\n"),
            "{out:?}"
        );
        assert_eq!(finish(&shim, &bench).await.exit_code, 0);
    }
}

#[tokio::test]
async fn a_failed_create_says_why_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime, "true", Options::default());
        let file = bench.launch.bundle.join("config.json");
        let text = std::fs::read_to_string(&file)
            .unwrap()
            .replace("/bin/sh", "/no/such/program");
        std::fs::write(&file, text).unwrap();
        let error = match Shim::launch(bench.launch.clone()).await {
            Err(e) => e,
            // A runtime may also find out at start.
            Ok((shim, _)) => {
                let error = shim.start().await.unwrap_err();
                shim.delete().await.unwrap();
                error
            }
        };
        assert!(error.to_string().contains("no such file"), "{error}");
        bench.assert_clean();
    }
}

#[tokio::test]
async fn a_never_started_container_can_be_deleted_twice() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let bench = Bench::new(runtime, "true", Options::default());
        let (shim, created) = bench.created().await;
        shim.delete().await.unwrap();
        shim.delete().await.unwrap();
        bench.assert_clean();
        assert!(!alive(created.pid));
        let exit = read_exit(bench.dir()).unwrap().unwrap();
        assert_eq!((exit.exit_code, exit.started_at), (137, 0));
        assert!(Shim::launch(bench.launch.clone()).await.is_err());
    }
}

#[tokio::test]
async fn stats_and_limits_reach_the_cgroup() {
    if !is_root() {
        return;
    }
    for runtime in runtimes() {
        let options = Options {
            memory: Some(64 << 20),
            ..Options::default()
        };
        let bench = Bench::new(runtime, "while :; do :; done", options);
        let (shim, _) = bench.started().await;
        assert_eq!(shim.stats().await.unwrap().memory_limit, 64 << 20);
        let limit = 96_i64 << 20;
        let resources = serde_json::json!({"memory": {"limit": limit, "swap": limit}});
        shim.update(resources).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let stats = shim.stats().await.unwrap();
        assert_eq!(stats.memory_limit, 96 << 20);
        assert!(
            stats.cpu_usage > 1_000_000 && stats.memory_usage > 0 && stats.pids > 0,
            "{stats:?}"
        );
        shim.delete().await.unwrap();
        bench.assert_clean();
    }
}

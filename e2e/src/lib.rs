//! The harness of the end-to-end tests: one knarr on this machine, driven by stock kubectl.
//!
//! The tests need root, `KNARR` (the program) and `KUBECTL` in the environment; `hack/test`
//! provides them. Each test program starts one node and resets it at its end, also when it fails.

pub mod host;
pub mod image;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a test waits for something the cluster should do by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A running node, reset when dropped.
pub struct Cluster {
    knarr: PathBuf,
    kubectl: PathBuf,
    folder: tempfile::TempDir,
    data: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// The program under test.
///
/// # Panics
/// If `KNARR` is not set: run the tests with `hack/test`.
#[must_use]
pub fn knarr() -> PathBuf {
    std::env::var_os("KNARR").expect("KNARR names the program: use hack/test").into()
}

impl Cluster {
    /// Starts a node with `arguments` added to `knarr up --detach` and the busybox image in it.
    ///
    /// # Errors
    /// If it does not become Ready.
    pub fn up(arguments: &[&str]) -> Result<Self> {
        Self::start_new(None, arguments)
    }

    /// As [`Cluster::up`], with the data folder given.
    ///
    /// # Errors
    /// If it does not become Ready.
    pub fn up_in(data: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_new(Some(data), arguments)
    }

    fn start_new(data: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix("knarr-e2e-").tempdir()?;
        let cluster = Cluster {
            data: data.map_or_else(|| folder.path().join("data"), Path::to_owned),
            knarr: knarr(),
            kubectl: std::env::var_os("KUBECTL").context("KUBECTL: use hack/test")?.into(),
            folder,
            _turn: turn,
        };
        cluster.start(arguments)?;
        let archive = cluster.folder.path().join("busybox.tar");
        image::busybox(&archive)?;
        cluster.knarr(["images", "import"].iter().map(OsStr::new).chain([archive.as_os_str()]))?;
        Ok(cluster)
    }

    /// Runs `knarr up --detach` again on the same folders.
    ///
    /// # Errors
    /// If it fails.
    pub fn start(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["up", "--detach"];
        all.extend(arguments);
        self.knarr(all).map(|_| ())
    }

    /// The data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// The run folder.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Runs knarr on this node's folders and gives what it prints.
    ///
    /// # Errors
    /// If it fails; with what it wrote to standard error.
    pub fn knarr<I, S>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(&self.knarr);
        command.args(arguments);
        command.arg("--data-dir").arg(self.data_dir()).arg("--run-dir").arg(self.run_dir());
        run(&mut command)
    }

    /// A kubectl command for this cluster.
    #[must_use]
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.data_dir().join("kubeconfig"));
        command.arg("--cache-dir").arg(self.folder.path().join("kubectl-cache"));
        command.args(arguments);
        command
    }

    /// Runs kubectl and gives what it prints.
    ///
    /// # Errors
    /// If it fails; with what it wrote to standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.kubectl_command(arguments))
    }

    /// Runs kubectl with `input` on standard input.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        use std::io::Write;
        let mut command = self.kubectl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
        finish(&command, child.wait_with_output()?)
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl_input(&["apply", "-f", "-"], manifest)
    }

    /// An object, or list, as JSON.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// Waits until `condition` holds of an object; gives the object.
    ///
    /// # Errors
    /// If it does not within [`PATIENCE`]; with the object as it is then.
    pub fn wait_for(
        &self,
        arguments: &[&str],
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let begin = Instant::now();
        loop {
            let got = self.get(arguments);
            match got {
                Ok(value) if condition(&value) => return Ok(value),
                Ok(value) if begin.elapsed() > PATIENCE => {
                    bail!("{arguments:?} did not become as expected:\n{value:#}")
                }
                Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until a pod is Ready.
    ///
    /// # Errors
    /// If it does not become so.
    pub fn wait_ready(&self, pod: &str) -> Result<Value> {
        self.wait_for(&["pod", pod], |pod| {
            pod["status"]["conditions"].as_array().is_some_and(|all| {
                all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            })
        })
    }

    /// Runs a shell line in a pod's container and gives what it prints.
    ///
    /// # Errors
    /// If it exits with another code than zero.
    pub fn sh(&self, pod: &str, container: &str, line: &str) -> Result<String> {
        self.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", line])
    }

    /// The process id of the running knarr.
    ///
    /// # Errors
    /// If it is not running.
    pub fn pid(&self) -> Result<i32> {
        let status = self.knarr(["status"])?;
        let line = status.lines().find(|l| l.starts_with("pid ")).context("no pid")?;
        Ok(line.trim_start_matches("pid").trim().parse()?)
    }

    /// Kills the running knarr with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&self) -> Result<()> {
        let pid = self.pid()?;
        run(Command::new("kill").args(["-9", &pid.to_string()]))?;
        // Gone, or dead with its last thread: till then its files and ports are held.
        let alive = || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            threads > 1 || Path::new(&format!("/proc/{pid}/fd/0")).exists()
        };
        while alive() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Removes everything, as `knarr reset` does.
    ///
    /// # Errors
    /// If the reset fails.
    pub fn reset(&self) -> Result<()> {
        self.knarr(["reset"]).map(|_| ())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data_dir().join("knarr.log"));
            let log = log.unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- end of knarr.log ---");
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
            for what in [&["get", "pods,events", "-A"][..], &["describe", "pods"][..]] {
                if let Ok(text) = self.kubectl(what) {
                    eprintln!("{text}");
                }
            }
        }
        if let Err(error) = self.reset() {
            eprintln!("reset failed: {error:#}");
        }
    }
}

/// Runs a command and gives what it prints.
///
/// # Errors
/// If it fails; with what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    finish(command, output)
}

fn finish(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{:?} {:?}: {}\n{}{}",
            command.get_program(),
            command.get_args().collect::<Vec<_>>(),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

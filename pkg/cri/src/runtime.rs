//! Calls of the OCI runtime's program, for pause processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::Error;

/// An OCI runtime by path, over one state folder.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub program: PathBuf,
    pub root: PathBuf,
}

impl Runtime {
    async fn run(&self, what: &'static str, args: &[&std::ffi::OsStr]) -> Result<(), Error> {
        let output = Command::new(&self.program)
            .arg("--root")
            .arg(&self.root)
            .args(["--log-format", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .await
            .map_err(Error::io("start", &self.program))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Runtime {
            what,
            message: last_message(&String::from_utf8_lossy(&output.stderr)),
        })
    }

    /// Makes a container whose process waits; gives its pid.
    pub(crate) async fn create(&self, id: &str, bundle: &Path) -> Result<i32, Error> {
        let (pid_file, log) = (bundle.join("pid"), bundle.join("runtime.log"));
        let output = Command::new(&self.program)
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "create", "--bundle"])
            .arg(bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(id)
            .stdin(Stdio::null())
            // The container inherits both; a pipe would stay open for its whole life.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .map_err(Error::io("start", &self.program))?;
        if !output.success() {
            return Err(Error::Runtime {
                what: "OCI runtime create failed",
                message: last_message(&std::fs::read_to_string(&log).unwrap_or_default()),
            });
        }
        let text = std::fs::read_to_string(&pid_file).map_err(Error::io("read", &pid_file))?;
        text.trim().parse().map_err(|_| Error::Record {
            path: pid_file,
            reason: format!("no pid: {text:?}"),
        })
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), Error> {
        self.run("OCI runtime start failed", &["start".as_ref(), id.as_ref()]).await
    }

    /// Kills and removes; no error if it is gone.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), Error> {
        self.run(
            "OCI runtime delete failed",
            &["delete".as_ref(), "--force".as_ref(), id.as_ref()],
        )
        .await
    }
}

/// The last error of a runtime's log.
pub(crate) fn last_message(text: &str) -> String {
    let message = |line: &str| -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(value.get("msg")?.as_str()?.to_owned())
    };
    text.lines()
        .rev()
        .find_map(message)
        .or_else(|| text.lines().last().map(str::to_owned))
        .unwrap_or_else(|| "no reason given".to_owned())
}

//! One call of one plugin.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a plugin is called with.
pub(super) struct Call<'a> {
    pub command: &'a str,
    pub id: &'a str,
    pub netns: &'a str,
    pub interface: &'a str,
    pub arguments: &'a str,
    pub path: &'a [PathBuf],
    pub plugin: &'a str,
    pub input: Value,
}

impl<'a> Call<'a> {
    /// A call about the network as a whole.
    pub fn of_network(command: &'a str, path: &'a [PathBuf], plugin: &'a str, input: Value) -> Self {
        Self { command, id: "", netns: "", interface: "", arguments: "", path, plugin, input }
    }
}

/// A plugin's program.
pub(super) fn find(path: &[PathBuf], plugin: &str) -> Result<PathBuf, String> {
    path.iter().map(|dir| dir.join(plugin)).find(|p| p.is_file()).ok_or_else(|| {
        let dirs: Vec<_> = path.iter().map(|p| p.display().to_string()).collect();
        format!("failed to find plugin {plugin:?} in path [{}]", dirs.join(" "))
    })
}

/// Runs a plugin; gives its result, null if it printed none.
pub(super) async fn run(call: &Call<'_>) -> Result<Value, String> {
    let program = find(call.path, call.plugin)?;
    let path = std::env::join_paths(call.path).map_err(|e| e.to_string())?;
    let mut command = Command::new(&program);
    command
        .env("CNI_COMMAND", call.command)
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, value) in [
        ("CNI_CONTAINERID", call.id),
        ("CNI_NETNS", call.netns),
        ("CNI_IFNAME", call.interface),
        ("CNI_ARGS", call.arguments),
    ] {
        command.env(name, value);
    }
    let shown = |e: std::io::Error| format!("{}: {e}", program.display());
    let mut child = command.spawn().map_err(shown)?;
    let input = serde_json::to_vec(&call.input).map_err(|e| e.to_string())?;
    let mut stdin = child.stdin.take();
    let feed = async {
        if let Some(pipe) = &mut stdin {
            // A plugin may end without having read it all; how it ended says more.
            let _ = pipe.write_all(&input).await;
        }
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, both)
        .await
        .map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))?
        .map_err(shown)?;
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        return match answer {
            Some(value) => Ok(value),
            None if output.stdout.iter().all(u8::is_ascii_whitespace) => Ok(Value::Null),
            None => Err("its result is not JSON".into()),
        };
    }
    Err(failure(&program, answer.as_ref(), &output))
}

fn failure(program: &Path, answer: Option<&Value>, output: &std::process::Output) -> String {
    let text = |field: &str| answer.and_then(|a| a[field].as_str()).unwrap_or_default();
    match (text("msg"), text("details")) {
        ("", _) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("{} ended with {}: {}", program.display(), output.status, stderr.trim())
        }
        (msg, "") => msg.to_owned(),
        (msg, details) => format!("{msg}; {details}"),
    }
}

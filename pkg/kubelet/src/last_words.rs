//! A dead container's termination message.
use std::{fs, io::Read, path::Path};

use crate::{logs, model::Ctr};

/// Longest message file that is read, in bytes.
const FILE_MAX: u64 = 4096;
/// Most of the log that is taken: lines and bytes.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;

/// The message of `c`: its file, or the end of its log when it failed and asks for that.
pub fn read(pod_dir: &Path, log_dir: &Path, c: &Ctr) -> String {
    let path = match &c.message_file {
        Some(p) => p.into(),
        None => pod_dir
            .join("containers")
            .join(&c.name)
            .join(format!("{:08x}", c.attempt)),
    };
    let mut bytes = Vec::new();
    if let Ok(f) = fs::File::open(path) {
        let _ = f.take(FILE_MAX).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if !text.is_empty() || c.message_policy != "FallbackToLogsOnError" || c.exit_code == 0 {
        return text;
    }
    let log = if c.log_path.is_empty() {
        log_dir.join(&c.name).join(format!("{}.log", c.attempt))
    } else {
        (&c.log_path).into()
    };
    logs::tail(&log, LOG_LINES, LOG_BYTES)
}

//! Error lines in the form that callers parse.

use std::fs::{File, OpenOptions};
use std::io::Write;

use crate::args::Problem;

/// Where errors go besides the error stream.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    json: bool,
}

impl Log {
    /// From the global flags.
    pub fn new(path: Option<&str>, format: Option<&str>, _debug: bool) -> Result<Self, Problem> {
        let json = match format {
            None | Some("" | "text") => false,
            Some("json") => true,
            Some(other) => return Err(Problem::new(format!("invalid log-format: {other}"))),
        };
        let file = match path {
            None | Some("" | "/dev/stderr") => None,
            Some(path) => Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|e| Problem::new(format!("open {path}: {e}")))?,
            ),
        };
        Ok(Self { file, json })
    }

    /// Reports the error that ends the program.
    pub fn error(&mut self, message: &str) {
        let time = knarr_oci::now();
        // Seconds are enough here.
        let time = format!("{}Z", time.split('.').next().unwrap_or_default());
        let line = if self.json {
            serde_json::json!({"level": "error", "msg": message, "time": time}).to_string()
        } else {
            format!("time={time:?} level=error msg={message:?}")
        };
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{line}");
            let _ = writeln!(std::io::stderr(), "{message}");
        } else {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

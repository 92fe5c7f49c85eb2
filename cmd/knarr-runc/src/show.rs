//! state, list, ps.

use crate::args::Problem;
use crate::help::print;
use crate::{Call, Done};

fn to_text<T: Into<serde_json::Value>>(value: T) -> Result<String, Problem> {
    serde_json::to_string_pretty(&value.into()).map_err(|e| Problem::new(e.to_string()))
}

fn value(state: &knarr_oci::State) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(state).map_err(|e| Problem::new(e.to_string()))
}

/// `state`.
pub fn state(call: &Call) -> Done {
    let state = call.runtime.state(call.id()?)?;
    print(&format!("{}\n", to_text(value(&state)?)?));
    Ok(0)
}

/// `list`.
pub fn list(call: &Call) -> Done {
    let all = call.runtime.list()?;
    if call.parsed.has("quiet") {
        for s in &all {
            print(&format!("{}\n", s.id));
        }
        return Ok(0);
    }
    match call.parsed.value("format") {
        None | Some("table") => {
            let mut rows =
                vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
            rows.extend(all.iter().map(|s| {
                [
                    s.id.clone(),
                    s.pid.to_string(),
                    s.status.as_str().to_string(),
                    s.bundle.display().to_string(),
                    s.created.clone(),
                    s.owner.clone(),
                ]
            }));
            print(&table(&rows));
        }
        Some("json") => {
            let values = all.iter().map(value).collect::<Result<Vec<_>, _>>()?;
            let text = if values.is_empty() {
                "null".to_string()
            } else {
                serde_json::Value::from(values).to_string()
            };
            print(&text);
        }
        Some(other) => return Err(Problem::new(format!("invalid format option {other:?}"))),
    }
    Ok(0)
}

/// Columns as wide as their widest cell, at least 12.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [12usize; N];
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.len() + 1);
        }
    }
    let mut out = String::new();
    for row in rows {
        for (i, (w, cell)) in widths.iter().zip(row).enumerate() {
            if i + 1 == N {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:<w$}"));
            }
        }
        out.push('\n');
    }
    out
}

/// `ps`: as JSON the pids, as a table the lines of the system's `ps` that are of the container.
pub fn ps(call: &Call) -> Done {
    let (id, options) = call
        .parsed
        .rest
        .split_first()
        .ok_or_else(|| Problem::new("container id cannot be empty"))?;
    let pids = call.runtime.pids(id)?;
    match call.parsed.value("format") {
        Some("json") => {
            print(&format!("{}\n", serde_json::json!(pids)));
            return Ok(0);
        }
        None | Some("table") => {}
        Some(other) => return Err(Problem::new(format!("invalid format option {other:?}"))),
    }
    let mut command = std::process::Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command
        .output()
        .map_err(|e| Problem::new(format!("exec: \"ps\": {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Problem::new(format!("{}: {}", output.status, said.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let at = title
        .split_whitespace()
        .position(|w| w == "PID")
        .ok_or_else(|| Problem::new("couldn't find PID field in ps output"))?;
    print(&format!("{title}\n"));
    for line in lines {
        let pid = line.split_whitespace().nth(at).and_then(|p| p.parse().ok());
        if pid.is_some_and(|p| pids.contains(&p)) {
            print(&format!("{line}\n"));
        }
    }
    Ok(0)
}

//! update.

use knarr_cgroups::{BlockIo, Cpu, Memory, Pids, Resources};

use crate::args::Problem;
use crate::{Call, Done};

/// `update`.
pub fn update(call: &Call) -> Done {
    let p = &call.parsed;
    let resources = match p.value("resources") {
        Some(path) => from_file(path)?,
        None => from_flags(call)?,
    };
    call.runtime.update(call.id()?, &resources)?;
    Ok(0)
}

fn from_file(path: &str) -> Result<Resources, Problem> {
    let text = if path == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|e| Problem::new(format!("open {path}: {e}")))?;
    serde_json::from_str(&text).map_err(|e| Problem::new(format!("{path}: {e}")))
}

fn from_flags(call: &Call) -> Result<Resources, Problem> {
    let p = &call.parsed;
    let bytes = |name: &str| p.value(name).map(|v| size(name, v)).transpose();
    let mut r = Resources {
        cpu: Some(Cpu {
            shares: p.number("cpu-share")?,
            quota: p.number("cpu-quota")?,
            burst: p.number("cpu-burst")?,
            period: p.number("cpu-period")?,
            realtime_runtime: p.number("cpu-rt-runtime")?,
            realtime_period: p.number("cpu-rt-period")?,
            cpus: p.value("cpuset-cpus").map(String::from),
            mems: p.value("cpuset-mems").map(String::from),
            idle: p.number("cpu-idle")?,
        }),
        memory: Some(Memory {
            limit: bytes("memory")?,
            reservation: bytes("memory-reservation")?,
            swap: bytes("memory-swap")?,
            check_before_update: None,
            ..Memory::default()
        }),
        ..Resources::default()
    };
    if let Some(weight) = p.number("blkio-weight")? {
        r.block_io = Some(BlockIo {
            weight: Some(weight),
            ..BlockIo::default()
        });
    }
    if let Some(limit) = p.number("pids-limit")? {
        r.pids = Some(Pids { limit: Some(limit) });
    }
    Ok(r)
}

/// Bytes, with a unit of powers of 1024; -1 stays.
fn size(name: &str, text: &str) -> Result<i64, Problem> {
    let bad = || Problem::new(format!("invalid value for {name}: {text:?}"));
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let short = lower.trim_end_matches('b').trim_end_matches('i');
    let digits = short.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i64 = match short.get(digits.len()..).unwrap_or_default() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(bad()),
    };
    let number: i64 = digits.trim().parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_with_units() {
        for (text, bytes) in [
            ("-1", -1),
            ("10", 10),
            ("2k", 2048),
            ("1Mb", 1 << 20),
            ("3GiB", 3 << 30),
        ] {
            assert_eq!(size("memory", text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "x", "1q", "9999999999g"] {
            assert!(size("memory", bad).is_err(), "{bad}");
        }
    }
}

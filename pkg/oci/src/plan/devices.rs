//! Device nodes, and access to devices.

use knarr_cgroups::{DeviceRule, Resources};

use crate::config::{Device, Linux};
use crate::error::Error;
use crate::plan::{DevicePlan, Plan, Step, check_absolute};

const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;

/// The configured limits with the access to default devices that every container has.
pub(super) fn resources(linux: &Linux) -> Resources {
    let mut r = linux.resources.clone();
    if r.devices.is_empty() {
        // No rule at all means: deny all but the default devices.
        r.devices.push(DeviceRule {
            allow: false,
            kind: "a".into(),
            access: "rwm".into(),
            ..DeviceRule::default()
        });
    }
    let mut allow = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| {
        r.devices.push(DeviceRule {
            allow: true,
            kind: kind.into(),
            major,
            minor,
            access: access.into(),
        });
    };
    // Any node may be made, but only these may be used.
    allow("c", None, None, "m");
    allow("b", None, None, "m");
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        allow("c", Some(major), Some(minor), "rwm");
    }
    allow("c", Some(136), None, "rwm");
    r
}

/// Steps that make the default nodes and those of the configuration.
pub(super) fn nodes(plan: &mut Plan, devices: &[Device], bind: bool) -> Result<(), Error> {
    let node = |path: &str, minor: u32, major: u32| DevicePlan {
        path: path.into(),
        kind: S_IFCHR,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        bind,
    };
    let defaults = [
        node("/dev/null", 3, 1),
        node("/dev/zero", 5, 1),
        node("/dev/full", 7, 1),
        node("/dev/random", 8, 1),
        node("/dev/urandom", 9, 1),
        node("/dev/tty", 0, 5),
    ];
    for d in defaults {
        if !devices.iter().any(|c| c.path == d.path) {
            plan.outside.push(Step::Device(d));
        }
    }
    for (i, d) in devices.iter().enumerate() {
        let field = format!("linux.devices[{i}]");
        check_absolute(&format!("{field}.path"), &d.path)?;
        if d.path == "/dev/ptmx" {
            continue;
        }
        let kind = match d.kind.as_str() {
            "c" | "u" => S_IFCHR,
            "b" => S_IFBLK,
            "p" => S_IFIFO,
            other => {
                let cause = format!("unknown type {other:?}");
                return Err(Error::config(format!("{field}.type"), cause));
            }
        };
        let number = |name: &str, n: i64| {
            u32::try_from(n)
                .map_err(|_| Error::config(format!("{field}.{name}"), format!("{n} is no number")))
        };
        plan.outside.push(Step::Device(DevicePlan {
            path: d.path.clone(),
            kind,
            major: number("major", d.major)?,
            minor: number("minor", d.minor)?,
            mode: d.file_mode.unwrap_or(0o666) & 0o7777,
            uid: d.uid.unwrap_or(0),
            gid: d.gid.unwrap_or(0),
            bind,
        }));
    }
    Ok(())
}

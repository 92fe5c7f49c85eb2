//! Where a container's cgroup is.

use knarr_cgroups::systemd::{self, Unit};

use crate::error::Error;
use crate::plan::Options;

pub(super) fn path(configured: &str, opt: Options<'_>) -> Result<String, Error> {
    if configured.split('/').any(|p| p == "..") {
        return Err(Error::config(
            "linux.cgroupsPath",
            "must not contain \"..\"",
        ));
    }
    if opt.systemd_cgroup || is_systemd_form(configured) {
        return systemd_path(configured, opt.id);
    }
    match configured {
        // Below our own, so that it works where only that was handed to us.
        "" => Ok(opt.id.to_string()),
        path => Ok(path.trim_end_matches('/').to_string()),
    }
}

/// The scope that systemd is to make, where it is the driver.
pub(super) fn unit(configured: &str, opt: Options<'_>) -> Result<Option<Unit>, Error> {
    if !opt.systemd_cgroup {
        return Ok(None);
    }
    if !systemd::is_running() {
        return Err(Error::Unsupported(
            "systemd does not run on this host: the systemd cgroup driver".into(),
        ));
    }
    let path = systemd_path(configured, opt.id)?;
    let mut names = path.rsplit('/');
    match (names.next(), names.next()) {
        (Some(name), slice) if name.ends_with(".scope") => Ok(Some(Unit {
            name: name.to_string(),
            slice: match slice {
                None | Some("") => "-.slice".to_string(),
                Some(slice) => slice.to_string(),
            },
        })),
        _ => Err(Error::config(
            "linux.cgroupsPath",
            "a container needs a scope, not a slice",
        )),
    }
}

fn is_systemd_form(path: &str) -> bool {
    !path.contains('/') && path.split(':').count() == 3
}

/// `slice:prefix:name` as the folder systemd would use.
pub(super) fn systemd_path(configured: &str, id: &str) -> Result<String, Error> {
    let text = if configured.is_empty() {
        format!(":knarr:{id}")
    } else {
        configured.to_string()
    };
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(Error::config(
            "linux.cgroupsPath",
            format!("expected \"slice:prefix:name\", got {configured:?}"),
        ));
    };
    let slice = if slice.is_empty() {
        if knarr_sys::process::geteuid() == 0 {
            "system.slice"
        } else {
            "user.slice"
        }
    } else {
        slice
    };
    let Some(stem) = slice.strip_suffix(".slice") else {
        return Err(Error::config(
            "linux.cgroupsPath",
            format!("{slice:?} is not a slice"),
        ));
    };
    let mut path = String::new();
    if stem != "-" {
        let mut so_far = String::new();
        for part in stem.split('-') {
            if part.is_empty() {
                let cause = format!("{slice:?} is not a slice");
                return Err(Error::config("linux.cgroupsPath", cause));
            }
            if !so_far.is_empty() {
                so_far.push('-');
            }
            so_far.push_str(part);
            path.push_str(&format!("/{so_far}.slice"));
        }
    }
    if name.ends_with(".slice") {
        return Ok(format!("{path}/{name}"));
    }
    let unit = if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    Ok(format!("{path}/{unit}"))
}

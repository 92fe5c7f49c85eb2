//! checkpoint and restore.

use std::path::{Path, PathBuf};

use knarr_oci::{CgroupMode, CheckpointOptions, CriuOptions, RestoreRequest, Status};
use knarr_sys::fs;

use crate::args::Problem;
use crate::{Call, Done, run};

/// `checkpoint`.
pub fn checkpoint(call: &Call) -> Done {
    let id = call.id()?;
    let p = &call.parsed;
    let status = call.runtime.state(id)?.status;
    if matches!(status, Status::Created | Status::Stopped) {
        return Err(Problem::new(format!(
            "container cannot be checkpointed in {} state",
            status.as_str()
        )));
    }
    let options = CheckpointOptions {
        parent: parent(call)?,
        leave_running: p.has("leave-running"),
        pre_dump: p.has("pre-dump"),
        tcp_skip_in_flight: p.has("tcp-skip-in-flight"),
        link_remap: p.has("link-remap"),
        page_server: p.value("page-server").map(page_server).transpose()?,
        status_fd: match p.number::<i32>("status-fd")? {
            None | Some(-1) => None,
            Some(n) => Some(
                fs::take_inherited(n)
                    .map_err(|e| Problem::new(format!("invalid --status-fd argument {n}: {e}")))?,
            ),
        },
        criu: criu(call)?,
    };
    let goes_on = options.leave_running || options.pre_dump;
    call.runtime.checkpoint(id, options)?;
    if !goes_on {
        // Whoever supervises it may have deleted it already.
        call.runtime.delete(id, true)?;
    }
    Ok(0)
}

/// `restore`: a container from its images, then as `run`.
pub fn restore(call: &Call) -> Done {
    let p = &call.parsed;
    let criu = criu(call)?;
    let labels = ["lsm-profile", "lsm-mount-context"].map(|n| p.value(n).map(String::from));
    run::bring_up(call, false, |container| {
        let [lsm_profile, lsm_mount_context] = labels;
        call.runtime.restore(RestoreRequest {
            container,
            criu,
            lsm_profile,
            lsm_mount_context,
        })
    })
}

fn images(call: &Call) -> PathBuf {
    PathBuf::from(call.parsed.value("image-path").unwrap_or("checkpoint"))
}

fn criu(call: &Call) -> Result<CriuOptions, Problem> {
    let p = &call.parsed;
    if let Some(other) = p.all("empty-ns").iter().find(|n| *n != "network") {
        return Err(Problem::new(format!(
            "namespace {other:?} is not supported"
        )));
    }
    Ok(CriuOptions {
        program: call.criu.clone().map(PathBuf::from),
        images: images(call),
        work: p.value("work-path").map(PathBuf::from),
        tcp_established: p.has("tcp-established"),
        ext_unix_sk: p.has("ext-unix-sk"),
        shell_job: p.has("shell-job"),
        file_locks: p.has("file-locks"),
        cgroups: match p.value("manage-cgroups-mode") {
            None | Some("") => None,
            Some("soft") => Some(CgroupMode::Soft),
            Some("full") => Some(CgroupMode::Full),
            Some("strict") => Some(CgroupMode::Strict),
            Some("ignore") => Some(CgroupMode::Ignore),
            Some(_) => return Err(Problem::new("invalid manage-cgroups-mode value")),
        },
        auto_dedup: p.has("auto-dedup"),
        lazy_pages: p.has("lazy-pages"),
    })
}

/// The images of the dump before, relative to this one's.
fn parent(call: &Call) -> Result<Option<PathBuf>, Problem> {
    let Some(parent) = call.parsed.value("parent-path").filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    if Path::new(parent).is_absolute() {
        return Err(Problem::new("--parent-path must be relative"));
    }
    let at = images(call).join(parent);
    match std::fs::metadata(&at) {
        Ok(m) if m.is_dir() => Ok(Some(parent.into())),
        Ok(_) => Err(Problem::new(format!(
            "invalid --parent-path: {at:?} is not a folder"
        ))),
        Err(e) => Err(Problem::new(format!("invalid --parent-path: {at:?}: {e}"))),
    }
}

fn page_server(text: &str) -> Result<(String, u16), Problem> {
    let (address, port) = text
        .rsplit_once(':')
        .filter(|(a, p)| !a.is_empty() && !p.is_empty())
        .ok_or_else(|| Problem::new("use --page-server ADDRESS:PORT to specify page server"))?;
    let port = port
        .parse()
        .map_err(|_| Problem::new(format!("invalid port number {port:?}")))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((address.into(), port))
}

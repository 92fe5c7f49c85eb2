//! Checkpoints of containers: an archive in the form that Kubernetes' tools read, with CRIU's
//! images, what the container wrote, and what it was.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::container::{Container, Phase};
use crate::flight::{blocking, detached};
use crate::{Cri, Error};

/// A folder that goes with its value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), error = %e, "a checkpoint's folder stays");
        }
    }
}

impl Cri {
    /// Writes a checkpoint of a container that runs, and goes on running, to an archive.
    pub(crate) async fn checkpoint(
        self: &Arc<Self>,
        id: &str,
        location: &str,
        seconds: i64,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        let location = PathBuf::from(location);
        if !location.is_absolute() {
            return Err(Error::Invalid(format!(
                "the location {location:?} of a checkpoint must be absolute"
            )));
        }
        let limit = u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
        let late = Arc::new(AtomicBool::new(false));
        let (cri, given_up) = (self.clone(), late.clone());
        let work = detached(async move {
            let _op = container.op.lock().await;
            let phase = container.phase();
            if !matches!(phase, Phase::Running { .. }) {
                return Err(Error::State(format!(
                    "container {:?} is in {} state. only CONTAINER_RUNNING containers can be checkpointed",
                    container.id,
                    crate::status::state_of(&phase).as_str_name()
                )));
            }
            let scratch = Scratch(container.dir.join("checkpoint"));
            let images = scratch.0.join("checkpoint");
            if scratch.0.exists() {
                let left = &scratch.0;
                fs::remove_dir_all(left).map_err(Error::io("remove", left))?;
            }
            let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(&images);
            made.map_err(Error::io("create", &images))?;
            cri.dump(&container, &scratch.0, &images, limit).await?;
            if given_up.load(Ordering::Acquire) {
                return Ok(()); // nobody waits for the archive
            }
            let layer = cri.images.snapshot_dir(&container.id).join("u");
            let described = container.clone();
            blocking(move || {
                describe(&described, &scratch.0)?;
                let temp = location.with_extension("new");
                let packed = pack(&scratch.0, &layer, &temp)
                    .and_then(|()| fs::rename(&temp, &location));
                packed.map_err(|e| {
                    let _ = fs::remove_file(&temp); // may not be there
                    Error::io("write", &location)(e)
                })
            })
            .await
        });
        match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                late.store(true, Ordering::Release);
                let message = format!("no checkpoint in {} s", limit.as_secs());
                Err(Error::Deadline(message))
            }),
        }
    }

    /// A dump whose time is over goes on for as long again, as a container out of which CRIU is
    /// torn may not survive it; then CRIU and the runtime are killed, and the container thawed.
    async fn dump(
        &self,
        container: &Container,
        work: &Path,
        images: &Path,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let sandbox = self.sandbox(&container.record().sandbox)?;
        let program = self
            .handler(&sandbox.record().handler)?
            .unwrap_or_else(|| self.runtime.program.clone());
        let failed = |message: String| Error::Runtime {
            what: "checkpointing container failed",
            message,
        };
        let log = work.join("runtime.log");
        let mut child = tokio::process::Command::new(&program)
            .arg("--root")
            .arg(&self.runtime.root)
            .arg("--log")
            .arg(&log)
            .args([
                "--log-format",
                "json",
                "checkpoint",
                "--leave-running",
                "--image-path",
            ])
            .arg(images)
            .arg("--work-path")
            .arg(work)
            .arg(&container.id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("start", &program))?;
        let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let status = match limit {
            None => child.wait().await,
            Some(limit) => match tokio::time::timeout(limit * 2, child.wait()).await {
                Ok(status) => status,
                Err(_) => {
                    if let Some(group) = group {
                        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                    }
                    let status = child.wait().await;
                    let _ = tokio::process::Command::new(&program) // it may be running already
                        .arg("--root")
                        .arg(&self.runtime.root)
                        .args(["resume", &container.id])
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .status()
                        .await;
                    status
                }
            },
        }
        .map_err(Error::io("wait for", &program))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(&log).unwrap_or_default();
        Err(failed(crate::runtime::last_message(&text)))
    }
}

/// What the container was, beside the images.
fn describe(container: &Container, work: &Path) -> Result<(), Error> {
    let (record, config) = (container.record(), container.config());
    let time = |nanoseconds: i64| {
        jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
            .map_or_else(|_| String::new(), |t| t.to_string())
    };
    let name = config
        .metadata
        .as_ref()
        .map(|m| m.name.clone())
        .unwrap_or_default();
    let dump = json!({
        "id": container.id,
        "name": name,
        "rootfsImage": record.image_name,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": record.image_name,
        "runtime": "knarr-runc",
        "createdTime": time(record.created_at),
        "checkpointedTime": time(crate::record::now()),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    });
    let status = json!({
        "id": container.id,
        "metadata": { "name": name, "attempt": config.metadata.as_ref().map_or(0, |m| m.attempt) },
        "state": "CONTAINER_RUNNING",
        "createdAt": record.created_at,
        "image": { "image": record.image_name },
        "imageRef": record.image_ref,
        "labels": config.labels,
        "annotations": config.annotations,
        "logPath": record.log_path,
    });
    let write = |file: &str, bytes: &[u8]| {
        let path = work.join(file);
        fs::write(&path, bytes).map_err(Error::io("write", &path))
    };
    write("config.dump", dump.to_string().as_bytes())?;
    write("status.dump", status.to_string().as_bytes())?;
    let spec = container.dir.join("config.json");
    write(
        "spec.dump",
        &fs::read(&spec).map_err(Error::io("read", &spec))?,
    )?;
    if let Some(log) = record.log_path
        && Path::new(&log).exists()
    {
        fs::copy(&log, work.join("container.log")).map_err(Error::io("copy", &log))?;
    }
    Ok(())
}

/// All of the folder, and the writable layer as one archive in it.
fn pack(work: &Path, layer: &Path, to: &Path) -> std::io::Result<()> {
    let mut diff = tar::Builder::new(File::create(work.join("rootfs-diff.tar"))?);
    add_layer(&mut diff, layer, Path::new(""))?;
    diff.into_inner()?.flush()?;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    let mut out = tar::Builder::new(file);
    out.follow_symlinks(false);
    for entry in fs::read_dir(work)? {
        let (path, name) = entry.map(|e| (e.path(), e.file_name()))?;
        if path.is_dir() {
            out.append_dir_all(&name, &path)?;
        } else if name != "runtime.log" {
            out.append_path_with_name(&path, &name)?;
        }
    }
    out.into_inner()?.sync_all()
}

/// A layer as archives have it: what it hides is named by a mark.
fn add_layer(out: &mut tar::Builder<File>, layer: &Path, below: &Path) -> std::io::Result<()> {
    out.follow_symlinks(false);
    for entry in fs::read_dir(layer.join(below))? {
        let entry = entry?;
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        let meta = fs::symlink_metadata(&path)?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            let mut hidden = std::ffi::OsString::from(".wh.");
            hidden.push(entry.file_name());
            mark(out, &below.join(hidden))?;
        } else if !kind.is_socket() {
            out.append_path_with_name(&path, &name)?;
            if kind.is_dir() {
                // It hides all that is below it.
                let mut opaque = [0; 1];
                if rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut opaque) == Ok(1)
                    && opaque == *b"y"
                {
                    mark(out, &name.join(".wh..wh..opq"))?;
                }
                add_layer(out, layer, &name)?;
            }
        }
    }
    Ok(())
}

/// An empty file whose name says something.
fn mark(out: &mut tar::Builder<File>, name: &Path) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o600);
    out.append_data(&mut header, name, std::io::empty())
}

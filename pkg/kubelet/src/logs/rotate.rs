//! Rotation: a log that has grown too large gets a dated name, and the runtime a new file.
use std::{io, path::Path};

use knarr_cri_api::v1;

use crate::{cri::Cri, logs};

/// Rotates `current` of container `id` when it is greater than `max` bytes, keeping `keep` files.
///
/// # Errors
/// When files cannot be renamed; the log then goes on in the old file.
pub async fn check(cri: &Cri, id: &str, current: &Path, max: u64, keep: u32) -> io::Result<bool> {
    let len = match std::fs::metadata(current) {
        Ok(m) => m.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if len <= max {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%3f").to_string();
    let mut old = current.as_os_str().to_owned();
    old.push(format!(".{stamp}"));
    std::fs::rename(current, &old)?;
    let reopened = cri
        .reopen_container_log(v1::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        })
        .await;
    if let Err(error) = reopened {
        tracing::warn!(%error, container = id, "reopening a log");
        std::fs::rename(&old, current)?;
        return Ok(false);
    }
    let files = logs::files(current);
    let surplus = files.len().saturating_sub(keep.max(2) as usize);
    for f in files.iter().take(surplus) {
        std::fs::remove_file(f)?;
    }
    Ok(true)
}

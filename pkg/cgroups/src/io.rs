//! Block I/O limits of both versions.

use crate::apply::need_v2;
use crate::cgroup::Dir;
use crate::{BlockIo, Cgroup, Error, Resources};

pub(crate) fn apply(cgroup: &Cgroup, r: &Resources) -> Result<(), Error> {
    let Some(io) = &r.block_io else {
        return Ok(());
    };
    match cgroup.v1("blkio") {
        Some(dir) => v1(dir, io),
        None if *io == BlockIo::default() => Ok(()),
        None => v2(need_v2(cgroup, "io", "blockIO")?, io),
    }
}

/// The first of these files that exists takes the value.
fn first(dir: &Dir, files: &[&str], value: &str, wanted: &str) -> Result<(), Error> {
    match files.iter().find(|f| dir.exists(f)) {
        Some(file) => dir.write(file, value),
        None => Err(Error::NoController {
            controller: "blkio weight".into(),
            wanted: wanted.into(),
        }),
    }
}

fn v1(dir: &Dir, io: &BlockIo) -> Result<(), Error> {
    if let Some(w) = io.weight.filter(|w| *w != 0) {
        let files = ["blkio.weight", "blkio.bfq.weight"];
        first(dir, &files, &w.to_string(), "blockIO.weight")?;
    }
    if let Some(w) = io.leaf_weight.filter(|w| *w != 0) {
        let files = ["blkio.leaf_weight"];
        first(dir, &files, &w.to_string(), "blockIO.leafWeight")?;
    }
    for d in &io.weight_device {
        if let Some(w) = d.weight.filter(|w| *w != 0) {
            let files = ["blkio.weight_device", "blkio.bfq.weight_device"];
            let line = format!("{}:{} {w}", d.major, d.minor);
            first(dir, &files, &line, "blockIO.weightDevice")?;
        }
        if let Some(w) = d.leaf_weight.filter(|w| *w != 0) {
            let line = format!("{}:{} {w}", d.major, d.minor);
            let files = ["blkio.leaf_weight_device"];
            first(dir, &files, &line, "blockIO.weightDevice")?;
        }
    }
    for (file, list) in [
        (
            "blkio.throttle.read_bps_device",
            &io.throttle_read_bps_device,
        ),
        (
            "blkio.throttle.write_bps_device",
            &io.throttle_write_bps_device,
        ),
        (
            "blkio.throttle.read_iops_device",
            &io.throttle_read_iops_device,
        ),
        (
            "blkio.throttle.write_iops_device",
            &io.throttle_write_iops_device,
        ),
    ] {
        for d in list {
            dir.write(file, &format!("{}:{} {}", d.major, d.minor, d.rate))?;
        }
    }
    Ok(())
}

fn v2(dir: &Dir, io: &BlockIo) -> Result<(), Error> {
    // OCI weights run from 10 to 1000, those of io.weight from 1 to 10000.
    let scaled = |w: u16| 1 + (u64::from(w).saturating_sub(10) * 9999) / 990;
    if let Some(w) = io.weight.filter(|w| *w != 0) {
        if dir.exists("io.bfq.weight") {
            dir.write("io.bfq.weight", &w.to_string())?;
        } else {
            let value = scaled(w).to_string();
            first(dir, &["io.weight"], &value, "blockIO.weight")?;
        }
    }
    for d in &io.weight_device {
        if let Some(w) = d.weight.filter(|w| *w != 0) {
            let line = format!("{}:{} {w}", d.major, d.minor);
            first(dir, &["io.bfq.weight"], &line, "blockIO.weightDevice")?;
        }
    }
    for (key, list) in [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ] {
        for d in list {
            let rate = if d.rate == 0 {
                "max".to_string()
            } else {
                d.rate.to_string()
            };
            dir.write("io.max", &format!("{}:{} {key}={rate}", d.major, d.minor))?;
        }
    }
    Ok(())
}

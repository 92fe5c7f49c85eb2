//! The freezer of both versions.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::cgroup::Dir;
use crate::{Cgroup, Error};

const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn set(cgroup: &Cgroup, on: bool) -> Result<(), Error> {
    if let Some(dir) = cgroup.v1("freezer") {
        return set_v1(dir, on);
    }
    match cgroup.v2() {
        Some(dir) if dir.exists("cgroup.freeze") => set_v2(dir, on),
        _ => Err(Error::NoController {
            controller: "freezer".into(),
            wanted: "pause".into(),
        }),
    }
}

pub(crate) fn is_frozen(cgroup: &Cgroup) -> bool {
    if let Some(dir) = cgroup.v1("freezer") {
        return dir
            .read("freezer.state")
            .is_some_and(|s| s.trim() != "THAWED");
    }
    cgroup
        .v2()
        .and_then(|d| d.read("cgroup.freeze"))
        .is_some_and(|s| s.trim() == "1")
}

/// The kernel may stay in FREEZING when a member was just forking; writing again helps, and now
/// and then a short thaw.
fn set_v1(dir: &Dir, on: bool) -> Result<(), Error> {
    if !on {
        return dir.write("freezer.state", "THAWED");
    }
    let start = Instant::now();
    let mut tries = 0u32;
    loop {
        tries += 1;
        if tries % 50 == 49 {
            dir.write("freezer.state", "THAWED")?;
            std::thread::sleep(Duration::from_micros(200));
        }
        dir.write("freezer.state", "FROZEN")?;
        for _ in 0..10 {
            match dir.read("freezer.state").as_deref().map(str::trim) {
                Some("FROZEN") => return Ok(()),
                None => break,
                Some(_) => std::thread::sleep(Duration::from_micros(20)),
            }
        }
        if start.elapsed() > LIMIT {
            dir.write("freezer.state", "THAWED")?;
            return Err(Error::Path {
                path: dir.path.clone(),
                cause: "its members do not freeze".into(),
            });
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn set_v2(dir: &Dir, on: bool) -> Result<(), Error> {
    let want = if on { "frozen 1" } else { "frozen 0" };
    let path = dir.path.join("cgroup.events");
    let io = |source: std::io::Error| Error::Io {
        action: "watch",
        path: path.clone(),
        source,
    };
    let events = std::fs::File::open(&path).map_err(io)?;
    dir.write("cgroup.freeze", if on { "1" } else { "0" })?;
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let text = std::fs::read_to_string(&path).map_err(io)?;
        if text.lines().any(|l| l == want) {
            return Ok(());
        }
        // A change of the file's content shows as a priority event.
        let _ = knarr_sys::fs::poll_events(events.as_fd(), 0x2, 50);
    }
    if on {
        dir.write("cgroup.freeze", "0")?;
    }
    Err(Error::Path {
        path: dir.path.clone(),
        cause: "its members do not freeze".into(),
    })
}

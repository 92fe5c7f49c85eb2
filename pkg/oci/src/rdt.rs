//! Intel RDT: shares of cache and memory bandwidth, by the kernel's resctrl file system.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::IntelRdt;
use crate::error::Error;

/// Where resctrl is mounted.
pub const MOUNT: &str = "/sys/fs/resctrl";

/// A container's class of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    folder: PathBuf,
    lines: Vec<String>,
    monitor: Option<PathBuf>,
}

impl Class {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Unsupported`] where resctrl is not mounted.
    pub fn plan(rdt: &IntelRdt, id: &str, mount: &Path) -> Result<Self, Error> {
        let name = match rdt.clos_id.as_str() {
            "" => id,
            given => given,
        };
        if matches!(name, "." | ".." | "info" | "mon_groups" | "mon_data")
            || name.contains(['/', '\n'])
        {
            return Err(Error::config(
                "linux.intelRdt.closID",
                format!("{name:?} is not a name of a class"),
            ));
        }
        let mut lines = Vec::new();
        for (field, prefix, line) in [
            ("l3CacheSchema", "L3", &rdt.l3_cache_schema),
            ("memBwSchema", "MB", &rdt.mem_bw_schema),
        ] {
            if line.is_empty() {
                continue;
            }
            if !line.starts_with(prefix) || line.contains('\n') {
                return Err(Error::config(
                    format!("linux.intelRdt.{field}"),
                    format!("{line:?} is not a line of it"),
                ));
            }
            lines.push(line.clone());
        }
        lines.extend(rdt.schemata.iter().cloned());
        if lines.iter().any(|l| l.contains('\n')) {
            return Err(Error::config(
                "linux.intelRdt.schemata",
                "a line holds a line break",
            ));
        }
        if !mount.join("info").is_dir() {
            return Err(Error::Unsupported(format!(
                "linux.intelRdt: resctrl is not mounted at {mount:?}: it"
            )));
        }
        let folder = mount.join(name);
        let monitor = rdt
            .enable_monitoring
            .then(|| folder.join("mon_groups").join(id));
        Ok(Self {
            folder,
            lines,
            monitor,
        })
    }

    /// Makes the class; answers the folders that were not there before, the outer one first.
    ///
    /// # Errors
    /// [`Error::Os`]; what was made is removed again.
    pub fn make(&self) -> Result<Vec<PathBuf>, Error> {
        let mut made = Vec::new();
        let done = self.make_into(&mut made);
        if done.is_err() {
            remove(&made);
        }
        done.map(|()| made)
    }

    fn make_into(&self, made: &mut Vec<PathBuf>) -> Result<(), Error> {
        for folder in [Some(&self.folder), self.monitor.as_ref()]
            .into_iter()
            .flatten()
        {
            match fs::create_dir(folder) {
                Ok(()) => made.push(folder.clone()),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::os(format!("make {folder:?}"), e)),
            }
        }
        if self.lines.is_empty() {
            return Ok(());
        }
        let path = self.folder.join("schemata");
        fs::write(&path, self.lines.join("\n") + "\n")
            .map_err(|e| Error::os(format!("write {path:?}"), e))
    }

    /// Puts a process into the class.
    ///
    /// # Errors
    /// [`Error::Os`].
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        let tasks = self.monitor.as_ref().unwrap_or(&self.folder).join("tasks");
        fs::write(&tasks, pid.to_string()).map_err(|e| Error::os(format!("write {tasks:?}"), e))
    }
}

/// Removes what [`Class::make`] made.
pub fn remove(made: &[PathBuf]) {
    for folder in made.iter().rev() {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ordinary folders in place of the file system: what is made and written where.
    #[test]
    fn a_class_is_made_filled_and_removed() {
        let mount = std::env::temp_dir().join(format!("knarr-rdt-{}", std::process::id()));
        fs::create_dir_all(mount.join("info")).unwrap();
        let rdt = IntelRdt {
            l3_cache_schema: "L3:0=f".into(),
            schemata: vec!["MB:0=20".into()],
            ..IntelRdt::default()
        };
        let class = Class::plan(&rdt, "c1", &mount).unwrap();
        let made = class.make().unwrap();
        assert_eq!(made, [mount.join("c1")]);
        let text = fs::read_to_string(mount.join("c1/schemata")).unwrap();
        assert_eq!(text, "L3:0=f\nMB:0=20\n");
        class.add(7).unwrap();
        assert_eq!(fs::read_to_string(mount.join("c1/tasks")).unwrap(), "7");
        // A class that was there stays.
        assert_eq!(class.make().unwrap(), Vec::<PathBuf>::new());
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn bad_classes_are_refused() {
        let bad = |change: fn(&mut IntelRdt)| {
            let mut rdt = IntelRdt::default();
            change(&mut rdt);
            Class::plan(&rdt, "c1", Path::new("/nowhere"))
                .unwrap_err()
                .to_string()
        };
        assert!(bad(|r| r.clos_id = "..".into()).contains("closID"));
        assert!(bad(|r| r.clos_id = "a/b".into()).contains("closID"));
        assert!(bad(|r| r.l3_cache_schema = "MB:0=1".into()).contains("l3CacheSchema"));
        assert!(bad(|r| r.schemata = vec!["a\nb".into()]).contains("schemata"));
        assert!(bad(|_| ()).contains("not mounted"));
    }
}

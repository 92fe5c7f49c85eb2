//! Which sandbox has which address: one small file per sandbox, written before the address is
//! used and removed after it is free. A file is replaced by rename, so a killed process leaves
//! the old state or the new. Nothing is forced to disk: after a loss of power no sandbox lives,
//! and what the files say then is dropped by `gc`.

use crate::Error;
use crate::cidr::Cidr;
use crate::types::{Bandwidth, HostPort};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// A sandbox's network as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub sandbox_id: String,
    pub ip: Ipv4Addr,
    pub host_interface: String,
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// Grows with every lease; the highest tells where to go on.
    pub sequence: u64,
}

#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    cidr: Cidr,
    by_id: HashMap<String, Lease>,
    taken: HashSet<Ipv4Addr>,
    sequence: u64,
    next: u64,
}

pub(crate) fn io<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// Whether an id can be a file's name.
fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Leases {
    /// Reads what is on disk. A file that cannot be parsed belongs to nobody and is removed.
    pub fn open(dir: PathBuf, cidr: Cidr) -> Result<Self, Error> {
        std::fs::create_dir_all(&dir).map_err(io("make folder", &dir))?;
        let mut s = Self {
            dir,
            cidr,
            by_id: HashMap::new(),
            taken: HashSet::new(),
            sequence: 0,
            next: 2,
        };
        for entry in std::fs::read_dir(&s.dir).map_err(io("read folder", &s.dir))? {
            let path = entry.map_err(io("read folder", &s.dir))?.path();
            let bytes = match std::fs::read(&path) {
                Ok(b) => b,
                Err(e) => return Err(io("read lease", &path)(e)),
            };
            match serde_json::from_slice::<Lease>(&bytes) {
                Ok(l) if path.file_stem().is_some_and(|n| n == l.sandbox_id.as_str())
                    && path.extension().is_some_and(|x| x == "json")
                    && !s.taken.contains(&l.ip) =>
                {
                    if l.sequence >= s.sequence {
                        s.sequence = l.sequence;
                        s.next = cidr.offset(l.ip).map_or(2, |o| o + 1);
                    }
                    s.taken.insert(l.ip);
                    s.by_id.insert(l.sandbox_id.clone(), l);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "removing a broken address lease");
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(s)
    }

    pub fn get(&self, id: &str) -> Option<&Lease> {
        self.by_id.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_id.values()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Addresses for pods: all but the network's, the gateway's and the broadcast address.
    pub fn capacity(&self) -> usize {
        usize::try_from(self.cidr.size().saturating_sub(3)).unwrap_or(usize::MAX)
    }

    /// A free address, going round so that one just freed is not used again at once.
    pub fn pick(&mut self) -> Result<(Ipv4Addr, u64), Error> {
        let (low, high) = (2, self.cidr.size().saturating_sub(1));
        let span = high.saturating_sub(low);
        for i in 0..span {
            let offset = low + (self.next.saturating_sub(low) + i) % span;
            let ip = self.cidr.at(offset);
            if !self.taken.contains(&ip) {
                self.next = offset + 1;
                self.sequence += 1;
                return Ok((ip, self.sequence));
            }
        }
        Err(Error::Exhausted {
            cidr: format!("{}/{}", self.cidr.base, self.cidr.prefix),
            used: self.taken.len(),
        })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Records a lease; it holds when this returns.
    pub fn put(&mut self, l: Lease) -> Result<(), Error> {
        if !valid_id(&l.sandbox_id) {
            return Err(Error::Invalid {
                field: "sandbox_id",
                value: l.sandbox_id,
                reason: "letters, digits, dashes, at most 128".into(),
            });
        }
        let path = self.path(&l.sandbox_id);
        let tmp = self.dir.join(format!("{}.tmp", l.sandbox_id));
        let bytes = serde_json::to_vec(&l)
            .map_err(|e| io("encode lease", &path)(std::io::Error::other(e)))?;
        std::fs::write(&tmp, bytes).map_err(io("write lease", &tmp))?;
        std::fs::rename(&tmp, &path).map_err(io("write lease", &path))?;
        self.taken.insert(l.ip);
        self.by_id.insert(l.sandbox_id.clone(), l);
        Ok(())
    }

    /// Frees a lease.
    pub fn remove(&mut self, id: &str) -> Result<(), Error> {
        let Some(l) = self.by_id.get(id) else { return Ok(()) };
        let ip = l.ip;
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove lease", &path)(e));
            }
            _ => {}
        }
        self.taken.remove(&ip);
        self.by_id.remove(id);
        Ok(())
    }

    /// The lease that has this host port in the way of another.
    pub fn port_conflict(&self, id: &str, p: &HostPort) -> Option<&Lease> {
        self.iter().filter(|l| l.sandbox_id != id).find(|l| {
            l.host_ports.iter().any(|q| {
                q.host_port == p.host_port
                    && q.protocol == p.protocol
                    && q.specific_ip() == p.specific_ip()
            })
        })
    }
}

impl HostPort {
    /// The host address if it is not all of them.
    pub(crate) fn specific_ip(&self) -> Option<std::net::IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }
}

#[cfg(test)]
mod tests;

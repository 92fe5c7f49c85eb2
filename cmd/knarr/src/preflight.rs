//! What must hold before anything is touched: one clear line for each thing that does not.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use anyhow::{Result, bail};

/// Whether this process may do what a node has to.
///
/// # Errors
/// Names what is missing and what to do.
pub fn privileges() -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("knarr must run as root (it makes namespaces, mounts and interfaces): try sudo");
    }
    Ok(())
}

/// Whether the kernel has what containers need.
///
/// # Errors
/// Names what is missing and what to do.
pub fn kernel() -> Result<()> {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| filesystems.lines().any(|l| l.split_whitespace().last() == Some(name));
    if !has("overlay") {
        bail!("this kernel has no overlay file system: try `modprobe overlay`");
    }
    if !has("cgroup") && !has("cgroup2") {
        bail!("this kernel has no control groups");
    }
    if !Path::new("/sys/fs/cgroup").is_dir()
        || fs::read_dir("/sys/fs/cgroup").is_ok_and(|mut d| d.next().is_none())
    {
        bail!("no control groups are mounted at /sys/fs/cgroup");
    }
    for (name, file) in [
        ("network", "/proc/self/ns/net"),
        ("PID", "/proc/self/ns/pid"),
        ("IPC", "/proc/self/ns/ipc"),
        ("UTS", "/proc/self/ns/uts"),
    ] {
        if !Path::new(file).exists() {
            bail!("this kernel has no {name} namespaces");
        }
    }
    Ok(())
}

/// Whether an address is free to listen on.
///
/// # Errors
/// Names the address and the flag that moves it.
pub fn free(address: SocketAddr, flag: &str) -> Result<()> {
    if let Err(error) = TcpListener::bind(address) {
        bail!(
            "cannot listen on {address}: {error}; stop what uses it, or choose another with {flag}"
        );
    }
    Ok(())
}

/// The address other machines reach this one at: that of the default route, else the first that
/// is not loopback, else loopback.
#[must_use]
pub fn node_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let routed = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| {
            socket.connect("203.0.113.1:9")?;
            socket.local_addr()
        })
        .map(|address| address.ip());
    routed.unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// The machine's name as a Kubernetes node name.
#[must_use]
pub fn node_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_default()
        .to_lowercase();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' })
        .collect();
    let name = name.trim_matches(|c| c == '-' || c == '.').to_owned();
    if name.is_empty() { "knarr".into() } else { name }
}

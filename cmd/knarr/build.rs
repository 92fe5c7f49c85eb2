//! Builds the static helpers (`knarr-runc`, `knarr-shim`, `knarr-pause`) that knarr embeds.
//!
//! They are built by a cargo of their own because they are linked statically and for size, with
//! one profile whatever knarr itself is built for.
use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

const HELPERS: [(&str, &str); 3] = [
    ("knarr-runc-cmd", "knarr-runc"),
    ("knarr-shim-cmd", "knarr-shim"),
    ("knarr-pause", "knarr-pause"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for path in [
        "Cargo.lock",
        "pkg/sys",
        "pkg/cgroups",
        "pkg/oci",
        "pkg/shim",
        "cmd/knarr-runc",
        "cmd/knarr-shim",
        "cmd/knarr-pause",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let target = env::var("TARGET")?;
    // .../target/<profile>/build/knarr-<hash>/out
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let shared = out.ancestors().nth(4).ok_or("OUT_DIR is not where cargo puts it")?;
    let target_dir = shared.join("helpers");

    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .current_dir(&root)
        .args(["build", "--profile", "helper", "--target", &target, "--target-dir"])
        .arg(&target_dir)
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static",
        );
    if env::var_os("CARGO_NET_OFFLINE").is_some() {
        cargo.arg("--offline");
    }
    for (package, _) in HELPERS {
        cargo.args(["-p", package]);
    }
    // Settings meant for knarr's own build must not leak into the helpers' build.
    for (name, _) in env::vars() {
        if name.starts_with("CARGO_CFG_") || name.starts_with("CARGO_FEATURE_") {
            cargo.env_remove(name);
        }
    }
    if !cargo.status()?.success() {
        return Err("the static helpers could not be built".into());
    }
    for (_, binary) in HELPERS {
        let path = target_dir.join(&target).join("helper").join(binary);
        let variable = binary.to_uppercase().replace('-', "_");
        println!("cargo:rustc-env={variable}={}", path.display());
    }
    Ok(())
}

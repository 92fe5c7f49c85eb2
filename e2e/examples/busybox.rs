//! Writes the tests' busybox image to the archive named, for `knarr images import`.

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "busybox.tar".into());
    knarr_e2e::image::busybox(path.as_ref())
}

//! Compiles the CRI v1 descriptors in `api/cri` (facts only: names, numbers, types).
use std::{env, fs, path::Path};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../api/cri/v1.binpb");
    println!("cargo:rerun-if-changed={}", path.display());
    let descriptors = prost_types::FileDescriptorSet::decode(fs::read(path)?.as_slice())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

//! Compiles the KMS descriptors in `api/kms` (facts only: names, numbers, types).
use std::{env, fs, path::Path};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../api/kms/v2.binpb");
    println!("cargo:rerun-if-changed={}", path.display());
    let descriptors = prost_types::FileDescriptorSet::decode(fs::read(path)?.as_slice())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

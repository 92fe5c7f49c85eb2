//! knarr-shim
fn main() {}

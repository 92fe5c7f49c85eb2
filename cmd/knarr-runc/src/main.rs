//! knarr-runc
fn main() {}

//! knarr-pause
fn main() {}

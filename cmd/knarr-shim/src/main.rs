//! The per-container shim: `knarr-shim run DIR` and `knarr-shim adopt DIR`, started by the CRI
//! daemon. See the `knarr-shim` library.

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: knarr-shim run|adopt DIR
  run     create the container that DIR/shim.json describes, and look after it
  adopt   look after the container of a shim that was killed
The CRI daemon starts this; there is nothing in it for the command line.
";

fn main() -> ExitCode {
    // Containers can look at the processes that are made from this program.
    if let Err(e) = knarr_shim::server::protect_binary() {
        eprintln!("knarr-shim: {e}");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [mode, dir] if mode == "run" => ExitCode::from(knarr_shim::server::run(Path::new(dir))),
        [mode, dir] if mode == "adopt" => ExitCode::from(knarr_shim::server::adopt(Path::new(dir))),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

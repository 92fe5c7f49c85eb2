//! Help and version.

use std::io::Write;

use crate::Done;
use crate::args::{COMMANDS, Flag};

/// Prints a text. A closed pipe is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// `--version`.
pub fn version() -> Done {
    print(&format!(
        "knarr-runc version {}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        knarr_oci::OCI_VERSION
    ));
    Ok(0)
}

/// `help`.
pub fn overview() -> Done {
    let names: Vec<String> = COMMANDS.iter().map(|(n, _)| format!("   {n}\n")).collect();
    print(&format!(
        "NAME:\n   knarr-runc - OCI container runtime with runc's command line\n\nUSAGE:\n   knarr-runc [global options] command [command options] [arguments...]\n\nCOMMANDS:\n{}\nGLOBAL OPTIONS:\n   --debug  --log value  --log-format value  --root value  --systemd-cgroup\n   --rootless value  --criu value  --help, -h  --version, -v\n",
        names.concat()
    ));
    Ok(0)
}

/// `COMMAND --help`.
pub fn command(name: &str, flags: &[Flag]) -> Done {
    let mut text = format!("NAME:\n   knarr-runc {name}\n\nOPTIONS:\n");
    for (names, takes) in flags {
        let value = if *takes { " value" } else { "" };
        let names: Vec<String> = names
            .split(',')
            .map(|n| format!("{}{n}{value}", if n.len() > 1 { "--" } else { "-" }))
            .collect();
        text.push_str(&format!("   {}\n", names.join(", ")));
    }
    print(&text);
    Ok(0)
}

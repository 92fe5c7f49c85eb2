//! knarr-runc: a container runtime with runc's command line.

mod args;
mod checkpoint;
mod events;
mod exec;
mod features;
mod help;
mod log;
mod notify;
mod run;
mod show;
mod spec;
mod update;

use args::{Parsed, Problem};
use knarr_oci::Runtime;
use log::Log;

/// What a command leaves with.
pub type Done = Result<i32, Problem>;

/// What every command gets.
pub struct Call {
    /// The runtime over `--root`.
    pub runtime: Runtime,
    /// `--root`.
    pub root: String,
    /// `--criu`: the CRIU program.
    pub criu: Option<String>,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--rootless`: unset for `auto`.
    pub rootless: Option<bool>,
    /// The command's own flags and arguments.
    pub parsed: Parsed,
}

impl Call {
    /// The one container the command is about.
    pub fn id(&self) -> Result<&str, Problem> {
        match self.parsed.rest.as_slice() {
            [id] => Ok(id),
            [] => Err(Problem::new("container id cannot be empty")),
            more => Err(Problem::new(format!(
                "\"{}\" requires exactly 1 argument(s), got {}",
                self.parsed.command,
                more.len()
            ))),
        }
    }
}

const GLOBAL: &[(&str, bool)] = &[
    ("debug", false),
    ("log", true),
    ("log-format", true),
    ("root", true),
    ("criu", true),
    ("systemd-cgroup", false),
    ("rootless", true),
    ("help,h", false),
    ("version,v", false),
];

fn main() {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let mut log = Log::default();
    let code = match dispatch(&arguments, &mut log) {
        Ok(code) => code,
        Err(problem) => {
            log.error(&problem.message);
            problem.code
        }
    };
    std::process::exit(code);
}

fn dispatch(arguments: &[String], log: &mut Log) -> Done {
    let (global, rest) = args::leading(GLOBAL, arguments)?;
    *log = Log::new(
        global.value("log"),
        global.value("log-format"),
        global.has("debug"),
    )?;
    if global.has("version") {
        return help::version();
    }
    let Some((command, rest)) = rest.split_first() else {
        return help::overview();
    };
    if global.has("help") || command == "help" || command == "h" {
        return help::overview();
    }
    let Some((name, flags)) = args::COMMANDS.iter().find(|(n, _)| n == command) else {
        return Err(Problem::new(format!("No help topic for '{command}'")));
    };
    let parsed = args::parse(name, flags, rest)?;
    if parsed.has("help") {
        return help::command(name, flags);
    }
    let root = global
        .value("root")
        .map_or_else(default_root, str::to_string);
    if matches!(*name, "create" | "run" | "exec" | "restore") {
        // These make processes that a container can look at.
        knarr_oci::protect_binary()?;
    }
    let call = Call {
        runtime: Runtime::new(&root),
        root,
        criu: global.value("criu").map(str::to_string),
        systemd_cgroup: global.has("systemd-cgroup"),
        rootless: match global.value("rootless") {
            None | Some("auto") => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                return Err(Problem::new(format!(
                    "invalid value {other:?} for flag -rootless: true, false or auto"
                )));
            }
        },
        parsed,
    };
    match *name {
        "create" => run::create(&call),
        "run" => run::run(&call),
        "start" => run::start(&call),
        "delete" => run::delete(&call),
        "kill" => run::kill(&call),
        "pause" => call
            .runtime
            .pause(call.id()?)
            .map(|()| 0)
            .map_err(Into::into),
        "resume" => call
            .runtime
            .resume(call.id()?)
            .map(|()| 0)
            .map_err(Into::into),
        "exec" => exec::exec(&call),
        "state" => show::state(&call),
        "list" => show::list(&call),
        "ps" => show::ps(&call),
        "events" => events::events(&call),
        "update" => update::update(&call),
        "spec" => spec::spec(&call),
        "features" => features::features(),
        "checkpoint" => checkpoint::checkpoint(&call),
        "restore" => checkpoint::restore(&call),
        other => Err(Problem::new(format!("No help topic for '{other}'"))),
    }
}

/// As runc: `/run/runc` for root, else below the user's run folder.
fn default_root() -> String {
    if knarr_sys::process::geteuid() != 0
        && let Ok(folder) = std::env::var("XDG_RUNTIME_DIR")
    {
        return format!("{folder}/runc");
    }
    "/run/runc".into()
}

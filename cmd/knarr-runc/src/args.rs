//! Flags, from one table.

use std::collections::BTreeMap;

/// Why a command failed, and the code to leave with.
#[derive(Debug)]
pub struct Problem {
    /// One line.
    pub message: String,
    /// The exit code.
    pub code: i32,
}

impl Problem {
    /// With runc's usual exit code.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }
}

impl From<knarr_oci::Error> for Problem {
    fn from(e: knarr_oci::Error) -> Self {
        // Callers look for this very word.
        let message = match &e {
            knarr_oci::Error::NotFound { .. } => "container does not exist".to_string(),
            knarr_oci::Error::State {
                action: "kill",
                status: knarr_oci::Status::Stopped,
            } => "container not running".to_string(),
            other => other.to_string().replace('\n', " "),
        };
        Self::new(message)
    }
}

impl From<std::io::Error> for Problem {
    fn from(e: std::io::Error) -> Self {
        Self::new(e.to_string())
    }
}

impl From<knarr_sys::Errno> for Problem {
    fn from(e: knarr_sys::Errno) -> Self {
        Self::new(e.to_string())
    }
}

/// A flag: its names, comma-separated, and whether it takes a value.
pub type Flag = (&'static str, bool);

/// Every command with its flags.
pub const COMMANDS: &[(&str, &[Flag])] = &[
    (
        "checkpoint",
        &[
            ("image-path", true),
            ("work-path", true),
            ("parent-path", true),
            ("leave-running", false),
            ("tcp-established", false),
            ("tcp-skip-in-flight", false),
            ("link-remap", false),
            ("ext-unix-sk", false),
            ("shell-job", false),
            ("lazy-pages", false),
            ("status-fd", true),
            ("page-server", true),
            ("file-locks", false),
            ("pre-dump", false),
            ("manage-cgroups-mode", true),
            ("empty-ns", true),
            ("auto-dedup", false),
            HELP,
        ],
    ),
    ("create", CREATE),
    ("delete", &[("force,f", false), HELP]),
    ("events", &[("interval", true), ("stats", false), HELP]),
    (
        "exec",
        &[
            ("console-socket", true),
            ("pidfd-socket", true),
            ("cwd", true),
            ("env,e", true),
            ("tty,t", false),
            ("user,u", true),
            ("additional-gids,g", true),
            ("process,p", true),
            ("detach,d", false),
            ("pid-file", true),
            ("process-label", true),
            ("apparmor", true),
            ("no-new-privs", false),
            ("cap,c", true),
            ("preserve-fds", true),
            ("cgroup", true),
            ("ignore-paused", false),
            HELP,
        ],
    ),
    ("features", &[HELP]),
    ("kill", &[("all,a", false), HELP]),
    ("list", &[("format,f", true), ("quiet,q", false), HELP]),
    ("pause", &[HELP]),
    ("ps", &[("format,f", true), HELP]),
    (
        "restore",
        &[
            ("bundle,b", true),
            ("console-socket", true),
            ("pid-file", true),
            ("no-pivot", false),
            ("detach,d", false),
            ("no-subreaper", false),
            ("image-path", true),
            ("work-path", true),
            ("tcp-established", false),
            ("ext-unix-sk", false),
            ("shell-job", false),
            ("file-locks", false),
            ("manage-cgroups-mode", true),
            ("empty-ns", true),
            ("auto-dedup", false),
            ("lazy-pages", false),
            ("lsm-profile", true),
            ("lsm-mount-context", true),
            HELP,
        ],
    ),
    ("resume", &[HELP]),
    ("run", CREATE_AND_RUN),
    ("spec", &[("bundle,b", true), ("rootless", false), HELP]),
    ("start", &[HELP]),
    ("state", &[HELP]),
    (
        "update",
        &[
            ("resources,r", true),
            ("blkio-weight", true),
            ("cpu-period", true),
            ("cpu-quota", true),
            ("cpu-burst", true),
            ("cpu-share", true),
            ("cpu-rt-period", true),
            ("cpu-rt-runtime", true),
            ("cpuset-cpus", true),
            ("cpuset-mems", true),
            ("kernel-memory", true),
            ("kernel-memory-tcp", true),
            ("memory", true),
            ("memory-reservation", true),
            ("memory-swap", true),
            ("pids-limit", true),
            ("l3-cache-schema", true),
            ("mem-bw-schema", true),
            ("cpu-idle", true),
            HELP,
        ],
    ),
];

const HELP: Flag = ("help,h", false);

const CREATE: &[Flag] = &[
    ("bundle,b", true),
    ("console-socket", true),
    ("pidfd-socket", true),
    ("pid-file", true),
    ("no-pivot", false),
    ("no-new-keyring", false),
    ("preserve-fds", true),
    HELP,
];

const CREATE_AND_RUN: &[Flag] = &[
    ("bundle,b", true),
    ("console-socket", true),
    ("pidfd-socket", true),
    ("pid-file", true),
    ("no-pivot", false),
    ("no-new-keyring", false),
    ("preserve-fds", true),
    ("detach,d", false),
    ("keep", false),
    ("no-subreaper", false),
    HELP,
];

/// A command's flags and what stood behind them.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The command.
    pub command: &'static str,
    values: BTreeMap<&'static str, Vec<String>>,
    /// Arguments.
    pub rest: Vec<String>,
}

impl Parsed {
    /// Whether a flag was given (by its first name).
    pub fn has(&self, name: &str) -> bool {
        self.values
            .get(name)
            .and_then(|v| v.last())
            .is_some_and(|v| v != "false")
    }

    /// The last value of a flag.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    /// All values of a flag.
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// A flag's value as a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.value(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    Problem::new(format!(
                        "invalid value {v:?} for flag -{name}: not a number"
                    ))
                })
            })
            .transpose()
    }
}

/// Takes flags up to the first argument that is none; the rest is returned.
pub fn leading<'a>(
    flags: &[Flag],
    arguments: &'a [String],
) -> Result<(Parsed, &'a [String]), Problem> {
    let mut parsed = Parsed::default();
    let mut at = 0;
    while let Some(word) = arguments.get(at) {
        if word == "--" {
            at += 1;
            break;
        }
        if !word.starts_with('-') || word == "-" {
            break;
        }
        at += 1;
        let body = word.trim_start_matches('-');
        let (name, inline) = match body.split_once('=') {
            Some((n, v)) => (n, Some(v.to_string())),
            None => (body, None),
        };
        let Some((names, takes)) = flags
            .iter()
            .find(|(names, _)| names.split(',').any(|n| n == name))
        else {
            return Err(Problem::new(format!(
                "flag provided but not defined: -{name}"
            )));
        };
        let value = match (inline, takes) {
            (Some(v), _) => v,
            (None, false) => "true".into(),
            (None, true) => {
                let v = arguments
                    .get(at)
                    .cloned()
                    .ok_or_else(|| Problem::new(format!("flag needs an argument: -{name}")))?;
                at += 1;
                v
            }
        };
        let first = names.split(',').next().unwrap_or(names);
        parsed.values.entry(first).or_default().push(value);
    }
    Ok((parsed, arguments.get(at..).unwrap_or_default()))
}

/// Takes a command's flags and arguments.
pub fn parse(
    command: &'static str,
    flags: &[Flag],
    arguments: &[String],
) -> Result<Parsed, Problem> {
    let (mut parsed, rest) = leading(flags, arguments)?;
    parsed.command = command;
    parsed.rest = rest.to_vec();
    Ok(parsed)
}

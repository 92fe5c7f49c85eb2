//! The file of audit events: one a line, set aside and begun anew when it is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A file of events, one a line.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Bytes from which on it is set aside and begun anew; 0: never.
    pub max_bytes: u64,
    /// How many that were set aside are kept; 0: all.
    pub max_backups: usize,
    /// How many days those that were set aside are kept; 0: for ever.
    pub max_age_days: u32,
    /// Whether those that are set aside are compressed.
    pub compress: bool,
    /// Whether a line is a text for people, not JSON.
    pub legacy: bool,
}

/// The time in the names of files that were set aside.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";

impl LogFile {
    /// A file of JSON as kube-apiserver keeps it: set aside at 100 MB, 100 of those for 366 days.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 100 << 20, max_backups: 100, max_age_days: 366, compress: false, legacy: false }
    }

    fn is_stdout(&self) -> bool {
        self.path == Path::new("-")
    }

    fn open(&self) -> io::Result<(File, u64)> {
        let f = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let size = f.metadata()?.len();
        Ok((f, size))
    }

    /// What the names of files that were set aside begin and end with.
    fn around(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let end = self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        (format!("{stem}-"), end)
    }

    /// Those that were set aside, the oldest first: when (as in the name), and where.
    fn old(&self) -> io::Result<Vec<(chrono::NaiveDateTime, PathBuf)>> {
        let (begin, end) = self.around();
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let plain = name.strip_suffix(".gz").unwrap_or(&name);
            let when = plain.strip_prefix(&begin).and_then(|n| n.strip_suffix(&end));
            if let Some(Ok(when)) = when.map(|w| chrono::NaiveDateTime::parse_from_str(w, STAMP)) {
                all.push((when, path));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Sets the file aside, and removes of those that were set aside what is too old or too much.
    fn rotate(&self) -> io::Result<()> {
        let now = chrono::Utc::now();
        let (begin, end) = self.around();
        let aside = self.path.with_file_name(format!("{begin}{}{end}", now.format(STAMP)));
        fs::rename(&self.path, &aside)?;
        let old = self.old()?;
        let many = if self.max_backups == 0 { 0 } else { old.len().saturating_sub(self.max_backups) };
        let oldest = (self.max_age_days > 0).then(|| now.naive_utc() - chrono::Duration::days(i64::from(self.max_age_days)));
        for (i, (when, path)) in old.iter().enumerate() {
            if i < many || oldest.is_some_and(|o| *when < o) {
                fs::remove_file(path)?;
            }
        }
        if self.compress {
            std::thread::Builder::new().name("audit-gzip".into()).spawn(move || {
                if let Err(error) = pack(&aside) {
                    tracing::error!(%error, path = %aside.display(), "an audit log cannot be compressed");
                }
            })?;
        }
        Ok(())
    }
}

/// Replaces a file by its compressed form.
fn pack(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let to = PathBuf::from(name);
    let out = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&to)?;
    let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut gzip)?;
    gzip.finish()?.sync_all()?;
    fs::remove_file(path)
}

/// The log as it is written.
pub struct Log {
    config: LogFile,
    /// The file and its size; standard output has none.
    open: Option<(File, u64)>,
}

impl Log {
    /// Opens the file, with its folder.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(config: LogFile) -> io::Result<Self> {
        if config.is_stdout() {
            return Ok(Self { config, open: None });
        }
        if let Some(folder) = config.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let open = Some(config.open()?);
        Ok(Self { config, open })
    }

    /// Writes one event, given as JSON.
    ///
    /// # Errors
    /// It cannot be written; the next one is tried anew.
    pub fn write(&mut self, event: &[u8]) -> io::Result<()> {
        let mut line = if self.config.legacy { legacy(event).into_bytes() } else { event.to_vec() };
        line.push(b'\n');
        let Some((file, size)) = &mut self.open else {
            let mut out = io::stdout();
            out.write_all(&line)?;
            return out.flush();
        };
        if self.config.max_bytes > 0 && *size > 0 && *size + line.len() as u64 > self.config.max_bytes {
            self.config.rotate()?;
            (*file, *size) = self.config.open()?;
        }
        file.write_all(&line)?;
        *size += line.len() as u64;
        Ok(())
    }
}

/// An event as one line of text.
fn legacy(event: &[u8]) -> String {
    let v: Value = serde_json::from_slice(event).unwrap_or_default();
    let text = |v: &Value, otherwise: &str| v.as_str().filter(|s| !s.is_empty()).unwrap_or(otherwise).to_owned();
    let groups = |v: &Value, otherwise: &str| match v.as_array() {
        Some(l) if !l.is_empty() => l.iter().map(|g| format!("{:?}", text(g, ""))).collect::<Vec<_>>().join(","),
        _ => otherwise.to_owned(),
    };
    let (user, other) = (&v["user"], &v["impersonatedUser"]);
    let code = v["responseStatus"]["code"].as_i64().map_or_else(|| "<deferred>".to_owned(), |c| c.to_string());
    format!(
        "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} user-agent={:?} namespace={:?} uri={:?} response=\"{code}\"",
        text(&v["requestReceivedTimestamp"], ""),
        text(&v["auditID"], ""),
        text(&v["stage"], ""),
        text(&v["sourceIPs"][0], "<unknown>"),
        text(&v["verb"], ""),
        text(&user["username"], "<none>"),
        groups(&user["groups"], "<none>"),
        text(&other["username"], "<self>"),
        groups(&other["groups"], "<lookup>"),
        text(&v["userAgent"], ""),
        text(&v["objectRef"]["namespace"], "<none>"),
        text(&v["requestURI"], ""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_set_aside_are_compressed_and_removed_when_old() {
        let folder = tempfile::tempdir().expect("folder");
        let ancient = folder.path().join("audit-2001-01-01T00-00-00.000.log.gz");
        let other = folder.path().join("audit-me.log");
        fs::write(&ancient, b"x").expect("write");
        fs::write(&other, b"x").expect("write");
        let config = LogFile { max_bytes: 10, compress: true, ..LogFile::new(folder.path().join("audit.log")) };
        let mut log = Log::open(config.clone()).expect("open");
        log.write(b"\"first\"").expect("write");
        log.write(b"\"second\"").expect("write");
        assert!(!ancient.exists() && other.exists());
        assert_eq!(fs::read_to_string(&config.path).expect("read"), "\"second\"\n");
        let packed = (0..200).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            config.old().expect("list").into_iter().map(|(_, p)| p).find(|p| p.extension().is_some_and(|e| e == "gz") && !p.with_extension("").exists())
        });
        let mut text = String::new();
        let mut packed = flate2::read::GzDecoder::new(File::open(packed.expect("a compressed file")).expect("open"));
        io::Read::read_to_string(&mut packed, &mut text).expect("read");
        assert_eq!(text, "\"first\"\n");
    }

    #[test]
    fn a_line_for_people() {
        let event = serde_json::json!({"auditID": "1", "stage": "ResponseComplete", "verb": "get", "requestURI": "/api", "sourceIPs": ["10.0.0.1"],
            "user": {"username": "a", "groups": ["g", "h"]}, "userAgent": "k", "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z", "responseStatus": {"code": 200}});
        let line = legacy(event.to_string().as_bytes());
        assert_eq!(line, r#"2026-01-01T00:00:00.000000Z AUDIT: id="1" stage="ResponseComplete" ip="10.0.0.1" method="get" user="a" groups="\"g\",\"h\"" as="<self>" asgroups="<lookup>" user-agent="k" namespace="<none>" uri="/api" response="200""#);
    }
}

use super::*;

const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n\
2026-01-01T00:00:01.1Z stderr F two\n\
2026-01-01T00:00:02.1Z stdout P thr\n\
2026-01-01T00:00:02.2Z stdout F ee\n\
2026-01-01T00:00:03.1Z stdout F \n";

fn log() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("0.log");
    std::fs::write(&path, LOG).expect("written");
    (dir, path)
}

#[test]
fn reads_the_format() {
    let l = parse(b"2026-01-01T00:00:00.1Z stdout P some text\n").expect("a line");
    assert!(l.partial);
    assert_eq!((l.stream, l.text), ("stdout", &b"some text"[..]));
    assert!(time_of(&l).is_some());
    assert_eq!(parse(b"x"), None);
}

#[test]
fn tails_lines_of_the_container() {
    let (_dir, path) = log();
    assert_eq!(tail(&path, 80, 2048), "one\ntwo\nthree\n\n");
    assert_eq!(tail(&path, 2, 2048), "three\n\n");
    assert_eq!(tail(&path, 3, 2048), "two\nthree\n\n");
    assert_eq!(tail(&path, 80, 4), "ee\n\n");
    assert_eq!(tail(&path, 0, 10), "");
}

#[test]
fn tails_long_files_without_reading_them_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("0.log");
    let mut text = String::new();
    for i in 0..5000 {
        text.push_str(&format!("2026-01-01T00:00:00.1Z stdout F line {i:05} {}\n", "x".repeat(50)));
    }
    std::fs::write(&path, &text).expect("written");
    let got = tail(&path, 2000, 1 << 20);
    assert_eq!(got.lines().count(), 2000);
    assert!(got.starts_with("line 03000 "));
}

#[test]
fn rotated_files_come_first() {
    let (dir, path) = log();
    std::fs::write(dir.path().join("0.log.20260101-000000"), "").expect("written");
    let names: Vec<_> = files(&path)
        .iter()
        .filter_map(|p| p.file_name()?.to_str().map(str::to_owned))
        .collect();
    assert_eq!(names, ["0.log.20260101-000000", "0.log"]);
}

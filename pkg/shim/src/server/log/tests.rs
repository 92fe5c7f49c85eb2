use std::time::Duration;

use super::*;

fn written(chunks: &[&[u8]], finish: bool) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut log = Log::open(Some(&path)).unwrap();
    let mut lines = Lines::new(Stream::Stdout);
    for chunk in chunks {
        lines.feed(chunk, &mut log);
    }
    if finish {
        lines.finish(&mut log);
    }
    let bytes = std::fs::read(&path).unwrap();
    bytes
        .split_inclusive(|&b| b == b'\n')
        .map(|line| {
            let mut fields = line[..line.len() - 1].splitn(4, |&b| b == b' ');
            let time = fields.next().unwrap();
            assert_eq!(time.len(), "2016-10-06T00:17:09.669794202Z".len());
            assert_eq!(fields.next().unwrap(), b"stdout");
            let tag = String::from_utf8(fields.next().unwrap().to_vec()).unwrap();
            (tag, fields.next().unwrap().to_vec())
        })
        .collect()
}

#[test]
fn lines_are_whole_across_reads() {
    let got = written(&[b"one\ntw", b"o\n\nthree"], true);
    let want = [("F", "one"), ("F", "two"), ("F", ""), ("P", "three")];
    let got: Vec<_> = got
        .iter()
        .map(|(t, l)| (t.as_str(), std::str::from_utf8(l).unwrap()))
        .collect();
    assert_eq!(got, want);
}

#[test]
fn a_long_line_comes_in_parts_and_joins_to_the_same_bytes() {
    for length in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE, 100_000] {
        let line: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
        let mut input = line.clone();
        input.push(b'\n');
        for step in [1000, 4096, input.len()] {
            let chunks: Vec<&[u8]> = input.chunks(step).collect();
            let got = written(&chunks, true);
            assert!(got.iter().all(|(_, part)| part.len() <= MAX_LINE));
            let (last, parts) = got.split_last().unwrap();
            assert_eq!(last.0, "F");
            assert!(parts.iter().all(|(tag, _)| tag == "P"));
            let joined: Vec<u8> = got.iter().flat_map(|(_, part)| part.clone()).collect();
            assert_eq!(joined, line, "length {length} step {step}");
        }
    }
}

#[test]
fn rotation_goes_on_in_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
    let mut log = Log::open(Some(&path)).unwrap();
    let mut lines = Lines::new(Stream::Stderr);
    lines.feed(b"before\nhal", &mut log);
    std::fs::rename(&path, &old).unwrap();
    log.reopen().unwrap();
    lines.feed(b"f\n", &mut log);
    assert!(
        std::fs::read_to_string(&old)
            .unwrap()
            .ends_with(" stderr F before\n")
    );
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .ends_with(" stderr F half\n")
    );
}

#[test]
fn a_full_disk_drops_and_counts() {
    let mut log = Log::open(Some(Path::new("/dev/full"))).unwrap();
    let mut lines = Lines::new(Stream::Stdout);
    lines.feed(b"lost\n", &mut log);
    assert!(log.dropped > 0);
}

#[test]
fn timestamps_are_rfc_3339() {
    for (seconds, want) in [
        (0, "1970-01-01T00:00:00"),
        (951_782_399, "2000-02-28T23:59:59"),
        (951_782_400, "2000-02-29T00:00:00"),
        (1_475_713_029, "2016-10-06T00:17:09"),
        (4_107_542_400, "2100-03-01T00:00:00"),
    ] {
        let time = UNIX_EPOCH + Duration::new(seconds, 669_794_202);
        let want = format!("{want}.669794202Z");
        assert_eq!(String::from_utf8(timestamp(time)).unwrap(), want);
    }
}

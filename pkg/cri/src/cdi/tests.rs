use std::path::PathBuf;

use knarr_cri_api::v1::CdiDevice;
use serde_json::json;

use super::*;

const YAML: &str = "
cdiVersion: 1.1.0
kind: vendor.com/net
annotations: {a: b}
containerEdits:
  env: [ALL=1]
  mounts:
  - {hostPath: /etc/hostname, containerPath: /dev/given/name, options: [bind, ro]}
devices:
- name: one
  containerEdits:
    env: [ONE=1, PATH=/one]
    deviceNodes:
    - {path: /dev/inside, hostPath: /dev/null, permissions: rw, fileMode: 0640}
    - {path: /dev/made, type: c, major: 7, minor: 9, uid: 5}
    netDevices: [{hostInterfaceName: eth9, name: inner}]
    additionalGids: [0, 44]
    intelRdt: {closID: gold, schemata: ['L3:0=f']}
    hooks: [{hookName: createContainer, path: /bin/hook, args: [hook, go], timeout: 5}]
- name: two
  containerEdits: {env: [TWO=2]}
";

struct Bench(tempfile::TempDir);

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        Self(dir)
    }

    fn dirs(&self) -> Vec<PathBuf> {
        ["low", "high"].map(|d| self.0.path().join(d)).to_vec()
    }

    fn inject(&self, names: &[&str]) -> Result<Value, String> {
        let config = ContainerConfig {
            cdi_devices: names
                .iter()
                .map(|n| CdiDevice {
                    name: (*n).to_owned(),
                })
                .collect(),
            ..ContainerConfig::default()
        };
        let mut spec = json!({
            "process": {"env": ["PATH=/bin"], "user": {"uid": 1000, "gid": 0, "additionalGids": [3]}},
            "mounts": [{"destination": "/dev/given"}, {"destination": "/dev"}],
            "linux": {"devices": [{"path": "/dev/inside"}], "resources": {"devices": []}},
        });
        inject(&self.dirs(), &config, &mut spec).map_err(|e| e.to_string())?;
        Ok(spec)
    }
}

#[test]
fn a_device_brings_all_that_its_file_says() {
    let b = Bench::new(&[("low/vendor.yaml", YAML)]);
    let spec = b
        .inject(&[
            "vendor.com/net=one",
            "vendor.com/net=two",
            "vendor.com/net=one",
        ])
        .expect("known");
    assert_eq!(
        spec["process"]["env"],
        json!(["PATH=/one", "ALL=1", "ONE=1", "TWO=2"])
    );
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([3, 44]));
    assert_eq!(
        spec["linux"]["devices"],
        json!([
            {"path": "/dev/inside", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000},
            {"path": "/dev/made", "type": "c", "major": 7, "minor": 9, "uid": 5},
        ])
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "c", "major": 7, "minor": 9, "access": "rwm"},
        ])
    );
    assert_eq!(
        spec["linux"]["netDevices"],
        json!({"eth9": {"name": "inner"}})
    );
    assert_eq!(
        spec["linux"]["intelRdt"],
        json!({"closID": "gold", "schemata": ["L3:0=f"]})
    );
    let at: Vec<_> = spec["mounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .map(|m| m["destination"].clone())
        .collect();
    assert_eq!(at, ["/dev", "/dev/given", "/dev/given/name"]);
    assert_eq!(
        spec["hooks"]["createContainer"],
        json!([{"path": "/bin/hook", "args": ["hook", "go"], "env": [], "timeout": 5}])
    );
}

#[test]
fn what_cannot_be_resolved_is_an_error() {
    let b = Bench::new(&[
        ("low/vendor.yaml", YAML),
        ("low/broken.json", "{"),
        ("low/other.txt", "x"),
    ]);
    let error = b
        .inject(&["vendor.com/net=one", "vendor.com/net=nine", "other"])
        .expect_err("unknown");
    assert_eq!(
        error,
        "CDI device injection failed: unresolvable CDI devices vendor.com/net=nine, other"
    );
}

#[test]
fn a_later_folder_wins_and_conflicts_resolve_to_nothing() {
    let spec = |value: &str| {
        json!({"cdiVersion": "0.3.0", "kind": "a/b", "devices": [
            {"name": "x", "containerEdits": {"env": [format!("V={value}")]}}]})
        .to_string()
    };
    let (low, high) = (spec("low"), spec("high"));
    let b = Bench::new(&[
        ("low/a.json", &low),
        ("low/b.json", &low),
        ("high/a.json", &high),
    ]);
    assert_eq!(
        b.inject(&["a/b=x"]).expect("known")["process"]["env"],
        json!(["PATH=/bin", "V=high"])
    );
    fs::write(b.0.path().join("high/b.json"), &high).expect("file");
    let error = b.inject(&["a/b=x"]).expect_err("two of them");
    assert!(error.ends_with("unresolvable CDI devices a/b=x"), "{error}");
}

#[test]
fn files_are_checked() {
    let device = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"a/b","devices":[{{"name":"x","containerEdits":{edits}}}]}}"#
        )
    };
    for (text, why) in [
        (
            r#"{"cdiVersion":"9.0.0","kind":"a/b"}"#.to_owned(),
            "invalid version \"9.0.0\"",
        ),
        (
            r#"{"cdiVersion":"0.3.0","kind":"a"}"#.to_owned(),
            "invalid vendor. empty name",
        ),
        (
            r#"{"cdiVersion":"0.3.0","kind":"a/b-"}"#.to_owned(),
            "should end with a letter or digit",
        ),
        (
            r#"{"cdiVersion":"0.3.0","kind":"a/b"}"#.to_owned(),
            "invalid spec, no devices",
        ),
        (
            r#"{"cdiVersion":"0.3.0","kind":"a/b","more":1}"#.to_owned(),
            "unknown field",
        ),
        (device("{}"), "invalid device, empty device edits"),
        (
            device(r#"{"env":["=x"]}"#),
            "invalid environment variable \"=x\"",
        ),
        (
            device(r#"{"additionalGids":[1]}"#),
            "the spec version must be at least v0.7.0",
        ),
        (
            device(r#"{"hooks":[{"hookName":"never","path":"/x"}]}"#),
            "invalid hook name \"never\"",
        ),
        (
            device(r#"{"deviceNodes":[{"path":"/x","type":"z"}]}"#),
            "invalid type \"z\"",
        ),
        (
            device(r#"{"mounts":[{"hostPath":"/x"}]}"#),
            "empty container path",
        ),
    ] {
        let error = Spec::parse(&text).expect_err(&text);
        assert!(error.contains(why), "{error} for {text}");
    }
    Spec::parse(&device(r#"{"env":["A=b"],"mounts":null}"#)).expect("fine");
}

#[test]
fn devices_are_named_in_annotations_too() {
    let config = |value: &str| ContainerConfig {
        annotations: [("cdi.k8s.io/plugin".to_owned(), value.to_owned())].into(),
        cdi_devices: vec![CdiDevice {
            name: "a/b=x".to_owned(),
        }],
        ..ContainerConfig::default()
    };
    assert_eq!(
        names(&config("a/b=y,a/b=x")).expect("fine"),
        ["a/b=x", "a/b=y"]
    );
    let error = names(&config("nonsense")).expect_err("bad").to_string();
    assert_eq!(
        error,
        "failed to parse CDI device annotations: invalid CDI device name \"nonsense\""
    );
}

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A plugin that writes down how it was called and answers with what is in `answer`.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
me=$(basename "$0")
{ echo "$CNI_COMMAND $me $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS"; cat; echo; } >>"$here/calls"
[ -e "$here/$me.fails" ] && { echo '{"cniVersion":"1.1.0","code":11,"msg":"try again later","details":"no addresses"}'; exit 1; }
[ "$CNI_COMMAND" = ADD ] && cat "$here/answer"
exit 0
"#;

struct Bench {
    dir: tempfile::TempDir,
    network: CniNetwork,
}

impl Bench {
    fn new(conf: &str) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("conf")).expect("folder");
        fs::create_dir_all(at("bin")).expect("folder");
        fs::write(at("conf/10-net.conflist"), conf).expect("file");
        for name in ["first", "second"] {
            fs::write(at("bin").join(name), PLUGIN).expect("file");
            fs::set_permissions(at("bin").join(name), fs::Permissions::from_mode(0o755))
                .expect("mode");
        }
        let answer =
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"},{"address":"fd00::2/64"}]}"#;
        fs::write(at("bin/answer"), answer).expect("file");
        let network = CniNetwork::new(at("conf"), vec![at("bin")], at("cache"));
        Self { dir, network }
    }

    async fn add(&self) -> Result<Vec<IpAddr>, String> {
        self.network
            .add(NetworkRequest {
                id: "box",
                netns: Path::new("/proc/self/ns/net"),
                namespace: "shop",
                name: "till",
                uid: "u-1",
                ports: vec![HostPort {
                    protocol: "TCP",
                    host_port: 8080,
                    container_port: 80,
                    host_ip: None,
                }],
                ingress: None,
                egress: None,
            })
            .await
    }

    /// The first lines of the calls, and what was read by each.
    fn calls(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.dir.path().join("bin/calls")).unwrap_or_default();
        let mut lines = text.lines();
        let mut out = Vec::new();
        while let (Some(call), Some(input)) = (lines.next(), lines.next()) {
            out.push((call.to_owned(), serde_json::from_str(input).expect("JSON")));
        }
        out
    }

    fn forget_calls(&self) {
        let _ = fs::remove_file(self.dir.path().join("bin/calls"));
    }
}

const TWO: &str = r#"{"cniVersion":"1.1.0","name":"net","plugins":[
    {"type":"first","bridge":"b0"},{"type":"second","capabilities":{"portMappings":true}}]}"#;

#[tokio::test]
async fn a_chain_adds_in_order_and_deletes_in_reverse() {
    let b = Bench::new(TWO);
    let ips = b.add().await.expect("an address");
    assert_eq!(
        ips,
        [
            "10.9.0.2".parse::<IpAddr>().expect("ip"),
            "fd00::2".parse().expect("ip")
        ]
    );
    let calls = b.calls();
    assert_eq!(
        calls[0].0,
        "ADD first box /proc/self/ns/net eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=till;K8S_POD_INFRA_CONTAINER_ID=box;K8S_POD_UID=u-1"
    );
    assert_eq!(
        calls[0].1,
        json!({"type": "first", "bridge": "b0", "name": "net", "cniVersion": "1.1.0"})
    );
    assert!(calls[1].0.starts_with("ADD second "), "{calls:?}");
    assert_eq!(calls[1].1["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
    assert_eq!(calls[1].1["runtimeConfig"]["portMappings"], ports);

    b.forget_calls();
    // The configuration may be gone by then.
    fs::remove_file(b.dir.path().join("conf/10-net.conflist")).expect("removed");
    b.network.del("box").await.expect("deleted");
    let order: Vec<String> = b
        .calls()
        .into_iter()
        .map(|(c, _)| c.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(order, ["DEL second", "DEL first"]);
    b.forget_calls();
    b.network
        .del("box")
        .await
        .expect("a repeated call is no error");
    assert!(b.calls().is_empty());
}

#[tokio::test]
async fn a_failed_add_is_undone_and_tells_why() {
    let b = Bench::new(TWO);
    fs::write(b.dir.path().join("bin/second.fails"), "").expect("file");
    let error = b.add().await.expect_err("fails");
    assert_eq!(
        error,
        "plugin type=\"second\" failed (add): try again later; no addresses"
    );
    fs::remove_file(b.dir.path().join("bin/second.fails")).expect("removed");
    b.forget_calls();
    b.network.gc(&[]).await.expect("collected");
    let commands: Vec<String> = b
        .calls()
        .into_iter()
        .map(|(c, _)| c.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        commands,
        ["DEL second", "DEL first", "GC first", "GC second"],
        "what could not be undone is, later"
    );
}

#[tokio::test]
async fn status_tells_what_is_missing() {
    let b = Bench::new(TWO);
    b.network.status().await.expect("ready");
    fs::remove_file(b.dir.path().join("bin/second")).expect("removed");
    let error = b.network.status().await.expect_err("not ready");
    assert!(
        error.starts_with("failed to find plugin \"second\" in path ["),
        "{error}"
    );
    fs::remove_file(b.dir.path().join("conf/10-net.conflist")).expect("removed");
    let error = b.network.status().await.expect_err("not ready");
    assert!(error.ends_with("cni plugin not initialized"), "{error}");
}

#[test]
fn bad_configurations_are_named() {
    for (text, why) in [
        ("{", "EOF"),
        (r#"{"name":"n","plugins":[]}"#, "no plugin"),
        (
            r#"{"name":"n","plugins":[{"type":"../sh"}]}"#,
            "plugins[0].type",
        ),
        (r#"{"plugins":[{"type":"x"}]}"#, "missing field `name`"),
    ] {
        let error = Chain::parse(text.as_bytes()).expect_err(text);
        assert!(error.contains(why), "{error}");
    }
    let one = Chain::parse(br#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#)
        .expect("a list of one");
    assert_eq!(
        (one.kind(0), one.cni_version.as_str(), one.has_gc()),
        ("bridge", "0.3.1", false)
    );
}

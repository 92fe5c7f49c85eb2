use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use knarr_cri_api::v1::DnsConfig;

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
                dns: Some(&DnsConfig {
                    servers: vec!["10.0.0.10".to_owned()],
                    ..DnsConfig::default()
                }),
                cgroup_parent: "/pods/u-1",
                annotations: Some(&HashMap::from([("a".to_owned(), "b".to_owned())])),
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

fn commands(b: &Bench) -> Vec<String> {
    b.calls()
        .into_iter()
        .map(|(c, _)| c.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

#[tokio::test]
async fn check_asks_every_plugin_with_the_result() {
    let b = Bench::new(TWO);
    let error = b.network.check("box").await.expect_err("nothing to check");
    assert_eq!(error, "sandbox \"box\" is not connected");
    b.add().await.expect("an address");
    b.forget_calls();
    b.network.check("box").await.expect("as it was");
    assert_eq!(commands(&b), ["CHECK first", "CHECK second"]);
    for (call, input) in b.calls() {
        assert!(call.contains(" box /proc/self/ns/net eth0 "), "{call}");
        assert_eq!(input["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    }
    fs::write(b.dir.path().join("bin/first.fails"), "").expect("file");
    let error = b.network.check("box").await.expect_err("changed");
    assert_eq!(
        error,
        "plugin type=\"first\" failed (check): try again later; no addresses"
    );
    // Those who are told to leave it are not asked.
    let b = Bench::new(&TWO.replacen('{', "{\"disableCheck\":true,", 1));
    b.add().await.expect("an address");
    b.forget_calls();
    b.network.check("box").await.expect("not asked");
    assert!(b.calls().is_empty());
}

#[tokio::test]
async fn gc_tells_all_plugins_who_is_there() {
    let b = Bench::new(TWO);
    b.add().await.expect("an address");
    b.forget_calls();
    fs::write(b.dir.path().join("bin/first.fails"), "").expect("file");
    let error = b
        .network
        .gc(&["box".to_owned()])
        .await
        .expect_err("one fails");
    assert_eq!(
        error,
        "plugin type=\"first\" failed (gc): try again later; no addresses"
    );
    assert_eq!(
        commands(&b),
        ["GC first", "GC second"],
        "the others are asked all the same"
    );
    let valid = json!([{ "containerID": "box", "ifname": "eth0" }]);
    assert_eq!(b.calls()[1].1["cni.dev/valid-attachments"], valid);
    let b = Bench::new(&TWO.replacen('{', "{\"disableGC\":true,", 1));
    b.network.gc(&[]).await.expect("collected");
    assert!(b.calls().is_empty());
    b.network.status().await.expect("ready");
    assert_eq!(commands(&b), ["STATUS first", "STATUS second"]);
    fs::write(b.dir.path().join("bin/second.fails"), "").expect("file");
    let error = b.network.status().await.expect_err("not ready");
    assert_eq!(
        error,
        "plugin type=\"second\" failed (status): try again later; no addresses"
    );
}

#[tokio::test]
async fn plugins_are_told_what_they_ask_for() {
    let all = ["dns", "cgroupPath", "io.kubernetes.cri.pod-annotations"];
    let capabilities: Map<String, Value> =
        all.iter().map(|c| ((*c).to_owned(), json!(true))).collect();
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "first", "capabilities": capabilities}]});
    let b = Bench::new(&conf.to_string());
    b.add().await.expect("an address");
    let told = &b.calls()[0].1["runtimeConfig"];
    assert_eq!(
        told["dns"],
        json!({"servers": ["10.0.0.10"], "searches": [], "options": []})
    );
    assert_eq!(told["cgroupPath"], "/pods/u-1");
    assert_eq!(told["io.kubernetes.cri.pod-annotations"], json!({"a": "b"}));
    assert_eq!(told["portMappings"], Value::Null);
}

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
    let order = commands(&b);
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
    let commands = commands(&b);
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
    assert_eq!((one.kind(0), one.cni_version.as_str()), ("bridge", "0.3.1"));
    assert!(
        ![Verb::Check, Verb::Gc, Verb::Status]
            .iter()
            .any(|v| one.knows(*v))
    );
    let error =
        Chain::parse(br#"{"cniVersion":"2.0.0","name":"n","type":"bridge"}"#).expect_err("newer");
    assert_eq!(error, "unsupported cniVersion \"2.0.0\"");
    let text = br#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","2.0.0"],"name":"n","plugins":[{"type":"x"}]}"#;
    assert_eq!(
        Chain::parse(text).expect("a chain").cni_version,
        "1.1.0",
        "the newest that both know"
    );
}

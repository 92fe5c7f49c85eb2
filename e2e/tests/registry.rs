//! Images from a real registry: Debian's `docker-registry`, filled by `skopeo`, with and without
//! credentials.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use knarr_e2e::{Cluster, PATIENCE, image};
use serde_json::{Value, json};

/// `captain` with the password `seaworthy`.
const USERS: &str = "captain:$2y$05$abcdefghijklmnopqrstuuy7z/Qi9AMXmVdAfwBNRMOzsT1Xv9RT2\n";
const CREDENTIALS: &str = "captain:seaworthy";

/// A registry on a free port, ended when dropped.
struct Registry {
    child: Child,
    host: String,
    credentials: Option<&'static str>,
}

impl Registry {
    fn start(folder: &Path, credentials: Option<&'static str>) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.join("content")}},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        if credentials.is_some() {
            let users = folder.join("users");
            fs::write(&users, USERS)?;
            config["auth"] = json!({"htpasswd": {"realm": "quay", "path": users}});
        }
        let file = folder.join("config.yml");
        fs::write(&file, config.to_string())?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry is not installed: run hack/setup")?;
        let registry = Registry { child, host: format!("127.0.0.1:{port}"), credentials };
        let begin = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Puts an archive there and gives the image's reference.
    fn push(&self, archive: &Path, name: &str) -> Result<String> {
        let reference = format!("{}/{name}", self.host);
        let mut command = Command::new("skopeo");
        command.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
        if let Some(credentials) = self.credentials {
            command.args(["--dest-creds", credentials]);
        }
        command.arg(format!("docker-archive:{}", archive.display()));
        command.arg(format!("docker://{reference}"));
        knarr_e2e::run(&mut command)?;
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pod(name: &str, image: &str, more: Value) -> String {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": image, "command":
            ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]}],
    });
    if let (Some(all), Value::Object(more)) = (spec.as_object_mut(), more) {
        all.extend(more);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn waiting(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]
}

fn messages(cluster: &Cluster, pod: &str) -> Result<String> {
    let select = format!("involvedObject.name={pod}");
    let events = cluster.get(&["events", "--field-selector", &select])?;
    let all = events["items"].as_array().cloned().unwrap_or_default();
    let line = |e: &Value| format!("{}: {}\n", e["reason"].as_str().unwrap_or(""), e["message"].as_str().unwrap_or(""));
    Ok(all.iter().map(line).collect())
}

#[test]
fn images_come_from_a_registry() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("busybox.tar");
    image::busybox(&archive)?;
    let open = Registry::start(&folder.path().join("open"), None)?;
    let locked = Registry::start(&folder.path().join("locked"), Some(CREDENTIALS))?;
    let cluster = Cluster::up(&[])?;
    a_deployment_is_pulled(&cluster, &open.push(&archive, "tools/busybox:1")?)?;
    a_pull_secret_opens_a_locked_registry(&cluster, &locked.push(&archive, "private/busybox:1")?)?;
    always_asks_the_registry_again(&cluster, &open, &archive)?;
    a_missing_image_is_told(&cluster, &open)?;
    Ok(())
}

fn a_deployment_is_pulled(cluster: &Cluster, image: &str) -> Result<()> {
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": image,
                "command": ["sh", "-c", "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]}]},
        }},
    }).to_string())?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let pods = cluster.get(&["pods", "-l", "app=web"])?;
    let first = &pods["items"][0];
    let status = &first["status"]["containerStatuses"][0];
    assert_eq!(status["image"], image);
    let id = status["imageID"].as_str().unwrap_or_default();
    let repository = image.trim_end_matches(":1");
    assert!(id.starts_with(&format!("{repository}@sha256:")), "{id}");
    let mut told = String::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        told += &messages(cluster, pod["metadata"]["name"].as_str().unwrap_or_default())?;
    }
    assert!(told.contains(&format!("Pulling: Pulling image \"{image}\"")), "{told}");
    assert!(told.contains(&format!("Pulled: Successfully pulled image \"{image}\" in ")), "{told}");
    cluster.kubectl(&["delete", "deployment", "web", "--wait=false"])?;
    Ok(())
}

fn a_pull_secret_opens_a_locked_registry(cluster: &Cluster, image: &str) -> Result<()> {
    cluster.apply(&pod("stranger", image, json!({})))?;
    let object = cluster.wait_for(&["pod", "stranger"], |p| waiting(p)["reason"] == "ImagePullBackOff")?;
    let message = waiting(&object)["message"].to_string().to_lowercase();
    assert!(message.contains("unauthorized") || message.contains("authorization"), "{message}");
    let host = image.split('/').next().unwrap_or_default();
    let secret = |name: &str, password: &str| {
        let password = format!("--docker-password={password}");
        let server = format!("--docker-server={host}");
        cluster.kubectl(&["create", "secret", "docker-registry", name, &server,
            "--docker-username=captain", &password])
    };
    secret("right", "seaworthy")?;
    secret("wrong", "landlubber")?;
    let with = |name: &str| json!({"imagePullSecrets": [{"name": name}]});
    cluster.apply(&pod("impostor", image, with("wrong")))?;
    cluster.wait_for(&["pod", "impostor"], |p| waiting(p)["reason"] == "ImagePullBackOff")?;
    cluster.apply(&pod("captain", image, with("right")))?;
    cluster.wait_ready("captain")?;
    // What all pods of a service account are given.
    cluster.kubectl(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"right"}]}"#])?;
    cluster.apply(&pod("mate", image, json!({"containers": [{"name": "main", "image": image,
        "imagePullPolicy": "Always", "command": ["sleep", "100000"]}]})))?;
    let object = cluster.wait_ready("mate")?;
    assert_eq!(object["spec"]["imagePullSecrets"][0]["name"], "right");
    cluster.kubectl(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":null}"#])?;
    cluster.kubectl(&["delete", "pod", "stranger", "impostor", "captain", "mate", "--wait=false"])?;
    Ok(())
}

fn always_asks_the_registry_again(cluster: &Cluster, registry: &Registry, archive: &Path) -> Result<()> {
    let image = registry.push(archive, "tools/moving:latest")?;
    cluster.apply(&pod("first", &image, json!({})))?;
    let object = cluster.wait_ready("first")?;
    assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], "Always", "the default of latest");
    cluster.apply(&pod("second", &image, json!({})))?;
    cluster.wait_ready("second")?;
    let told = messages(cluster, "second")?;
    assert!(told.contains("Pulling: Pulling image"), "{told}");
    assert!(!told.contains("already present"), "{told}");
    cluster.kubectl(&["delete", "pod", "first", "second", "--wait=false"])?;
    Ok(())
}

fn a_missing_image_is_told(cluster: &Cluster, registry: &Registry) -> Result<()> {
    let image = format!("{}/tools/nothing:1", registry.host);
    // The first answer is short-lived: it is in the events for good.
    cluster.apply(&pod("missing", &image, json!({})))?;
    let object = cluster.wait_for(&["pod", "missing"], |p| waiting(p)["reason"] == "ImagePullBackOff")?;
    assert_eq!(object["status"]["phase"], "Pending");
    let message = waiting(&object)["message"].as_str().unwrap_or_default();
    assert!(message.starts_with(&format!("Back-off pulling image \"{image}\": ErrImagePull: ")), "{message}");
    assert!(message.contains("not found"), "{message}");
    let told = messages(cluster, "missing")?;
    for wanted in [
        format!("Failed: Failed to pull image \"{image}\": "),
        "Failed: Error: ErrImagePull\n".to_owned(),
        format!("BackOff: Back-off pulling image \"{image}\""),
        "Failed: Error: ImagePullBackOff\n".to_owned(),
    ] {
        assert!(told.contains(&wanted), "{wanted} is missing in\n{told}");
    }
    let never = json!({"containers": [{"name": "main", "image": image, "imagePullPolicy": "Never"}]});
    cluster.apply(&pod("never", &image, never))?;
    cluster.wait_for(&["pod", "never"], |p| waiting(p)["reason"] == "ErrImageNeverPull")?;
    cluster.kubectl(&["delete", "pod", "missing", "never", "--wait=false"])?;
    Ok(())
}

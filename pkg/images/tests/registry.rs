//! Images through a real registry and real tools: Debian's `docker-registry` and `skopeo`. Says
//! why when it is skipped.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_images::{ImageConfig, Images, RootFile};

struct Registry(Child, u16);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tools() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    for tool in ["/usr/bin/docker-registry", "/usr/bin/skopeo"] {
        if !Path::new(tool).exists() {
            println!("skipped: {tool} is not installed");
            return false;
        }
    }
    true
}

fn registry(dir: &Path) -> Registry {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = dir.join("registry.yml");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.join("registry").display()
        ),
    )
    .unwrap();
    let child = Command::new("/usr/bin/docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the registry does not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Registry(child, port)
}

fn skopeo(args: &[&str]) {
    let output = Command::new("/usr/bin/skopeo")
        .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn open(dir: &Path, name: &str) -> Arc<Images> {
    Images::open(dir.join(name), dir.join("registries.yaml")).unwrap()
}

/// Makes an image and gives its OCI archive.
fn archive(dir: &Path) -> std::path::PathBuf {
    let source = open(dir, "source");
    let config = ImageConfig {
        user: "1000".to_owned(),
        entrypoint: vec!["/bin/tool".to_owned()],
        ..ImageConfig::default()
    };
    let files = [
        RootFile {
            path: "bin/".to_owned(),
            mode: 0o755,
            content: vec![],
        },
        RootFile {
            path: "bin/tool".to_owned(),
            mode: 0o4755,
            content: vec![7; 3 << 20],
        },
        RootFile {
            path: "tmp/".to_owned(),
            mode: 0o1777,
            content: vec![],
        },
    ];
    let image = source
        .import_rootfs("made.local/tool:1", config, &files)
        .unwrap();
    let again = source.import_rootfs("made.local/tool:1", image_config(&source, &image), &files);
    assert_eq!(again.unwrap().id, image.id);
    let path = dir.join("out.tar");
    source
        .export(
            &["made.local/tool:1"],
            std::fs::File::create(&path).unwrap(),
        )
        .unwrap();
    path
}

fn image_config(images: &Images, image: &knarr_images::Image) -> ImageConfig {
    images.config(image).unwrap().config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pull() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let from = format!("oci-archive:{}", archive(dir.path()).display());
    let name = format!("127.0.0.1:{}/a/tool:1", registry.1);
    let to = format!("docker://{name}");
    skopeo(&["--format", "v2s2", &from, &to]);
    let oci = format!("127.0.0.1:{}/a/tool:zstd", registry.1);
    skopeo(&[
        "--format",
        "oci",
        "--dest-compress-format",
        "zstd",
        &from,
        &format!("docker://{oci}"),
    ]);

    let images = open(dir.path(), "images");
    let (one, two) = tokio::join!(images.pull(&name, None), images.pull(&name, None));
    let one = one.unwrap();
    assert_eq!(one.id, two.unwrap().id);
    assert!(one.tags.contains(&name));
    let layer = &images.layer_dirs(&one).unwrap()[0];
    let tool = std::fs::metadata(layer.join("bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.len()), (0o4755, 3 << 20));
    assert!(!tool.file_type().is_fifo());

    let zstd = images.pull(&oci, None).await.unwrap();
    assert_eq!(zstd.chain, one.chain, "the same layer is stored once");
    let by_digest = one.digests.iter().next().unwrap().clone();
    assert_eq!(
        images.pull(&by_digest, None).await.unwrap().chain,
        one.chain
    );

    let missing = format!("127.0.0.1:{}/a/tool:404", registry.1);
    let error = images.pull(&missing, None).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "failed to pull and unpack image \"{missing}\": failed to resolve reference \
             \"{missing}\": {missing}: not found"
        )
    );
    let begin = Instant::now();
    let error = images
        .pull("127.0.0.1:1/a:1", None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("connection refused"), "{error}");
    let error = images
        .pull("registry.invalid/a:1", None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("dial tcp"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(15));

    // A mirror stands in for a registry that cannot be reached.
    std::fs::write(
        dir.path().join("registries.yaml"),
        format!(
            "mirrors:\n  mirrored.invalid:\n    endpoint: ['http://127.0.0.1:{}']\n",
            registry.1
        ),
    )
    .unwrap();
    let mirrored = images
        .pull("mirrored.invalid/a/tool:1", None)
        .await
        .unwrap();
    assert!(mirrored.tags.contains("mirrored.invalid/a/tool:1"));

    let root = dir.path().join("mount");
    images.mount("c1", &one, &root, None).unwrap();
    images.mount("c1", &one, &root, None).unwrap();
    std::fs::write(root.join("new"), "x").unwrap();
    // An image in use may go; its layers stay as long as the container.
    for image in images.list().unwrap() {
        images.remove(&image.id).unwrap();
    }
    assert!(images.list().unwrap().is_empty());
    assert_eq!(std::fs::read(root.join("bin/tool")).unwrap().len(), 3 << 20);
    assert!(!layer.join("new").exists());
    images.unmount("c1", &root).unwrap();
    drop(images);
    let images = open(dir.path(), "images");
    assert!(images.list().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(dir.path().join("images/s"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let oci = archive(dir.path());
    let from = format!("oci-archive:{}", oci.display());
    let docker = dir.path().join("docker.tar");
    skopeo(&[
        &from,
        &format!("docker-archive:{}:made.local/tool:2", docker.display()),
    ]);
    let images = open(dir.path(), "images");
    let one = images.import(&oci, None).unwrap().remove(0);
    assert!(one.tags.contains("made.local/tool:1"));
    let two = images.import(&docker, None).unwrap().remove(0);
    assert!(two.tags.contains("made.local/tool:2"));
    assert_eq!(one.chain, two.chain);
    let named = images.import(&docker, Some("other:3")).unwrap().remove(0);
    assert!(named.tags.contains("docker.io/library/other:3"));
    // What another process (or instance) does is seen.
    let other = open(dir.path(), "images");
    other.remove(&one.id).unwrap();
    assert!(images.find("made.local/tool:1").unwrap().is_none());

    let mut cut = std::fs::read(&docker).unwrap();
    cut.truncate(cut.len() / 2);
    assert!(images.import_reader(cut.as_slice(), None).is_err());
    assert!(images.import_reader(&b"no archive"[..], None).is_err());
    assert_eq!(
        std::fs::read_dir(dir.path().join("images/ingest"))
            .unwrap()
            .count(),
        0
    );
}

//! A server on memory storage, with certificates of its own.
// Each test program uses its part of this.
#![allow(dead_code)]

use knarr_apiserver::{ApiServer, Config};
use knarr_pki::{Leaf, Pki};

/// A server, the folder of its keys, and a kubeconfig of an administrator.
pub struct Harness {
    pub server: ApiServer,
    pub dir: tempfile::TempDir,
    pub kubeconfig: String,
    pub ca: String,
    pub admin: knarr_pki::Pair,
    /// The authority of front proxies.
    pub front_ca: String,
    pub pki: Pki,
}

pub async fn start() -> Harness {
    start_over(knarr_storage::open_memory().expect("store")).await
}

pub async fn start_over(store: knarr_storage::SharedStore) -> Harness {
    launch(store, |_| ()).await.expect("it starts")
}

/// A server with settings of the test's own.
pub async fn start_with(set: impl FnOnce(&mut Config)) -> Harness {
    try_start(set).await.expect("it starts")
}

/// The same, where it may refuse to start.
pub async fn try_start(set: impl FnOnce(&mut Config)) -> Result<Harness, String> {
    launch(knarr_storage::open_memory().expect("store"), set).await.map_err(|e| e.to_string())
}

async fn launch(store: knarr_storage::SharedStore, set: impl FnOnce(&mut Config)) -> Result<Harness, knarr_apiserver::Error> {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::open(dir.path()).expect("pki");
    let ca = pki.authority("ca", "kubernetes").expect("ca");
    let serving = pki
        .leaf(&ca, &Leaf {
            file: "apiserver".into(),
            common_name: "kube-apiserver".into(),
            dns_names: vec!["localhost".into(), "kubernetes.default.svc".into()],
            addresses: vec!["127.0.0.1".parse().expect("ip"), "10.96.0.1".parse().expect("ip")],
            server: true,
            ..Leaf::default()
        })
        .expect("leaf");
    let admin = pki
        .leaf(&ca, &Leaf {
            file: "admin".into(),
            common_name: "kubernetes-admin".into(),
            organizations: vec!["system:masters".into()],
            client: true,
            ..Leaf::default()
        })
        .expect("leaf");
    let front = pki.authority("front-proxy-ca", "front-proxy-ca").expect("ca");
    let proxy = pki.leaf(&front, &Leaf { file: "front-proxy-client".into(), common_name: "front-proxy-client".into(), client: true, ..Leaf::default() }).expect("leaf");
    let mut config = Config::new(store);
    config.requestheader_ca = Some(front.certificate().to_owned());
    config.proxy_client = Some((proxy.certificate, proxy.key));
    config.listen = std::env::var("KNARR_TEST_LISTEN").ok().and_then(|s| s.parse().ok()).unwrap_or(config.listen);
    config.tls_certificate = serving.certificate;
    config.tls_key = serving.key;
    config.client_ca = ca.certificate().to_owned();
    config.service_account_key = pki.service_account_key().expect("key");
    config.advertise_address = "192.0.2.10".parse().expect("ip");
    let begin = std::time::Instant::now();
    set(&mut config);
    let server = ApiServer::start(config).await?;
    println!("ready after {:?}", begin.elapsed());
    let url = format!("https://127.0.0.1:{}", server.address().port());
    let kubeconfig = knarr_pki::kubeconfig("knarr", &url, ca.certificate(), "admin", &admin);
    std::fs::write(dir.path().join("kubeconfig"), &kubeconfig).expect("written");
    Ok(Harness { server, front_ca: front.certificate().to_owned(), pki, ca: ca.certificate().to_owned(), dir, kubeconfig, admin })
}

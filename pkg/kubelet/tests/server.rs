//! The HTTPS server: who is let in, logs, streams.
#![allow(clippy::unwrap_used)]
mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Bench, ready};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Pki {
    ca: CertificateDer<'static>,
    client: (CertificateDer<'static>, Vec<u8>),
    tls: knarr_kubelet::Tls,
}

fn pki(dir: &std::path::Path) -> Pki {
    let ca_key = KeyPair::generate().unwrap();
    let mut p = CertificateParams::new(vec![]).unwrap();
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = p.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(p, ca_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let client_key = KeyPair::generate().unwrap();
    let mut c = CertificateParams::new(vec![]).unwrap();
    c.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    c.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let client = c.signed_by(&client_key, &issuer).unwrap();
    let write = |n: &str, t: String| {
        let path = dir.join(n);
        std::fs::write(&path, t).unwrap();
        path
    };
    Pki {
        tls: knarr_kubelet::Tls {
            cert: write("cert.pem", server.pem()),
            key: write("key.pem", key.serialize_pem()),
            client_ca: write("ca.pem", ca.pem()),
        },
        ca: ca.der().clone(),
        client: (client.der().clone(), client_key.serialize_der()),
    }
}

async fn connect(addr: SocketAddr, pki: &Pki, with_cert: bool) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca.clone()).unwrap();
    let b = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if with_cert {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pki.client.1.clone()));
        b.with_client_auth_cert(vec![pki.client.0.clone()], key).unwrap()
    } else {
        b.with_no_client_auth()
    };
    let mut tcp = None;
    for _ in 0..200 {
        match tokio::net::TcpStream::connect(addr).await {
            Ok(t) => {
                tcp = Some(t);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), tcp.unwrap())
        .await
        .unwrap();
    let (sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(conn.with_upgrades());
    sender
}

fn req(path: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(path).header("host", "localhost").body(Empty::new()).unwrap()
}

async fn get(addr: SocketAddr, pki: &Pki, cert: bool, path: &str) -> (u16, String) {
    ask(addr, pki, cert, req(path)).await
}

async fn ask(addr: SocketAddr, pki: &Pki, cert: bool, request: http::Request<Empty<Bytes>>) -> (u16, String) {
    let r = connect(addr, pki, cert).await.send_request(request).await.unwrap();
    let status = r.status().as_u16();
    (status, String::from_utf8(r.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// A streaming server that switches protocols and echoes.
async fn echo() -> SocketAddr {
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = l.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut s, _) = l.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(s.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with("POST /exec/token HTTP/1.1"), "{head}");
                assert!(head.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"));
                s.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello").await.unwrap();
                let (mut r, mut w) = s.split();
                let _ = tokio::io::copy(&mut r, &mut w).await;
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_those_who_may_ask() {
    let b = Bench::new().await;
    let pki = pki(b.dir.path());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let mut cfg = b.config();
    cfg.listen = Some(addr);
    cfg.tls = Some(pki.tls.clone());
    let streaming = echo().await;
    b.cri.state.lock().unwrap().streaming = format!("http://{streaming}/exec/token");
    let _k = b.start_with(cfg.clone(), Some(b.api.client()));
    let path = b.pod("p", json!({"containers": [{"name": "c", "image": "img", "imagePullPolicy": "Never"}]}));
    let pod = b.api.wait(&path, "ready", ready).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();

    assert_eq!(get(addr, &pki, false, "/healthz").await, (200, "ok".into()));
    assert_eq!(get(addr, &pki, false, "/pods").await.0, 401);
    let (code, pods) = get(addr, &pki, true, "/pods").await;
    assert_eq!(code, 200);
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");
    let (code, view) = get(addr, &pki, true, &format!("/debug/pod/{uid}")).await;
    assert_eq!(code, 200);
    assert!(view.contains("\"history\":[{"), "{view}");
    assert!(get(addr, &pki, true, "/metrics").await.1.contains("kubelet_running_pods 1"));
    assert_eq!(get(addr, &pki, true, "/containerLogs/ns/p/none").await.0, 404);

    let log = cfg.log_dir("ns", "p", &uid).join("c");
    std::fs::create_dir_all(&log).unwrap();
    let file = log.join("0.log");
    std::fs::write(&file, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stdout F two\n").unwrap();
    assert_eq!(get(addr, &pki, true, "/containerLogs/ns/p/c?tailLines=1").await, (200, "two\n".into()));
    let follow = connect(addr, &pki, true).await.send_request(req("/containerLogs/ns/p/c?follow=true")).await.unwrap();
    let body = tokio::spawn(follow.into_body().collect());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let text = std::fs::read_to_string(&file).unwrap() + "2026-01-01T00:00:00Z stdout F last\n";
    std::fs::write(&file, text).unwrap();
    b.cri.exit("c", 0);
    let all = tokio::time::timeout(Duration::from_secs(5), body).await.expect("the end").unwrap().unwrap();
    assert!(String::from_utf8(all.to_bytes().to_vec()).unwrap().ends_with("last\n"));

    b.api.wait(&path, "restarted", |p| ready(p) && p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let r = http::Request::post("/exec/ns/p/c?command=sh&input=1&output=1")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut sender = connect(addr, &pki, true).await;
    let answer = sender.send_request(r).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut buf = [0; 5];
    io.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"hello");
    io.write_all(b"again").await.unwrap();
    io.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"again");

    let checkpoint = |path: &str| {
        let r = http::Request::post(format!("/checkpoint/{path}")).header("host", "localhost");
        ask(addr, &pki, true, r.body(Empty::new()).unwrap())
    };
    let (code, answer) = checkpoint("ns/p/c").await;
    assert_eq!(code, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let file = std::path::Path::new(answer["items"][0].as_str().unwrap());
    assert_eq!(file.parent(), Some(cfg.data_dir.join("kubelet/checkpoints").as_path()));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("checkpoint-p_ns-c-20") && name.ends_with("Z.tar"), "{name}");
    assert!(!std::fs::read(file).unwrap().is_empty());
    let (code, why) = checkpoint("ns/p/c?timeout=1").await;
    assert_eq!((code, why.as_str()), (500, "checkpointing of ns/p/c failed (no checkpoint in 1 s)"));
    assert_eq!(checkpoint("ns/p/c?timeout=soon").await.0, 500);
    assert_eq!(checkpoint("ns/p/none").await.0, 404);
    assert_eq!(checkpoint("ns/none/c").await.0, 404);
    assert_eq!(get(addr, &pki, true, "/checkpoint/ns/p/c").await.0, 404, "only what is posted is done");
    let r = http::Request::post("/checkpoint/ns/p/c").header("host", "localhost");
    assert_eq!(ask(addr, &pki, false, r.body(Empty::new()).unwrap()).await.0, 401);
}

//! Watches over a WebSocket, as browsers open them.

mod common;

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use knarr_apiserver::UserInfo;
use kube::{Api, api::PostParams};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};

/// One message of the server: its kind and its bytes.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let head = from.read_u16().await.expect("a frame");
    assert_eq!(head & 0x8080, 0x8000, "one whole frame, not masked");
    let length = match head & 0x7f {
        126 => u64::from(from.read_u16().await.expect("length")),
        127 => from.read_u64().await.expect("length"),
        short => u64::from(short),
    };
    let mut bytes = vec![0; usize::try_from(length).expect("short")];
    from.read_exact(&mut bytes).await.expect("payload");
    (u8::try_from(head >> 8 & 0x0f).expect("four bits"), bytes)
}

#[tokio::test]
async fn a_watch_is_read_over_a_websocket() {
    let h = common::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(h.server.client(UserInfo::admin()), "default");
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}})).expect("shape");
    maps.create(&PostParams::default(), &map("before")).await.expect("created");

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(h.ca.as_bytes()).expect("pem")).expect("root");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(h.admin.certificate.as_bytes()).expect("pem")],
            PrivateKeyDer::from_pem_slice(h.admin.key.as_bytes()).expect("pem"),
        )
        .expect("certificate");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let open = async |path: &str, protocol: &str| {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", h.server.address().port())).await.expect("tcp");
        let mut tls = BufReader::new(connector.connect("localhost".try_into().expect("name"), tcp).await.expect("tls"));
        let ask = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        tls.write_all(ask.as_bytes()).await.expect("asked");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(tls.read_line(&mut head).await.expect("head") > 0, "{head}");
        }
        (tls, head.to_lowercase())
    };

    let (mut socket, head) = open("/api/v1/namespaces/default/configmaps?watch=1", "").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    let (kind, first) = message(&mut socket).await;
    let first: Value = serde_json::from_slice(&first).expect("one event a message");
    assert_eq!((kind, &first["type"], &first["object"]["metadata"]["name"]), (1, &json!("ADDED"), &json!("before")));
    maps.create(&PostParams::default(), &map("after")).await.expect("created");
    let (_, next) = message(&mut socket).await;
    let next: Value = serde_json::from_slice(&next).expect("one event a message");
    assert_eq!(next["object"]["metadata"]["name"], "after");
    // A masked ping is answered, a masked close ends it.
    socket.write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i']).await.expect("sent");
    assert_eq!(message(&mut socket).await, (10, b"hi".to_vec()));
    socket.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.expect("sent");
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");

    // Binary messages where they are asked for, and the end of the watch is said.
    let path = "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&fieldSelector=metadata.name=after";
    let (mut socket, head) = open(path, "Sec-WebSocket-Protocol: x, binary.k8s.io\r\n").await;
    assert!(head.contains("sec-websocket-protocol: binary.k8s.io"), "{head}");
    assert_eq!(message(&mut socket).await.0, 2);
    assert_eq!(message(&mut socket).await, (8, 1000_u16.to_be_bytes().to_vec()));

    // What is refused is refused before.
    let (_, head) = open("/api/v1/namespaces/default/nothings?watch=1", "").await;
    assert!(head.starts_with("http/1.1 404 "), "{head}");
}

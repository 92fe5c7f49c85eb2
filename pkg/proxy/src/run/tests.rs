//! The whole way from a watch event to an answering service, over an API server of a few lines.

use super::*;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use knarr_network::testing::Netns;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Instant;
use tokio::sync::mpsc;

type Feed = Arc<Mutex<Vec<mpsc::UnboundedSender<Value>>>>;

/// A client of a server that has nothing at first and then tells what is fed to it: services on
/// the first feed, slices on the second.
fn client(feeds: [Feed; 2]) -> kube::Client {
    let answer = move |req: http::Request<kube::client::Body>| {
        let feed = feeds[usize::from(req.uri().path().ends_with("endpointslices"))].clone();
        async move {
            let (tx, rx) = mpsc::unbounded_channel();
            let _ = tx.send(json!({"type": "BOOKMARK", "object": {"metadata": {
                "resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}}));
            feed.lock().unwrap().push(tx);
            let lines = futures::stream::unfold(rx, |mut rx| async {
                let line = rx.recv().await?;
                Some((Bytes::from(format!("{line}\n")), rx))
            });
            let frames = lines.map(|b| Ok::<_, std::convert::Infallible>(http_body::Frame::data(b)));
            Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(frames)))
        }
    };
    kube::Client::new(tower::service_fn(answer), "default")
}

#[test]
fn an_event_is_programmed_at_once() {
    let Some(ns) = Netns::new() else { return };
    ns.run(|| {
        // One thread in the namespace, whose blocking threads are its children and so in it too.
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(scenario());
    });
}

async fn scenario() {
    {
        let gateway = std::net::Ipv4Addr::new(10, 244, 0, 1);
        let mut s = knarr_network::netlink::Socket::route().unwrap();
        s.add_bridge("br0", [2, 0, 0, 0, 0, 1], 1500).unwrap();
        let index = s.link("br0").unwrap().unwrap().index;
        s.add_address(index, gateway, 24).unwrap();
        let services = knarr_network::netlink::route::Route {
            dst: std::net::Ipv4Addr::new(10, 96, 0, 0),
            prefix: 16,
            gateway: None,
            oif: index,
            src: Some(gateway),
        };
        s.set_route(&services).unwrap();
    }
    let l = TcpListener::bind("10.244.0.1:0").unwrap();
    let port = l.local_addr().unwrap().port();
    std::thread::spawn(move || l.incoming().for_each(drop));
    let feeds = [Feed::default(), Feed::default()];
    let stop = CancellationToken::new();
    let cfg = Config::new("me", vec![], "10.244.0.0/16");
    let proxy = tokio::spawn(run(client(feeds.clone()), cfg, stop.clone()));
    while feeds.iter().any(|f| f.lock().unwrap().is_empty()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tell = |i: usize, v: Value| feeds[i].lock().unwrap()[0].send(v).unwrap();
    tell(0, json!({"type": "ADDED", "object": {
        "metadata": {"namespace": "ns", "name": "web", "uid": "s", "resourceVersion": "2"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}}}));
    let refused = || async {
        let dial = tokio::net::TcpStream::connect("10.96.0.7:80");
        match tokio::time::timeout(Duration::from_millis(100), dial).await {
            Ok(Err(e)) => e.kind() == std::io::ErrorKind::ConnectionRefused,
            _ => false,
        }
    };
    let patience = Instant::now();
    while !refused().await {
        assert!(patience.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let start = Instant::now();
    tell(1, json!({"type": "ADDED", "object": {"addressType": "IPv4",
        "metadata": {"namespace": "ns", "name": "web-1", "uid": "e", "resourceVersion": "3",
            "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.244.0.1"]}],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}]}}));
    while tokio::net::TcpStream::connect("10.96.0.7:80").await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
    eprintln!("event to answer: {:?}", start.elapsed());
    tell(1, json!({"type": "DELETED", "object": {"addressType": "IPv4",
        "metadata": {"namespace": "ns", "name": "web-1", "uid": "e", "resourceVersion": "4",
            "labels": {"kubernetes.io/service-name": "web"}}}}));
    while !refused().await {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.cancel();
    proxy.await.unwrap().unwrap();
}

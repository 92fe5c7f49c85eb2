use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Answers each connection with the next text; gives the port.
async fn server(answers: Vec<String>) -> u16 {
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = l.local_addr().expect("an address").port();
    tokio::spawn(async move {
        for a in answers {
            let (mut s, _) = l.accept().await.expect("a client");
            let mut buf = [0; 1024];
            let _ = s.read(&mut buf).await;
            let _ = s.write_all(a.as_bytes()).await;
        }
    });
    port
}

fn target(port: u16) -> Target {
    Target { host: "127.0.0.1".into(), port, path: "/x?y=1".into(), headers: vec![], tls: false }
}

fn answer(status: &str, extra: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{extra}Content-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn statuses_decide() {
    let port = server(vec![answer("200 OK", ""), answer("500 No", "")]).await;
    let t = target(port);
    probe(&t, Duration::from_secs(1)).await.expect("healthy");
    let e = probe(&t, Duration::from_secs(1)).await.expect_err("unhealthy");
    assert_eq!(e, "HTTP probe failed with statuscode: 500");
}

#[tokio::test]
async fn redirects_stay_on_the_host() {
    let port = server(vec![
        answer("302 Found", "Location: /other\r\n"),
        answer("404 No", ""),
        answer("302 Found", "Location: http://0.0.0.0/\r\n"),
    ])
    .await;
    let t = target(port);
    assert!(probe(&t, Duration::from_secs(1)).await.is_err());
    probe(&t, Duration::from_secs(1)).await.expect("another host is healthy");
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let l = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = l.local_addr().expect("an address").port();
    drop(l);
    let e = probe(&target(port), Duration::from_secs(1)).await.expect_err("refused");
    assert!(e.contains("connect: connection refused"), "{e}");
}

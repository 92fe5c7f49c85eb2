//! Serves on memory storage until it is interrupted; prints where its kubeconfig is.

#[path = "../tests/common/mod.rs"]
mod common;

#[tokio::main]
async fn main() {
    let h = common::start().await;
    let _ = (&h.kubeconfig, &h.ca, &h.admin);
    println!("export KUBECONFIG={}", h.dir.path().join("kubeconfig").display());
    let _ = tokio::signal::ctrl_c().await;
    h.server.shutdown().await;
}

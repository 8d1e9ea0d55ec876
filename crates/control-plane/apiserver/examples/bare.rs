//! A bare API server, for trying things by hand and for `cargo xtask bench api`:
//! `cargo run -p podium-apiserver --example bare -- 6553 [DIR]`, then `export KUBECONFIG=<printed path>`.
//!
//! With a directory the store in it is durable, as in a cluster, and found again by the next start; without, it is in
//! memory and gone with the process.

#[path = "../tests/api/support.rs"]
mod support;

use std::path::PathBuf;

use podium_store::Store;

/// The same as in the `podium` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let server = match arguments.next().map(PathBuf::from) {
        None => support::Server::start_with(port, |_| {}).await,
        Some(path) => {
            let store = Store::open(podium_store::Config::new(path.join("store"))).await.expect("a store");
            support::Server::start_over(&path, None, store, port, |_| {}).await
        }
    };
    println!("listening on https://{}", server.server.address());
    println!("export KUBECONFIG={}", server.kubeconfig.display());
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let store = server.store.clone();
    server.stop().await;
    store.close().await;
}

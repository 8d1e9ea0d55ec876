//! A bare API server over a store in memory, for trying things by hand:
//! `cargo run -p podium-apiserver --example bare -- 6553`, then `export KUBECONFIG=<printed path>`.

#[path = "../tests/api/support.rs"]
mod support;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let server = support::Server::start_with(port, |_| {}).await;
    println!("listening on https://{}", server.server.address());
    println!("export KUBECONFIG={}", server.kubeconfig.display());
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("no signals: {error}");
    }
    server.stop().await;
}

//! Runs the server alone, with a registry on disk and no modules: `cargo run --release -p pintle-server --example serve -- --data-dir DIR [--listen ADDR]`.

use std::path::PathBuf;
use std::sync::Arc;

use pintle_registry::{Registry, RegistryConfig};
use pintle_server::{Server, ServerConfig};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let (mut data_dir, mut listen) = (PathBuf::from(".pintle"), "127.0.0.1:6443".to_owned());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or("each option takes a value")?;
        match arg.as_str() {
            "--data-dir" => data_dir = value.into(),
            "--listen" => listen = value,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    std::fs::create_dir_all(&data_dir)?;
    let store = pintle_store::RedbStore::open(&data_dir.join("store.redb"), pintle_store::Options::default())?;
    let registry = Registry::open(Arc::new(store), RegistryConfig::default()).await?;
    registry.bootstrap().await?;
    let server = Server::start(ServerConfig::new(vec![listen.parse()?], &data_dir), registry).await?;
    println!("KUBECONFIG={}", server.kubeconfig().display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}

//! Where a server's objects are kept: the embedded log, or an etcd.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use podium_store::{EtcdConfig, EtcdTls, Store};

use crate::layout::Layout;

/// The store, if it is an etcd.
#[derive(Clone, Debug, Args)]
pub(crate) struct Etcd {
    /// URLs of an etcd cluster to keep objects in [default: the embedded store]
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// Authority of etcd's certificates
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    etcd_cafile: Option<PathBuf>,
    /// Certificate shown to etcd
    #[arg(long, value_name = "FILE", requires = "etcd_servers", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_servers", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// What all keys begin with
    #[arg(long, value_name = "PATH", requires = "etcd_servers", default_value = "/registry")]
    etcd_prefix: String,
}

/// Where objects are kept.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// The embedded log, in this directory.
    Log(PathBuf),
    /// An etcd cluster.
    Etcd(EtcdConfig),
}

impl Engine {
    /// The one that the flags name; without any, the embedded one of this cluster.
    pub(crate) fn choose(flags: &Etcd, layout: &Layout) -> Engine {
        match flags.etcd_servers.as_slice() {
            [] => Engine::Log(layout.store()),
            servers => {
                let identity = flags.etcd_certfile.clone().zip(flags.etcd_keyfile.clone());
                let ca = flags.etcd_cafile.clone();
                Engine::Etcd(EtcdConfig {
                    tls: (ca.is_some() || identity.is_some()).then_some(EtcdTls { ca, identity }),
                    prefix: format!("/{}", flags.etcd_prefix.trim_matches('/')),
                    codec: Arc::new(podium_apiserver::EtcdCodec),
                    ..EtcdConfig::new(servers.to_vec())
                })
            }
        }
    }

    /// Opens the store.
    pub(crate) async fn open(&self) -> Result<Store> {
        match self {
            Engine::Log(directory) => {
                Store::open(podium_store::Config::new(directory.clone())).await.context("open the store")
            }
            Engine::Etcd(config) => Store::open_etcd(config.clone()).await.context("open the store in etcd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        etcd: Etcd,
    }

    fn flags(line: &str) -> Etcd {
        Line::try_parse_from(std::iter::once("server").chain(line.split_whitespace())).unwrap().etcd
    }

    #[test]
    fn the_engine_is_chosen_by_flags() {
        let layout = Layout::new(Path::new("/d")).unwrap();
        let log = Engine::choose(&flags(""), &layout);
        assert!(matches!(&log, Engine::Log(path) if path == Path::new("/d/store")), "{log:?}");
        let line = "--etcd-servers http://a:1,http://b:2 --etcd-cafile ca --etcd-certfile c --etcd-keyfile k \
                    --etcd-prefix other/";
        let Engine::Etcd(etcd) = Engine::choose(&flags(line), &layout) else { panic!("not etcd") };
        assert_eq!(etcd.endpoints, ["http://a:1", "http://b:2"]);
        assert_eq!(etcd.prefix, "/other");
        let tls = etcd.tls.unwrap();
        assert_eq!((tls.ca, tls.identity), (Some("ca".into()), Some(("c".into(), "k".into()))));
    }
}

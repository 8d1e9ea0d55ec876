//! `podium proxy`.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use podium_client::SharedInformers;
use podium_network::Cidr;
use tokio::sync::watch;

use super::Common;
use crate::daemon::Program;
use crate::parts::Parts;

/// Flags by upstream's names.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,
    /// Name of this Node [default: the host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// Addresses of pods: who else calls a Service's address gets the node's
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: Option<Cidr>,
    /// Addresses of this node at which node ports answer [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    nodeport_addresses: Vec<Cidr>,
    /// Only nftables
    #[arg(long, value_name = "MODE", default_value = "nftables")]
    proxy_mode: String,
    /// Upstream's KubeProxyConfiguration is not read
    #[arg(long, value_name = "FILE", hide = true)]
    config: Option<String>,
    /// Table of nftables to keep
    #[arg(long, value_name = "NAME", default_value = "podium-services")]
    table: String,
    /// Address to bind to; upstream's flag, for nothing: this proxy listens nowhere
    #[arg(long, value_name = "IP", hide = true)]
    bind_address: Option<IpAddr>,
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    ensure!(
        flags.proxy_mode == "nftables",
        "--proxy-mode={} is not supported: only nftables is",
        flags.proxy_mode
    );
    ensure!(flags.config.is_none(), "--config is not supported: give the settings as flags");
    ensure!(flags.bind_address.is_none(), "--bind-address is not supported: the proxy listens nowhere");
    super::run(&flags.common.log, &mut Proxy(flags))
}

struct Proxy<'a>(&'a Flags);

impl Program for Proxy<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let flags = self.0;
        let end = parts.shutdown();
        let client = flags.common.connect().await?.renewed_client(parts)?;
        let node_name = flags.hostname_override.clone().map_or_else(crate::settings::host_name, Ok)?;
        let (up, mut synced) = watch::channel(false);
        let config = podium_proxy::Config {
            informers: SharedInformers::new(client, end.clone()),
            node_name,
            table: flags.table.clone(),
            cluster_cidr: flags.cluster_cidr,
            node_port_addresses: flags.nodeport_addresses.clone(),
        };
        parts.spawn("proxy", podium_proxy::run(config, up, end));
        parts.unless_ended(synced.wait_for(|synced| *synced)).await?.context("the proxy has ended")?;
        tracing::info!(table = flags.table, "all Services are in the kernel");
        Ok(())
    }

    async fn close(&mut self, _running: Option<()>) {}
}

//! A load generator for any Kubernetes API server: the work that the project's figures are about, sent as client-go would
//! (TLS, HTTP/2, a client certificate or token, every answer read to its end), and printed beside upstream's figures.
//!
//! It shares the machine with the server, so it is lean: one thread, one HTTP/2 connection for some streams, no JSON
//! parsed that need not be. What it costs is part of every figure.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) mod connection;
pub(crate) mod figures;
pub(crate) mod server;
mod watch;
mod work;

use connection::{Connections, Target};
use figures::Report;
use server::Server;
use work::Work;

/// What is measured, on which server.
#[derive(Clone, Debug, Default)]
struct Options {
    /// The kubeconfig of a server that runs already; none starts one of ours.
    kubeconfig: Option<PathBuf>,
    /// The process whose memory is told, beside a server that runs already.
    pid: Option<i32>,
    /// Pods in the large namespace.
    pods: usize,
    /// Connections that requests are spread over.
    connections: usize,
    /// Also the works that take minutes: 300,000 objects, a start over them, a thousand informers of Secrets.
    large: bool,
    /// Only works whose names contain this.
    only: Option<String>,
}

const USAGE: &str = "usage: podium-testkit load [--kubeconfig FILE [--pid PID]] [--pods N] [--connections N] [--large] [--only TEXT]";

impl Options {
    fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options { pods: 10_000, connections: 4, ..Options::default() };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{name} needs a value"));
            match *name {
                "--kubeconfig" => options.kubeconfig = Some(PathBuf::from(value()?)),
                "--pid" => options.pid = Some(value()?.parse()?),
                "--pods" => options.pods = value()?.parse()?,
                "--connections" => options.connections = value()?.parse()?,
                "--only" => options.only = Some((*value()?).to_owned()),
                "--large" => options.large = true,
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// Runs the works and prints the table.
///
/// # Errors
/// A server that does not start or answer; any answer that is not a success.
pub fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&options))
}

async fn measure(options: &Options) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut report = Report::new(figures::API, options.only.clone());
    let mut own = None;
    let (kubeconfig, pid) = match &options.kubeconfig {
        Some(path) => (path.clone(), options.pid),
        None => {
            let server = Server::start(scratch.path()).await?;
            report.milliseconds("start, empty", server.took);
            let found = (server.kubeconfig(), Some(server.pid()));
            own = Some(server);
            found
        }
    };
    let target = Target::read(&kubeconfig)?;
    let work = Work::new(Connections::open(&target, options.connections).await?);
    work.prepare().await?;
    let pods = options.pods;
    if report.wants("create pods, one writer") {
        report.rate("create pods, one writer", &work.create("load-one", 3_000.min(pods), 1).await?);
        work.delete("load-one", 3_000.min(pods), 64).await?;
    }
    let created = work.create("load", pods, 64).await?;
    report.rate("create pods, 64 writers", &created);
    if let Some(pid) = pid {
        report.memory("resident, 10,000 pods stored", server::resident(pid)?);
    }
    reads(&work, &mut report, pods).await?;
    if report.wants("merge patch, 32 writers") {
        report.rate("merge patch, 32 writers", &work.patch("load", pods, 2 * pods, 32).await?);
    }
    for (name, watchers, writers, updates) in
        [("watch, 1 watcher, 1 writer", 1, 1, 2_000), ("watch, 200 watchers, 4 writers", 200, 4, 800)]
    {
        if report.wants(name) {
            let connections = Connections::open(&target, options.connections).await?;
            report.latency(name, &watch::fan_out(&work, &connections, watchers, writers, updates).await?);
        }
    }
    if let Some(pid) = pid {
        report.memory("resident, after all reads, writes, watches", server::resident(pid)?);
    }
    report.rate("delete pods, 64 writers", &work.delete("load", pods, 64).await?);
    if options.large {
        large(&work, &target, &mut report, own, pid).await?;
    } else if let Some(own) = own {
        own.stop().await?;
    }
    Ok(())
}

async fn reads(work: &Work, report: &mut Report, pods: usize) -> Result<()> {
    if report.wants("get a pod, 32 readers") {
        report.rate("get a pod, 32 readers", &work.get("load", pods, 10 * pods, 32).await?);
    }
    let json = "application/json";
    let protobuf = "application/vnd.kubernetes.protobuf";
    let pages = work.page_starts("load", 500, 12).await?;
    for (name, query, accept, times) in [
        ("list 10,000 pods, JSON", "resourceVersion=0", json, 20),
        ("list 10,000 pods, protobuf", "resourceVersion=0", protobuf, 20),
        ("list by label, 1 %", "labelSelector=app%3Dapp-7", json, 100),
    ] {
        if report.wants(name) {
            report.milliseconds_of(name, &work.list("load", &[query.to_owned()], accept, times).await?);
        }
    }
    if report.wants("list, one page of 500") {
        report.milliseconds_of("list, one page of 500", &work.list("load", &pages, json, 100).await?);
    }
    Ok(())
}

/// The works that need minutes and a lot of memory on the client's side too.
async fn large(
    work: &Work,
    target: &Target,
    report: &mut Report,
    own: Option<Server>,
    pid: Option<i32>,
) -> Result<()> {
    const MANY: usize = 300_000;
    let name = "list 300,000 small objects";
    if report.wants(name) {
        report.rate("create 300,000 small objects", &work.create_small("many", MANY, 64).await?);
        report.milliseconds_of(name, &work.list_small("many", 5).await?);
    }
    let mut own = own;
    if let Some(server) = own.take() {
        let scratch = server.stop().await?;
        let server = Server::start(&scratch).await?;
        report.milliseconds("start over what is stored", server.took);
        own = Some(server);
    }
    let name = "1,000 informers, 400 MB of Secrets";
    if report.wants(name) {
        // A server of ours is another process by now.
        let kubeconfig = own.as_ref().map(Server::kubeconfig);
        let target = kubeconfig.map_or_else(|| Ok(target.clone()), |path| Target::read(&path))?;
        let work = Work::new(Connections::open(&target, 8).await?);
        work.create_secrets("secrets", 4_000, 100_000).await?;
        let pid = own.as_ref().map(Server::pid).or(pid);
        let before = pid.map(server::resident).transpose()?;
        let peak = server::Peak::watch(pid);
        let took = work.storm("secrets", 1_000, Duration::from_secs(3600)).await?;
        report.milliseconds(name, took);
        if let (Some(before), Some(peak)) = (before, peak.end().await) {
            report.memory("resident before the informers", before);
            report.memory("resident at most meanwhile", peak);
        }
    }
    if let Some(own) = own {
        own.stop().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let options = Options::parse(&["--kubeconfig", "/x", "--pods", "7", "--only", "list"]).unwrap();
        assert_eq!((options.pods, options.connections), (7, 4));
        assert_eq!(options.kubeconfig, Some(PathBuf::from("/x")));
        assert!(!options.large);
        for bad in [&["--pods"][..], &["--what"], &["--pods", "x"]] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}

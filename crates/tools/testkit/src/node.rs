//! A bench for any kubelet with its container runtime: pods started, kept, probed, run commands in and ended through the API,
//! timed by a watch, with what the node's processes use meanwhile. Nothing starts a kubectl: its start is not the node's.
//!
//! Without arguments it makes a cluster of ours with a second node, and measures that node alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use podium_image::{Image, ImageFile};

use crate::load::connection::Target;
use crate::load::figures::{Anchors, Report, Run};
use crate::{Cluster, Namespace, SecondNode, images};

mod exec;
mod pods;
mod processes;

use pods::{Pods, Probes};
use processes::Processes;

/// Upstream's figures and our floors. Source: kubelet v1.36.2, containerd 1.6.20, runc 1.1.5 and the bridge plugin under our control
/// plane, by this bench on a quiet machine of two cores. Of commands and probes the floors are a third and a quarter of them.
const ANCHORS: Anchors = &[
    ("idle, resident, after start", "139 MB", "25 MB"),
    ("pod create to Ready, median of 20", "476 ms", "120 ms"),
    ("30 pods of a Deployment Ready", "4,013 ms", "1,200 ms"),
    ("exec, round trip, median of 50", "26 ms", "8.7 ms"),
    ("100 pods, Http probes each second, of a core", "24.7 %", "6.2 %"),
    ("20 pods, Exec probes each second, of a core", "104 %", "26 %"),
    ("shim, private, median", "2.83 MB", "2 MB"),
    ("idle, resident, a minute after the pods", "190 MB", "25 MB"),
    ("image of 500 MB loaded", "5,979 ms", "5,979 ms"),
];

const USAGE: &str = "usage: podium-testkit node [--kubeconfig FILE --node NAME --pid PID... --shims TEXT --load COMMAND] [--pods N] [--only TEXT]
  --pid      a process of the node, such as its kubelet or its container runtime
  --shims    what the command line of each of its shims has in it
  --load     loads an image archive into the node, whose path comes behind it";

/// Pods started one after the other.
const SINGLE: usize = 20;
/// Pods of a Deployment, and how often.
const TOGETHER: (usize, usize) = (30, 3);
/// Commands run one after the other.
const COMMANDS: usize = 50;
/// Pods with commands for probes: each costs a process, and a node of two cores has to keep up.
const COMMAND_PROBES: usize = 20;
/// Idleness and upkeep are measured by letting time pass.
const IDLE: Duration = Duration::from_secs(10);
const UPKEEP: Duration = Duration::from_secs(20);
/// Runtimes of languages, Go's too, give memory back to the kernel later.
const SETTLE: Duration = Duration::from_secs(60);

/// What is measured, on which node.
#[derive(Clone, Debug, Default)]
struct Options {
    kubeconfig: Option<PathBuf>,
    node: Option<String>,
    pids: Vec<i32>,
    shims: Option<String>,
    load: Option<String>,
    /// Pods with probes.
    pods: usize,
    /// Only works whose names contain this.
    only: Option<String>,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options { pods: 100, ..Options::default() };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let value = *rest.next().with_context(|| format!("{name} needs a value"))?;
            match *name {
                "--kubeconfig" => options.kubeconfig = Some(PathBuf::from(value)),
                "--node" => options.node = Some(value.to_owned()),
                "--pid" => options.pids.push(value.parse()?),
                "--shims" => options.shims = Some(value.to_owned()),
                "--load" => options.load = Some(value.to_owned()),
                "--pods" => options.pods = value.parse()?,
                "--only" => options.only = Some(value.to_owned()),
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        let other = options.node.is_some() || options.load.is_some() || !options.pids.is_empty();
        ensure!(
            options.kubeconfig.is_some() == other && options.node.is_some() == other,
            "another node than our own is named by --kubeconfig and --node\n{USAGE}"
        );
        Ok(options)
    }
}

/// Runs the works and prints the table.
///
/// # Errors
/// A node that does not start, or anything that does not become ready.
pub fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let scratch = tempfile::tempdir()?;
    if options.kubeconfig.is_some() {
        return measure(&options, scratch.path());
    }
    ensure!(Cluster::available(), "root and a binary are needed: use `cargo xtask bench node`");
    let namespace = Namespace::new()?;
    // The API server's certificate has to name the address that the node reaches it by.
    let cluster = Cluster::start_with(&["--node-ip", &namespace.host.to_string()])?;
    let name = format!("bench{}", std::process::id());
    let node = SecondNode::join(&cluster, &namespace, &name)?;
    let own = Options {
        kubeconfig: Some(cluster.data_dir().join("kubeconfig")),
        node: Some(name),
        pids: vec![node.pid()?],
        shims: Some(node.directory().display().to_string()),
        load: Some(format!(
            "{} image load --data-dir {}",
            cluster.binary().display(),
            node.directory().display()
        )),
        ..options
    };
    measure(&own, scratch.path())
}

fn measure(options: &Options, scratch: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(works(options, scratch))
}

async fn works(options: &Options, scratch: &Path) -> Result<()> {
    let mut report = Report::new(ANCHORS, options.only.clone());
    let kubeconfig = options.kubeconfig.as_deref().context("no kubeconfig")?;
    let node = options.node.as_deref().context("no node")?;
    let processes = Processes::new(options.pids.clone(), options.shims.clone());
    if let Some(load) = &options.load {
        for archive in images::web(scratch)?.into_iter().chain(images::busybox(scratch)?) {
            run_load(load, &archive)?;
        }
    }
    let target = Target::read(kubeconfig)?;
    let mut pods = Pods::open(&target, node).await?;
    idle(&processes, &mut report, "after start", Duration::ZERO).await?;
    single(&mut pods, &mut report).await?;
    together(&mut pods, &mut report).await?;
    commands(&mut pods, &target, &mut report).await?;
    upkeep(&mut pods, &processes, &mut report, options.pods, Probes::Http).await?;
    upkeep(&mut pods, &processes, &mut report, COMMAND_PROBES, Probes::Exec).await?;
    idle(&processes, &mut report, "a minute after the pods", SETTLE).await?;
    pods.close().await?;
    let name = "image of 500 MB loaded";
    if let Some(load) = &options.load
        && report.wants(name)
    {
        let archive = scratch.join("large.tar");
        large(&archive)?;
        let started = Instant::now();
        run_load(load, &archive)?;
        report.milliseconds(name, started.elapsed());
    }
    Ok(())
}

/// What the node uses while it has nothing to do.
async fn idle(processes: &Processes, report: &mut Report, when: &str, settle: Duration) -> Result<()> {
    let (memory, time) = (format!("idle, resident, {when}"), format!("idle, of a core, {when}"));
    if !report.wants(&memory) && !report.wants(&time) {
        return Ok(());
    }
    tokio::time::sleep(settle).await;
    let (before, started) = (processes.times()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let (named, shims) = processes.times()?.since(&before);
    report.memory(&memory, processes.resident()?);
    report.processor(&time, named + shims, started.elapsed(), "");
    Ok(())
}

/// One pod after the other.
async fn single(pods: &mut Pods, report: &mut Report) -> Result<()> {
    let name = "pod create to Ready, median of 20";
    if !report.wants(name) {
        return Ok(());
    }
    let mut times = Vec::new();
    for number in 0..SINGLE {
        let started = Instant::now();
        pods.create(&format!("one-{number}"), Probes::None).await?;
        pods.ready(1).await?;
        times.push(started.elapsed());
        pods.delete_all().await?;
    }
    report.milliseconds_of(name, &Run::new(times.iter().sum(), times, 0));
    Ok(())
}

/// Pods at once.
async fn together(pods: &mut Pods, report: &mut Report) -> Result<()> {
    let name = "30 pods of a Deployment Ready";
    if !report.wants(name) {
        return Ok(());
    }
    let (count, rounds) = TOGETHER;
    let mut times = Vec::new();
    for round in 0..rounds {
        let deployment = format!("many-{round}");
        let started = Instant::now();
        pods.create_deployment(&deployment, count).await?;
        pods.ready(count).await?;
        times.push(started.elapsed());
        pods.delete_deployment(&deployment).await?;
    }
    report.milliseconds_of(name, &Run::new(times.iter().sum(), times, 0));
    Ok(())
}

/// Commands in a container.
async fn commands(pods: &mut Pods, target: &Target, report: &mut Report) -> Result<()> {
    let name = "exec, round trip, median of 50";
    if !report.wants(name) {
        return Ok(());
    }
    pods.create_shell("shell").await?;
    pods.ready(1).await?;
    let mut times = Vec::new();
    for _ in 0..COMMANDS {
        let started = Instant::now();
        let printed = exec::run(target, &Pods::path("shell"), &["echo", "hello"]).await?;
        times.push(started.elapsed());
        ensure!(printed == "hello\n", "the command printed {printed:?}");
    }
    report.milliseconds_of(name, &Run::new(times.iter().sum(), times, 0));
    pods.delete_all().await
}

/// Pods that are asked each second whether they are well, twice.
async fn upkeep(
    pods: &mut Pods,
    processes: &Processes,
    report: &mut Report,
    count: usize,
    probes: Probes,
) -> Result<()> {
    let name = format!("{count} pods, {probes:?} probes each second, of a core");
    let memory = "shim, private, median";
    let wanted = report.wants(&name) || (probes == Probes::Http && report.wants(memory));
    if !wanted {
        return Ok(());
    }
    for number in 0..count {
        pods.create(&format!("probed-{number}"), probes).await?;
    }
    pods.ready(count).await?;
    // What starting them left to do is not upkeep.
    tokio::time::sleep(IDLE / 2).await;
    let (before, started) = (processes.times()?, Instant::now());
    tokio::time::sleep(UPKEEP).await;
    let took = started.elapsed();
    let (named, shims) = processes.times()?.since(&before);
    let note = format!("shims {:.2} s, the rest {:.2} s", shims.as_secs_f64(), named.as_secs_f64());
    report.processor(&name, named + shims, took, &note);
    let private = processes.private()?;
    if probes == Probes::Http
        && let (Some(middle), Some(most)) = (private.get(private.len() / 2), private.last())
    {
        report.memory(memory, *middle);
        report.memory("shim, private, most", *most);
        report.memory("shims, private, all together", private.iter().sum());
    }
    pods.delete_all().await
}

fn run_load(command: &str, archive: &Path) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().context("--load is empty")?;
    let done = Command::new(program)
        .args(words)
        .arg(archive)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Writes an image of 500 files of a mebibyte that nothing can shorten.
fn large(path: &Path) -> Result<()> {
    let mut image = Image::new("podium.test/large:1").command(&["x"]);
    let mut state = 1u64;
    for number in 0..500 {
        let mut bytes = vec![0; 1 << 20];
        for chunk in bytes.chunks_mut(8) {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        image = image.file(&format!("/data/{number}"), ImageFile::Regular(bytes, 0o644));
    }
    image.write(std::io::BufWriter::new(std::fs::File::create(path)?))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let line = ["--kubeconfig", "/x", "--node", "n", "--pid", "1", "--pid", "2", "--pods", "7"];
        let options = Options::parse(&line).unwrap();
        assert_eq!((options.pids, options.pods), (vec![1, 2], 7));
        assert!(Options::parse(&[]).unwrap().kubeconfig.is_none());
        for bad in
            [&["--pods"][..], &["--what", "x"], &["--kubeconfig", "/x"], &["--node", "n"], &["--pid", "1"]]
        {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}

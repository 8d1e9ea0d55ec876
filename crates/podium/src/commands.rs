//! What the subcommands do, but for the cluster itself.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command as Process, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podium_pki::Pki;
use podium_pki::authority::{LEAF_LIFE, Request, Usage};

use crate::claims::Claims;
use crate::cli::{Cli, Command, Down, ImageCommand, Kubeconfig, Reset, Up};
use crate::cluster::Purpose;
use crate::join::{self, NodeSettings};
use crate::layout::Layout;
use crate::runtime::Choice;
use crate::settings::{Settings, runtime_endpoint};
use crate::steps::say;
use crate::{cluster, component, preflight};

/// Set for the child that `--detach` starts, so that it knows that nobody reads after the start.
const DETACHED: &str = "PODIUM_DETACHED";

/// Runs one command line.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Up(up) => start(&up),
        Command::Down(down) => stop(&down),
        Command::Status(data) => status(&Layout::new(&data.data_dir)?),
        Command::Node(flags) => start_node(&flags),
        Command::Server(flags) => component::server::run(&flags),
        Command::ControllerManager(flags) => component::controller_manager::run(&flags),
        Command::Scheduler(flags) => component::scheduler::run(&flags),
        Command::Kubelet(flags) => component::kubelet::run(&flags),
        Command::Proxy(flags) => component::proxy::run(&flags),
        Command::Kubeconfig(asked) => kubeconfig(&asked),
        Command::Reset(reset) => self::reset(&reset),
        Command::Image(image) => self::image(image.command),
        Command::Store(command) => crate::store::run(&command),
    }
}

/// The daemon's process, if it runs: it holds a lock on the file with its number, which ends with it however it ends.
pub(crate) fn daemon(layout: &Layout) -> Option<Pid> {
    let file = std::fs::File::open(layout.pid_file()).ok()?;
    let text = std::io::read_to_string(&file).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None,
        Err(_) => {
            let pid = text.trim().parse().ok().map(Pid::from_raw)?;
            // A process without a command line is on its way out: its lock goes a moment later.
            let ending = std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
            if ending && wait_for_end(pid, Duration::from_secs(5)).is_ok() { None } else { Some(pid) }
        }
    }
}

/// Takes the lock that says that this process is the cluster's daemon; the lock lives as long as what is returned.
pub(crate) fn become_daemon(layout: &Layout) -> Result<Flock<std::fs::File>> {
    let path = layout.pid_file();
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let Ok(mut file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        bail!("another podium is starting with {}", layout.data.display());
    };
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

fn start(up: &Up) -> Result<ExitCode> {
    let layout = Layout::new(&up.data.data_dir)?;
    if let Some(pid) = daemon(&layout) {
        let settings = Settings::load(&layout)?;
        let port = settings.map_or_else(String::new, |s| format!(" on port {}", s.port));
        say(&format!(
            "already running{port} (process {pid}); `podium status` tells more, `podium down` stops it"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if up.detach && std::env::var_os(DETACHED).is_none() {
        return detach(&layout);
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(refuse(&["not root: containers need it; run `sudo podium up`".to_owned()]));
    }
    let mut claims = Claims::lock(&layout)?;
    claims.reclaim(cluster::forget);
    let settings = Settings::choose(&layout, up, &claims)?;
    let faults = preflight::check(&preflight::Needs {
        data_dir: &layout.data,
        port: Some(settings.port),
        containerd: Choice::of(settings.runtime_endpoint.as_deref()) == Choice::Containerd,
    });
    if !faults.is_empty() {
        return Ok(refuse(&faults));
    }
    cluster::run(&layout, &settings, up, claims)
}

fn start_node(flags: &join::Flags) -> Result<ExitCode> {
    let layout = Layout::new(&flags.data.data_dir)?;
    if let Some(pid) = daemon(&layout) {
        say(&format!("already running (process {pid}); `podium down` stops it"));
        return Ok(ExitCode::SUCCESS);
    }
    if flags.detach && std::env::var_os(DETACHED).is_none() {
        return detach(&layout);
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(refuse(&["not root: containers need it; run `sudo podium node`".to_owned()]));
    }
    let mut claims = Claims::lock(&layout)?;
    claims.reclaim(cluster::forget);
    let settings = NodeSettings::choose(&layout, flags, &claims)?;
    let faults = preflight::check(&preflight::Needs {
        data_dir: &layout.data,
        port: None,
        containerd: Choice::of(settings.runtime_endpoint.as_deref()) == Choice::Containerd,
    });
    if !faults.is_empty() {
        return Ok(refuse(&faults));
    }
    join::run(&layout, &settings, &flags.log, claims)
}

fn refuse(faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("podium: {fault}");
    }
    ExitCode::FAILURE
}

/// Starts ourselves again in a session of our own and shows what it shows until it is ready or gone.
fn detach(layout: &Layout) -> Result<ExitCode> {
    let mut command = Process::new(std::env::current_exe().context("our own program")?);
    let (reader, writer) =
        // Closed in programs that the daemon starts: a containerd that outlives a failed start would keep the pipe open.
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("pipe")?;
    command
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer.try_clone()?))
        .stderr(Stdio::from(writer))
        .process_group(0);
    let mut child = command.spawn().context("start in the background")?;
    // Our copies of the writing end must go, or the end of the child would not be seen.
    drop(command);
    let mut lines = BufReader::new(std::fs::File::from(reader));
    let mut line = String::new();
    let mut ready = false;
    while lines.read_line(&mut line)? > 0 {
        if line.trim_end() == END_OF_START {
            ready = true;
            break;
        }
        print!("{line}");
        let _ = std::io::stdout().flush();
        line.clear();
    }
    if ready {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("wait for the daemon")?;
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("podium: the daemon ended during the start ({status}); see {}", layout.log().display());
    Ok(ExitCode::FAILURE)
}

/// What a detached daemon prints last; not shown.
const END_OF_START: &str = "\u{4}";

/// Lets the process that started us in the background return. From here on nobody reads our output.
pub(crate) fn end_of_start() {
    if std::env::var_os(DETACHED).is_none() {
        return;
    }
    say(END_OF_START);
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

fn stop(down: &Down) -> Result<ExitCode> {
    stop_for(down, Purpose::Rest)
}

fn stop_for(down: &Down, purpose: Purpose) -> Result<ExitCode> {
    let layout = Layout::new(&down.data.data_dir)?;
    match daemon(&layout) {
        Some(pid) => {
            kill(pid, Signal::SIGTERM).context("stop the daemon")?;
            wait_for_end(pid, Duration::from_secs(30))?;
            say("stopped");
        }
        None => say("not running"),
    }
    if down.all {
        cluster::stop_pods(&layout, purpose)?;
        say("pods and container runtime stopped");
    } else if crate::runtime::has_pods(&layout) {
        say("pods keep running: `podium up` takes them over again, `podium down --all` stops them");
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for a process that is not our child.
pub(crate) fn wait_for_end(pid: Pid, limit: Duration) -> Result<()> {
    let started = Instant::now();
    let gone = || !std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    // A pid descriptor becomes readable when the process ends; where there is none, it has ended.
    if let Ok(descriptor) = pid_descriptor(pid) {
        let mut set =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&descriptor), nix::poll::PollFlags::POLLIN)];
        let millis = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX);
        nix::poll::poll(&mut set, millis).context("wait for a process")?;
    }
    if gone() {
        return Ok(());
    }
    bail!("process {pid} has not ended after {} s", started.elapsed().as_secs())
}

#[allow(unsafe_code)]
fn pid_descriptor(pid: Pid) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or an error.
    let number = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let number = i32::try_from(number).map_err(std::io::Error::other)?;
    if number < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn status(layout: &Layout) -> Result<ExitCode> {
    let settings = Settings::load(layout)?;
    let node = NodeSettings::load(layout)?;
    if settings.is_none() && node.is_none() {
        if let Some(pid) = daemon(layout) {
            say(&format!("running        process {pid}, {}", memory(pid)));
        }
        if is_cluster(layout) {
            say(&format!(
                "settings gone from {}: `podium reset` removes what is left",
                layout.data.display()
            ));
            return Ok(ExitCode::FAILURE);
        }
        say(&format!("no cluster in {}: `podium up` makes one", layout.data.display()));
        return Ok(ExitCode::from(3));
    }
    let Some(pid) = daemon(layout) else {
        let pods = crate::runtime::has_pods(layout);
        say(if pods {
            "not running (pods keep running); start with `podium up`"
        } else {
            "not running; start with `podium up`"
        });
        return Ok(ExitCode::from(3));
    };
    say(&format!("running        process {pid}, {}", memory(pid)));
    if let Some(settings) = &settings {
        say(&format!("API server     https://{}:{}", settings.current_node_ip()?, settings.port));
    }
    if let Some(node) = &node {
        say(&format!("node           {} at {}", node.node_name, node.current_node_ip()?));
    }
    say(&format!("data           {}", layout.data.display()));
    say(&format!("log            {}", layout.log().display()));
    if settings.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(cluster::summary(layout)) {
        Ok(lines) => lines.iter().for_each(|line| say(line)),
        Err(error) => {
            say(&format!("not answering  {error:#}"));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn memory(pid: Pid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or_else(|| "memory unknown".to_owned(), |kib| format!("{} MB resident", kib / 1024))
}

fn kubeconfig(asked: &Kubeconfig) -> Result<ExitCode> {
    let layout = Layout::new(&asked.data.data_dir)?;
    let path = layout.kubeconfig();
    if !path.exists() {
        bail!("no cluster in {}: `podium up` makes one", layout.data.display());
    }
    let own = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    if asked.server.is_none() && asked.client_name.is_none() {
        print!("{own}");
        return Ok(ExitCode::SUCCESS);
    }
    let parsed = kube::config::Kubeconfig::from_yaml(&own)
        .with_context(|| format!("{} is damaged", path.display()))?;
    let here = parsed.clusters.into_iter().find_map(|named| named.cluster?.server);
    let now = jiff::Timestamp::now();
    let pki = Pki::open(&layout.pki(), now)?;
    let user = asked.client_name.as_deref().unwrap_or("kubernetes-admin");
    let pair = match &asked.client_name {
        // Not kept: whoever asks keeps it.
        Some(name) => pki.authority().issue(
            &Request {
                common_name: name,
                organization: asked.org.as_deref(),
                names: BTreeSet::new(),
                usage: Usage::Client,
                life: LEAF_LIFE,
            },
            now,
        )?,
        None => pki.admin(now)?,
    };
    let server = asked.server.clone().or(here).context("the cluster's kubeconfig names no server")?;
    let text = podium_pki::kubeconfig::write("podium", user, &server, pki.authority().certificate(), &pair);
    print!("{}", text.expose());
    Ok(ExitCode::SUCCESS)
}

/// Whether there is a cluster, by its settings or, where those are gone, by what runs of it. Nothing else proves that a directory
/// is a cluster's, and may be deleted.
fn is_cluster(layout: &Layout) -> bool {
    layout.settings().exists()
        || layout.node_settings().exists()
        || daemon(layout).is_some()
        || crate::runtime::has_pods(layout)
}

fn reset(reset: &Reset) -> Result<ExitCode> {
    let layout = Layout::new(&reset.data.data_dir)?;
    if !is_cluster(&layout) {
        say(&format!("no cluster in {}", layout.data.display()));
        return Ok(ExitCode::SUCCESS);
    }
    if !reset.yes {
        if !std::io::stdin().is_terminal() {
            bail!("this deletes the cluster in {} with all its data: say --yes", layout.data.display());
        }
        print!("Delete the cluster in {} with all its pods and data? [y/N] ", layout.data.display());
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            say("nothing deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    stop_for(&Down { data: reset.data.clone(), all: true }, Purpose::Removal)?;
    cluster::remove(&layout)?;
    say("deleted");
    Ok(ExitCode::SUCCESS)
}

fn image(command: ImageCommand) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        ImageCommand::Load { file, data } => {
            let endpoint = endpoint(&data.data_dir)?;
            if !file.exists() {
                bail!("{}: no such file", file.display());
            }
            let names = runtime.block_on(podium_cri::import_image(&endpoint, &file))?;
            names.iter().for_each(|name| say(&format!("loaded {name}")));
        }
        ImageCommand::Ls { data } => {
            let mut images = runtime.block_on(podium_cri::list(&endpoint(&data.data_dir)?))?;
            images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags));
            say(&format!("{:<60} {:<15} {:>9}", "IMAGE", "ID", "SIZE"));
            for image in &images {
                let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
                let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
                for name in names {
                    say(&format!("{name:<60} {id:<15} {:>6.1} MB", megabytes(image.size)));
                }
            }
        }
        ImageCommand::Pull { image, data } => {
            let id = runtime.block_on(crate::pull::pull(&endpoint(&data.data_dir)?, &image))?;
            say(&format!("pulled {image} {id}"));
        }
        ImageCommand::Save { image, file, data } => {
            let file = std::path::absolute(&file)?;
            runtime.block_on(podium_cri::save(&endpoint(&data.data_dir)?, &image, &file))?;
            say(&format!("saved {image} to {}", file.display()));
        }
        ImageCommand::Tag { image, name, data } => {
            let kept = runtime.block_on(podium_cri::tag(&endpoint(&data.data_dir)?, &image, &name))?;
            say(&format!("tagged {image} as {kept}"));
        }
        ImageCommand::Prune { data } => {
            let (removed, bytes) = runtime.block_on(podium_cri::prune(&endpoint(&data.data_dir)?))?;
            removed.iter().for_each(|name| say(&format!("removed {name}")));
            say(&format!("{} images, {:.1} MB", removed.len(), megabytes(bytes)));
        }
        ImageCommand::Rm { image, data } => {
            runtime.block_on(podium_cri::remove(&endpoint(&data.data_dir)?, &image))?;
            say(&format!("removed {image}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For people: one decimal is enough, so the loss of precision does not matter.
#[allow(clippy::cast_precision_loss)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn endpoint(data_dir: &Path) -> Result<String> {
    let layout = Layout::new(data_dir)?;
    let Some(endpoint) = runtime_endpoint(&layout)? else {
        bail!("no cluster in {}: `podium up` makes one", layout.data.display());
    };
    Ok(Choice::of(endpoint.as_deref()).endpoint(&layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_whose_settings_are_gone_is_one_while_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("data")).unwrap();
        assert!(!is_cluster(&layout), "somebody's directory");
        if let Err(error) = std::fs::create_dir(layout.run()) {
            return eprintln!("skipped: {}: {error}", layout.run().display());
        }
        let running = become_daemon(&layout).unwrap();
        let seen = (daemon(&layout), is_cluster(&layout), status(&layout).unwrap());
        drop(running);
        assert_eq!(seen, (Some(Pid::this()), true, ExitCode::FAILURE));
        assert!(!is_cluster(&layout));
        std::fs::create_dir(layout.run().join("s")).unwrap();
        std::fs::write(layout.run().join("s/pod"), "").unwrap();
        let with_pods = is_cluster(&layout);
        std::fs::remove_dir_all(layout.run()).unwrap();
        assert!(with_pods, "its pods outlive the daemon");
        std::fs::create_dir_all(&layout.data).unwrap();
        std::fs::write(layout.settings(), "{}").unwrap();
        assert!(is_cluster(&layout));
    }
}

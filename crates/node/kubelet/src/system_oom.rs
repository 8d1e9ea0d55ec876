//! The event `SystemOOM`: the kernel has killed a process because the machine, not one group, was out of memory.
//!
//! The kernel says so in its log, which is read as it is written. Source: upstream's `pkg/kubelet/oom`; reason and message
//! are its own. Upstream's reads the log from its beginning and tells of old kills again whenever it starts; this begins
//! at the end.
#![allow(unsafe_code)]

mod parse;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use podium_client::EventType;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{context::Shared, node};
pub(crate) use parse::{Parser, Victim};

/// More than the longest record: the kernel refuses a read that has no room for one.
const RECORD_BYTES: usize = 16 << 10;

/// Records kills until shutdown. Without the log, as in some containers, the kubelet does its work and says so.
pub(crate) async fn run(shared: &Shared) {
    let about = node::reference(&shared.config.node_name);
    let record = |victim: Victim| {
        let text = match victim.process {
            Some((name, pid)) => format!("System OOM encountered, victim process: {name}, pid: {pid}"),
            None => "System OOM encountered".to_owned(),
        };
        shared.recorder.event(&about, EventType::Warning, "SystemOOM", text);
    };
    let follow = async {
        let path = &shared.config.kernel_log;
        let error = match Log::open(path) {
            Ok(mut log) => follow(&mut log, record).await,
            Err(error) => error,
        };
        tracing::info!(path = %path.display(), %error, "the kernel's log is not read: no events SystemOOM");
    };
    tokio::select! {
        () = follow => {}
        () = shared.shutdown.cancelled() => {}
    }
}

/// Until the log cannot be read.
async fn follow(log: &mut Log, record: impl Fn(Victim)) -> io::Error {
    let mut parser = Parser::default();
    loop {
        match log.next().await {
            Ok(text) => text.lines().filter_map(|line| parser.line(line)).for_each(&record),
            Err(error) => return error,
        }
    }
}

/// The kernel's log from now on.
struct Log {
    file: AsyncFd<File>,
    buffer: Vec<u8>,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        match file.seek(SeekFrom::End(0)) {
            // What has no end to go to has only what comes.
            Err(error) if error.kind() == io::ErrorKind::NotSeekable => {}
            other => drop(other?),
        }
        // SAFETY: the descriptor belongs to the `File` inside, which lives as long as the registration and keeps it.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE)? };
        Ok(Self { file, buffer: vec![0; RECORD_BYTES] })
    }

    /// The next record, perhaps more than one; each is a line and what belongs to it.
    async fn next(&mut self) -> io::Result<String> {
        loop {
            let mut ready = self.file.readable().await?;
            match ready.get_inner().read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => return Ok(String::from_utf8_lossy(&self.buffer[..length]).into_owned()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => ready.clear_ready(),
                    // More was written than the kernel keeps: the next read goes on with the oldest it has.
                    Some(libc::EPIPE | libc::EINTR) => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_log_is_read_as_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmsg");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut log = Log::open(&path).unwrap();
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writeln!(writer, "4,1,1,-;sh invoked oom-killer: gfp_mask=0x1, order=0").unwrap();
        writeln!(writer, "3,2,1,-;Out of memory: Killed process 12 (sh) total-vm:1kB").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        drop(writer);
        let error = follow(&mut log, move |victim| kept.lock().push(victim)).await;
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        assert_eq!(*seen.lock(), [Victim { process: Some(("sh".into(), 12)) }]);
    }

    #[test]
    fn a_machine_without_the_log() {
        assert!(Log::open(Path::new("/nonexistent/kmsg")).is_err());
    }
}

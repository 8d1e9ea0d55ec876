//! One component of the binary alone, as a process of the test's.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A running `podium COMPONENT`. Killed when dropped, and says what it logged if the test fails.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) directory: PathBuf,
}

impl Process {
    /// Starts it with what `command` adds; its log goes to the directory, which is made.
    pub(crate) fn start(directory: PathBuf, command: impl FnOnce(&mut Command)) -> Process {
        std::fs::create_dir_all(&directory).expect("a directory");
        let output = File::create(directory.join("log")).expect("a log");
        let binary = std::env::var_os(podium_testkit::cluster::BINARY).expect("looked for before");
        let mut all = Command::new(binary);
        all.stdin(Stdio::null()).stdout(output.try_clone().expect("the log again")).stderr(output);
        command(&mut all);
        Process { child: all.spawn().expect("it starts"), directory }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// `SIGKILL`, and its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        nix::sys::signal::kill(Pid::from_raw(pid), signal).expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} said:\n{}", self.directory.display(), self.log());
        }
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A child process that is known by its id: its output in a file, its end awaited or enforced.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

pub use rustix::process::Signal;

use crate::time::wait_for;

/// Clock ticks a second in `/proc/<pid>/stat`, the same on every Linux of today.
const TICKS: f64 = 100.0;
/// How much of the output a failed test prints.
const TAIL: usize = 6000;

/// A running process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<i32>,
}

impl Process {
    /// Starts it; what it says on both outputs is appended to `log`. Its standard input is a pipe that
    /// closes when this handle is dropped.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, log: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = OpenOptions::new().create(true).append(true).open(log).expect("the log can be opened");
        let copy = file.try_clone().expect("a file handle can be copied");
        let child = command
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(copy)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name, child, log: log.to_owned(), ended: None }
    }

    /// Starts it with its standard output in a file of its own, made anew.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_with_output(mut command: Command, output: &Path, log: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::piped())
            .stdout(File::create(output).expect("the output can be made"))
            .stderr(File::create(log).expect("the log can be made"))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name, child, log: log.to_owned(), ended: None }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input.
    pub fn input(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// What it said so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            use std::os::unix::process::ExitStatusExt;
            self.ended = Some(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)));
        }
        self.ended.is_none()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw)
        {
            // It may end on its own at the same moment; then there is nobody to tell.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// `kill -9`, and the wait until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            let _ = self.child.wait();
        }
    }

    /// Waits for its end; the exit code, or minus the signal's number.
    ///
    /// # Panics
    /// If it has not ended within the time.
    pub fn wait(&mut self, within: Duration) -> i32 {
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), within, || (!self.is_running()).then_some(()));
        self.ended.expect("it has just ended")
    }

    /// Resident memory now and at its highest, KiB.
    #[must_use]
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
    }

    /// Processor time used, seconds.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / TICKS
    }

    /// Open file descriptors.
    #[must_use]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let from = output.len().saturating_sub(TAIL);
            let from = (from..=output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(0);
            eprintln!("--- {} ({}) said:\n{}\n---", self.name, self.pid(), &output[from..]);
        }
    }
}

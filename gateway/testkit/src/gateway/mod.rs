//! The real gateway: the built binary in a process of its own, with its configuration in a folder of its own.

pub(crate) mod log;

use std::ffi::OsStr;
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::{LogLine, Metrics, client, eventually, within};

/// A gateway in preparation.
#[derive(Default)]
pub struct GatewayBuilder {
    config: String,
    values: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    binary: Option<PathBuf>,
    unprivileged: bool,
}

/// A running gateway. Dropping it kills the process; [`stop`](Self::stop) ends it as an operator would.
pub struct Gateway {
    child: Mutex<Child>,
    pid: Pid,
    folder: TempDir,
    values: Vec<(String, String)>,
    log: watch::Receiver<Vec<LogLine>>,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// What a run of the binary to its end left behind.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// Prepares a gateway.
#[must_use]
pub fn gateway() -> GatewayBuilder {
    GatewayBuilder::default()
}

/// The path of the `sluice` binary that was built beside the running test.
///
/// # Panics
/// If it has not been built, since a test cannot build it.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    let target = test.ancestors().find(|folder| folder.join("deps").is_dir());
    let target = target.unwrap_or_else(|| panic!("{} lies in no target folder", test.display()));
    let binary = target.join("sluice");
    assert!(binary.is_file(), "{} does not exist; build it first: cargo build -p sluice-app", binary.display());
    binary
}

/// Runs the binary with these arguments until it ends, which must be soon: `sluice check`, `schema`, `token`.
pub async fn run_to_end(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
    outcome_of(Command::new(binary()).args(arguments)).await
}

/// The same as the user `nobody`, without groups or capabilities, where the test itself runs as root.
pub async fn run_to_end_unprivileged(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    outcome_of(command_of_nobody(&binary(), folder.path()).args(arguments)).await
}

async fn outcome_of(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("sluice to end", output).await.expect("a binary that starts");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl GatewayBuilder {
    /// The configuration in YAML. `@name@` stands for what [`set`](Self::set) gave, `@dir@` for the gateway's folder.
    /// Without `listeners:` it listens on a free loopback port; without `admin:` its admin endpoint does.
    #[must_use]
    pub fn config(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.config);
        self
    }

    /// Gives the value of `@name@`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Display) -> Self {
        self.values.push((name.to_owned(), value.to_string()));
        self
    }

    /// Puts a file into the gateway's folder, its working directory. Folders in `name` are made.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// Sets an environment variable of the process.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument after `run -c FILE`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Runs this binary rather than the [one built beside the test](binary).
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Runs it as the user `nobody`, without groups or capabilities, where the test itself runs as root; elsewhere it has
    /// no privileges anyway.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it ends or stays silent instead, with everything it wrote.
    pub async fn run(self) -> Gateway {
        let mut gateway = self.spawn();
        let lines = gateway.wait_for("the gateway to be ready", |line| line.message() == "ready").await;
        let address_of = |line: &LogLine| -> SocketAddr {
            let address = line.field("address").unwrap_or_else(|| panic!("no address in {}", line.text));
            address.parse().unwrap_or_else(|_| panic!("no address of host and port in {}", line.text))
        };
        gateway.addresses = lines.iter().filter(|line| line.message() == "listening").map(address_of).collect();
        let admin = lines.iter().find(|line| line.message() == "admin listening");
        gateway.admin = admin.and_then(|line| line.field("address")?.parse().ok());
        gateway
    }

    /// Starts it where it must refuse to run, and gives what it said.
    ///
    /// # Panics
    /// If it is still running at the deadline.
    pub async fn run_to_refusal(self) -> Outcome {
        let gateway = self.spawn();
        let mut child = gateway.child.into_inner();
        let status = within("the gateway to refuse its configuration", child.wait()).await;
        let mut log = gateway.log;
        // The reader drops its side once the process has closed its standard error.
        within("the end of the log", async { while log.changed().await.is_ok() {} }).await;
        let stderr = text_of(&log.borrow());
        Outcome { code: status.expect("a child to wait for").code(), stdout: String::new(), stderr }
    }

    fn spawn(self) -> Gateway {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in &self.files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder for a file");
            std::fs::write(path, content).expect("a file in a temporary folder");
        }
        write_config(folder.path(), &self.config, &self.values);
        let binary = self.binary.unwrap_or_else(binary);
        let mut command =
            if self.unprivileged { command_of_nobody(&binary, folder.path()) } else { Command::new(binary) };
        let mut child = command
            .arg("run")
            .arg("-c")
            .arg(config_path(folder.path()))
            .args(&self.arguments)
            .envs(self.environment)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a binary that starts");
        let id = child.id().expect("the id of a process that was just started");
        let pid = Pid::from_raw(i32::try_from(id).expect("an id as Linux gives them")).expect("an id above 0");
        let log = read_log(child.stderr.take().expect("a piped standard error"));
        let values = self.values;
        Gateway { child: Mutex::new(child), pid, folder, values, log, addresses: Vec::new(), admin: None }
    }
}

impl Gateway {
    /// The address of its first listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener(0)
    }

    /// The address of a listener, counted from 0 in the order of the configuration.
    #[must_use]
    pub fn listener(&self, index: usize) -> SocketAddr {
        let count = self.addresses.len();
        *self.addresses.get(index).unwrap_or_else(|| panic!("no listener {index}, there are {count}"))
    }

    /// The URL of a path on its first listener, in cleartext.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// The address of its admin endpoint.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin endpoint on TCP")
    }

    /// The URL of a path on its admin endpoint.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin())
    }

    /// Its folder: working directory, configuration, files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Everything it has logged so far.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        self.log.borrow().clone()
    }

    /// Waits until a line matches, and gives the first one that does, past ones included.
    ///
    /// # Panics
    /// If none comes in time or the process ends, with the whole log.
    pub async fn log_line(&self, what: &str, matches: impl Fn(&LogLine) -> bool) -> LogLine {
        let lines = self.wait_for(what, &matches).await;
        lines.into_iter().find(|line| matches(line)).expect("a line that was just seen")
    }

    /// Scrapes `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        let answer = client().get(self.admin_url("/metrics")).send().await;
        assert_eq!(answer.status, 200, "/metrics answered {answer:?}");
        Metrics::parse(answer.text())
    }

    /// Scrapes until `holds`, for figures that follow an answer rather than precede it.
    pub async fn metrics_when(&self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        eventually(what, async || Some(self.metrics().await).filter(|metrics| holds(metrics))).await
    }

    /// Replaces the configuration file, at once as a careful operator does, and leaves it to the gateway to notice.
    pub fn rewrite(&self, yaml: &str) {
        write_config(self.folder.path(), yaml, &self.values);
    }

    /// Replaces the configuration file and sends SIGHUP.
    pub fn reload(&self, yaml: &str) {
        self.rewrite(yaml);
        self.signal(Signal::HUP);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a gateway that runs");
    }

    /// Its resident memory in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    #[must_use]
    pub fn peak_resident_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// A line of `/proc/<pid>/status` that tells of memory.
    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a gateway that runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("memory in a process's status");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("memory in kB");
        kibibytes * 1024
    }

    /// How many threads it has.
    #[must_use]
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a gateway that runs").count()
    }

    /// How many descriptors it holds.
    #[must_use]
    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a gateway that runs").count()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// If it does not end in time, or not with exit code 0.
    pub async fn stop(self) {
        self.signal(Signal::TERM);
        self.ended().await;
    }

    /// Waits for the end that a signal has asked for.
    ///
    /// # Panics
    /// If it does not end in time, or not with exit code 0.
    pub async fn ended(self) {
        let mut child = self.child.into_inner();
        let status = within("the gateway to stop", child.wait()).await.expect("a child to wait for");
        assert!(status.success(), "the gateway ended with {status}; it said:\n{}", text_of(&self.log.borrow()));
    }

    /// Kills it, as the kernel does for want of memory: it gets to do nothing more.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn kill(self) {
        self.signal(Signal::KILL);
        let mut child = self.child.into_inner();
        within("the gateway to be gone", child.wait()).await.expect("a child to wait for");
    }

    async fn wait_for(&self, what: &str, matches: impl Fn(&LogLine) -> bool) -> Vec<LogLine> {
        let mut log = self.log.clone();
        let seen = log.wait_for(|lines| lines.iter().any(&matches));
        match tokio::time::timeout(crate::DEADLINE, seen).await {
            Ok(Ok(lines)) => lines.clone(),
            Ok(Err(_)) => panic!("waited for {what}, but the process ended; it said:\n{}", text_of(&self.log.borrow())),
            Err(_) => panic!("waited in vain for {what}; the gateway said:\n{}", text_of(&self.log.borrow())),
        }
    }
}

/// The user and group `nobody` of Debian and most other distributions.
const NOBODY: u32 = 65_534;

/// The binary as `nobody` runs it, who is handed `folder` with everything in it. A copy of the binary is put there, since
/// the folders above the one that was built may be closed to others.
fn command_of_nobody(binary: &Path, folder: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(binary);
    }
    let copy = folder.join("sluice");
    // By another process: a file that this one has open for writing would be busy in every child that another test starts
    // meanwhile, and could not be run.
    let copied = std::process::Command::new("cp").arg(binary).arg(&copy).status();
    assert!(copied.expect("cp runs").success(), "{} could not be copied", binary.display());
    give_away(folder);
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY).env("TMPDIR", folder);
    command
}

fn give_away(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("a file given to nobody, by root");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder to list") {
            give_away(&entry.expect("an entry of a folder").path());
        }
    }
}

fn config_path(folder: &Path) -> PathBuf {
    folder.join("sluice.yaml")
}

/// Writes the configuration beside its place and moves it there, so that no reader sees half of it.
fn write_config(folder: &Path, yaml: &str, values: &[(String, String)]) {
    let mut text = yaml.to_owned();
    let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
    if !has("listeners:") {
        text.push_str("\nlisteners: [ { address: '127.0.0.1:0' } ]\n");
    }
    if !has("admin:") {
        text.push_str("\nadmin: { address: '127.0.0.1:0' }\n");
    }
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text = text.replace("@dir@", &folder.display().to_string());
    let draft = folder.join("sluice.yaml.draft");
    std::fs::write(&draft, text).expect("a file in a temporary folder");
    std::fs::rename(draft, config_path(folder)).expect("a file moved within its folder");
}

/// Collects lines until the stream ends; then the sender is dropped, and whoever waits learns of the end.
fn read_log(stream: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<Vec<LogLine>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|log| log.push(LogLine::parse(&line)));
        }
    });
    receiver
}

fn text_of(lines: &[LogLine]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.text);
        text
    })
}

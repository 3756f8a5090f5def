//! The real binary.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;
use tokenward::rehearsal::{Caller, Rehearsal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::{PATIENCE, Setup};

/// A command line of tokenward, in an environment of its own.
pub(crate) fn tokenward(home: &Path) -> Command {
    at_home(Command::new(env!("CARGO_BIN_EXE_tokenward")), home)
}

/// The same for a process that may open so many files, and no more.
fn tokenward_with(files: u64, home: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {files} && exec \"$0\" \"$@\""))
        .arg(env!("CARGO_BIN_EXE_tokenward"));
    at_home(command, home)
}

fn at_home(mut command: Command, home: &Path) -> Command {
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_RUNTIME_DIR", home.join("runtime"))
        .current_dir(home)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a verb to its end.
pub(crate) async fn run(command: &mut Command) -> Output {
    // A demo or a `run` has several handshakes with unoptimised code to do.
    timeout(PATIENCE * 3, command.output())
        .await
        .unwrap()
        .unwrap()
}

/// The exit code of an outcome.
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port that is free now.
pub(crate) async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// A `serve` of its own, and the rehearsal behind it.
pub(crate) struct Served {
    pub(crate) rehearsal: Rehearsal,
    pub(crate) folder: TempDir,
    pub(crate) config: PathBuf,
    pub(crate) health: SocketAddr,
    child: Child,
}

impl Served {
    pub(crate) async fn start(setup: Setup, log: &str) -> Self {
        Self::with(setup, log, false, |_| {}).await
    }

    /// With something more in its folder.
    pub(crate) async fn start_with(setup: Setup, log: &str, more: impl Fn(&Path)) -> Self {
        Self::with(setup, log, false, more).await
    }

    /// With pipes where it writes; nobody reads them until the test does.
    pub(crate) async fn piped(setup: Setup, log: &str) -> Self {
        Self::with(setup, log, true, |_| {}).await
    }

    async fn with(mut setup: Setup, log: &str, piped: bool, more: impl Fn(&Path)) -> Self {
        let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
        let folder = TempDir::new().unwrap();
        let health = SocketAddr::from(([127, 0, 0, 1], free_port().await));
        setup.health = health.to_string();
        let config = setup.write(folder.path(), &rehearsal);
        more(folder.path());
        let program = match setup.files {
            Some(files) => tokenward_with(files, folder.path()),
            None => tokenward(folder.path()),
        };
        let child = Self::spawn(program, folder.path(), &config, log, piped);
        let served = Self {
            rehearsal,
            folder,
            config,
            health,
            child,
        };
        served.up().await;
        served
    }

    fn spawn(mut program: Command, folder: &Path, config: &Path, log: &str, piped: bool) -> Child {
        let file = |name: &str| {
            if piped {
                return Stdio::piped();
            }
            let file = File::options()
                .create(true)
                .append(true)
                .open(folder.join(name));
            Stdio::from(file.unwrap())
        };
        program
            .args(["--log", log, "--config"])
            .arg(config)
            .arg("serve")
            .stdout(file("stdout.txt"))
            .stderr(file("stderr.txt"))
            .spawn()
            .unwrap()
    }

    /// Starts it again, with everything that it left.
    pub(crate) async fn again(&mut self) {
        let run = self.folder.path().join("run");
        fs::remove_dir_all(run).unwrap();
        let folder = self.folder.path();
        let program = tokenward(folder);
        self.child = Self::spawn(program, folder, &self.config, "info", false);
        self.up().await;
    }

    /// Waits until it says that it has started; what agents need is there by then.
    async fn up(&self) {
        let started = async {
            while !self.says_that_it_has_started().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let started = timeout(PATIENCE * 3, started).await;
        started.expect("serve does not start");
        let run = self.folder.path().join("run/agents");
        let agents = fs::read_dir(&run).into_iter().flatten().flatten();
        let there = agents.map(|a| a.path().join("env")).any(|env| env.exists());
        assert!(there, "it has started, and no agent has an environment");
    }

    async fn says_that_it_has_started(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.health).await else {
            return false;
        };
        let asked = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        let asked = stream.write_all(asked).await;
        let read = stream.read_to_string(&mut answer).await;
        asked.is_ok()
            && read.is_ok()
            && answer.starts_with("HTTP/1.1")
            && !answer.contains("starting")
    }

    /// The environment of an agent, as `serve` wrote it.
    pub(crate) fn variable(&self, agent: &str, name: &str) -> String {
        let file = self
            .folder
            .path()
            .join("run/agents")
            .join(agent)
            .join("env");
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().filter_map(|l| l.split_once('='));
        let found = lines.into_iter().find(|(n, _)| *n == name).unwrap().1;
        found.trim_matches('"').to_owned()
    }

    pub(crate) fn ca(&self) -> String {
        fs::read_to_string(self.folder.path().join("run/ca.pem")).unwrap()
    }

    pub(crate) fn proxy(&self, agent: &str) -> SocketAddr {
        let url = self.variable(agent, "HTTPS_PROXY");
        let authority = url.strip_prefix("http://").unwrap();
        authority.rsplit('@').next().unwrap().parse().unwrap()
    }

    /// The agent of a house with one agent.
    pub(crate) fn agent(&self) -> Caller {
        let folder = self.folder.path().join("run/agents");
        let only = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
        let name = only.file_name().into_string().unwrap();
        Caller::through(self.proxy(&name), &self.ca()).unwrap()
    }

    /// A verb that reads the same configuration.
    pub(crate) fn verb(&self, words: &[&str]) -> Command {
        let mut command = tokenward(self.folder.path());
        command.arg("--config").arg(&self.config).args(words);
        command
    }

    /// What it writes to, once; closed when they are dropped.
    pub(crate) fn pipes(&mut self) -> (ChildStdout, ChildStderr) {
        let child = &mut self.child;
        (child.stdout.take().unwrap(), child.stderr.take().unwrap())
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse().unwrap()
    }

    /// From now on it may open so many files.
    pub(crate) fn limit_files(&self, files: u64) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let limit = Rlimit {
            current: Some(files),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub(crate) async fn wait(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }

    /// SIGTERM, and the end.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait().await
    }

    pub(crate) fn file(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.path().join(name)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

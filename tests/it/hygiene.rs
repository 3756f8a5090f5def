//! What the process keeps from its neighbours: other processes of the same user, core files, a file of TLS keys.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokenward::rehearsal::{Call, Caller, Options, Rehearsal};
use tokio::process::{Child, Command};

use crate::kit::{KEYS, Setup, Svc, ask, code, err, eventually, out, run, tokenward};

/// Where the test runs as root, the proxy and its neighbours run as this one (`nobody`): to root all is open.
const NOBODY: u32 = 65534;

/// A folder with a configuration whose API key is in the environment, all of it the user's.
struct Home {
    folder: TempDir,
    rehearsal: Rehearsal,
    program: PathBuf,
}

impl Home {
    async fn prepare() -> Self {
        let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
        let folder = TempDir::new().unwrap();
        let mut setup = Setup::of([Svc::keys()]);
        setup.keys_from = "{env: HYGIENE_KEY}";
        setup.write(folder.path(), &rehearsal);
        // The user may not be let into where the program was built.
        let program = folder.path().join("tokenward");
        fs::copy(env!("CARGO_BIN_EXE_tokenward"), &program).unwrap();
        if geteuid().is_root() {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            for entry in fs::read_dir(folder.path()).unwrap() {
                chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Self {
            folder,
            rehearsal,
            program,
        }
    }

    /// A command of the user, in the environment of the proxy.
    fn command(&self, words: &[&str]) -> Command {
        let (program, arguments): (&str, &[&str]) = if geteuid().is_root() {
            (
                "setpriv",
                &["--reuid=65534", "--regid=65534", "--clear-groups"],
            )
        } else {
            ("env", &[])
        };
        let mut command = Command::new(program);
        command.args(arguments).args(words).env_clear();
        let usual = tokenward(self.folder.path());
        for (name, value) in usual.as_std().get_envs() {
            command.env(name, value.unwrap());
        }
        command
            .env("HYGIENE_KEY", self.rehearsal.api_key())
            .env("SSLKEYLOGFILE", self.folder.path().join("tls-keys"))
            .current_dir(self.folder.path())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// `serve` with as large a core file as it may have, and a first request that used the key.
    async fn serve(&self) -> (Child, Caller) {
        let file = |name: &str| fs::File::create(self.folder.path().join(name)).unwrap();
        let script = format!(
            "ulimit -S -c \"$(ulimit -H -c)\"; exec {} serve",
            self.program.display()
        );
        let child = self
            .command(&["sh", "-c", &script])
            .stdout(file("stdout.txt"))
            .stderr(file("stderr.txt"))
            .spawn()
            .unwrap();
        let variables = self.folder.path().join("run/agents/default/env");
        let written =
            || fs::read_to_string(&variables).is_ok_and(|text| text.contains("HTTPS_PROXY"));
        eventually("the environment of the agent", written).await;
        let text = fs::read_to_string(&variables).unwrap();
        let proxy = text.split("HTTPS_PROXY=\"http://").nth(1).unwrap();
        let proxy = proxy.split(['"', '/']).next().unwrap().parse().unwrap();
        let ca = fs::read_to_string(self.folder.path().join("run/ca.pem")).unwrap();
        let agent = Caller::through(proxy, &ca).unwrap();
        let answer = ask(&agent, KEYS, true, Call::get("/v1/items")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        (child, agent)
    }

    /// What of a process another one of the same user can read.
    async fn readable(&self, pid: u32) -> Vec<&'static str> {
        let mut readable = Vec::new();
        for (what, script) in [
            ("environ", format!("cat /proc/{pid}/environ")),
            ("maps", format!("cat /proc/{pid}/maps")),
            ("mem", format!("exec 3</proc/{pid}/mem")),
            (
                "fd",
                format!("ls /proc/{pid}/fd && readlink /proc/{pid}/fd/0"),
            ),
            ("root", format!("ls /proc/{pid}/root/")),
        ] {
            let done = run(&mut self.command(&["sh", "-c", &script])).await;
            if code(&done) == 0 {
                readable.push(what);
            }
        }
        readable
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn pid_of(child: &Child) -> u32 {
    child.id().unwrap()
}

fn has_core(files: &[PathBuf]) -> bool {
    let core = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("core"))
    };
    files.iter().any(|path| core(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_of_the_same_user_read_nothing() {
    let home = Home::prepare().await;
    let mut other = home.command(&["sleep", "60"]).spawn().unwrap();
    eventually("the other process", || {
        fs::read_to_string(format!("/proc/{}/comm", pid_of(&other)))
            .is_ok_and(|name| name == "sleep\n")
    })
    .await;
    let open = home.readable(pid_of(&other)).await;
    // A system may close all processes to each other (Yama, hidepid); an environment is the least that is open.
    assert!(
        open.contains(&"environ"),
        "the other process is closed too: {open:?}"
    );
    other.kill().await.unwrap();

    let (mut child, _agent) = home.serve().await;
    assert_eq!(home.readable(pid_of(&child)).await, Vec::<&str>::new());
    let program = home.program.display().to_string();
    let status = run(&mut home.command(&[&program, "status", "--json"])).await;
    let status: Value =
        serde_json::from_str(&out(&status)).unwrap_or_else(|_| panic!("{}", err(&status)));
    let protections = &status["protections"];
    assert_eq!(protections["not_dumpable"], true);
    assert_eq!(protections["no_core"], true);
    let swaps = fs::read_to_string("/proc/swaps").unwrap();
    assert_eq!(protections["no_swap"], swaps.lines().count() == 1);
    // Some libraries write the keys of TLS connections there; nothing here does.
    assert!(!home.folder.path().join("tls-keys").exists());
    child.kill().await.unwrap();
    home.rehearsal.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_core() {
    let home = Home::prepare().await;
    let script = "ulimit -S -c \"$(ulimit -H -c)\"; kill -SEGV $$";
    let control = run(&mut home.command(&["sh", "-c", script])).await;
    let dumps = control.status.core_dumped();
    for file in home.files() {
        if has_core(std::slice::from_ref(&file)) {
            fs::remove_file(file).unwrap();
        }
    }
    let (mut child, _agent) = home.serve().await;
    let pid = i32::try_from(pid_of(&child)).unwrap();
    // The runtime's handler looks whether a stack has overflowed, and puts the default back; the second one ends it.
    let ended = loop {
        let gone = kill_process(Pid::from_raw(pid).unwrap(), Signal::SEGV).is_err();
        let ended = tokio::time::timeout(std::time::Duration::from_millis(50), child.wait()).await;
        match ended {
            Ok(ended) => break ended.unwrap(),
            Err(_) => assert!(!gone, "it is gone and was not waited for"),
        }
    };
    assert_eq!(ended.signal(), Some(11));
    assert!(!ended.core_dumped() && !has_core(&home.files()));
    if !dumps {
        eprintln!("no process leaves a core here, so this shows little");
    }
    home.rehearsal.stop().await;
}

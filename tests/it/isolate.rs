//! `run --isolate`, by the real binary, as a user without any privilege.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use tempfile::TempDir;
use tokenward::rehearsal::{Options, Rehearsal, Service};
use tokio::process::Command;
use tokio::time::timeout;

use crate::kit::{API, KEYS, PATIENCE, Setup, code, err, eventually, out, run};

/// A user that owns nothing but the folder of its test.
const NOBODY: u32 = 61_234;

/// A folder of an unprivileged user, with a configuration in it, and the APIs outside.
struct Ground {
    folder: TempDir,
    rehearsal: Rehearsal,
}

/// The program where every user can start it: a build folder may be closed to others.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let made = PROGRAM.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("tokenward");
        let built = env!("CARGO_BIN_EXE_tokenward");
        if fs::hard_link(built, &path).is_err() {
            fs::copy(built, &path).unwrap();
        }
        (folder, path)
    });
    &made.1
}

fn give_away(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

impl Ground {
    async fn new() -> Self {
        Self::of(Setup::usual()).await
    }

    async fn of(setup: Setup) -> Self {
        let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
        let folder = TempDir::new().unwrap();
        setup.write(folder.path(), &rehearsal);
        give_away(folder.path());
        Self { folder, rehearsal }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Any program, as that user.
    fn user(&self, program: &Path) -> Command {
        let mut command = if geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={NOBODY}"))
                .arg(format!("--regid={NOBODY}"))
                .args(["--clear-groups", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn isolated(&self, words: &[&str]) -> Command {
        self.by("namespace", words)
    }

    /// By one means of isolation.
    fn by(&self, means: &str, words: &[&str]) -> Command {
        let mut command = self.user(program());
        command
            .args(["run", "--isolate", "--isolation", means, "--"])
            .args(words);
        command
    }

    /// Runs a script of the shell in a cell.
    async fn script(&self, text: &str) -> Output {
        run(&mut self.isolated(&["sh", "-c", text])).await
    }
}

/// Says what was not tried, past the harness, which keeps what a test prints.
fn aloud(what: &str) {
    writeln!(io::stderr(), "NOT TRIED in tests/it/isolate.rs: {what}").unwrap();
}

/// Whether the machine lets that user make namespaces. Where it does not, nothing of a cell can be tried.
async fn possible() -> bool {
    static POSSIBLE: tokio::sync::OnceCell<bool> = tokio::sync::OnceCell::const_new();
    let tried = POSSIBLE.get_or_init(|| async {
        let ground = Ground::new().await;
        let mut command = ground.user(Path::new("/usr/bin/unshare"));
        let done = run(command.args(["-Urnmp", "--fork", "true"])).await;
        if code(&done) != 0 {
            aloud("every cell, for this system forbids user namespaces");
        }
        code(&done) == 0
    });
    *tried.await
}

/// Every line must be there.
#[track_caller]
fn said(output: &Output, lines: &[&str]) {
    let text = out(output);
    for line in lines {
        assert!(
            text.lines().any(|l| l == *line),
            "{line}\n{text}\n{}",
            err(output)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_a_cell_uses_its_services_without_their_credential() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let done = ground
        .script(&format!(
            "curl -sS -o items -w 'items %{{http_code}}\\n' https://{API}/v1/items\n\
             curl -sS -o keys -w 'keys %{{http_code}}\\n' https://{KEYS}/v1/items\n\
             curl -sS -o /dev/null -w 'denied %{{http_code}}\\n' -X DELETE https://{API}/v1/items/1\n\
             curl -sS -o /dev/null https://other.test/ || echo other failed\n\
             echo mine > file && stat -c 'file %u' file && id -u | sed 's/^/user /'"
        ))
        .await;
    assert_eq!(code(&done), 0, "{}", err(&done));
    let uid = if geteuid().is_root() {
        NOBODY
    } else {
        geteuid().as_raw()
    };
    said(
        &done,
        &[
            "items 200",
            "keys 200",
            "denied 403",
            "other failed",
            &format!("file {uid}"),
            &format!("user {uid}"),
        ],
    );
    let seen = ground.rehearsal.seen_by(Service::Api);
    assert!(seen.iter().all(|s| s.proof.is_some()) && !seen.is_empty());
    let audit = fs::read_to_string(ground.path("state/tokenward/audit.jsonl")).unwrap();
    assert_eq!(audit.matches("\"event\":\"request\"").count(), 4);
}

/// Programs that know of no proxy reach their services all the same, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ignore_the_proxy_go_through_it() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let curl = "curl -sS -m 10 --noproxy '*' -o /dev/null";
    let elsewhere = "|| echo failed";
    let done = ground
        .script(&format!(
            "{curl} -w 'items %{{http_code}}\n' https://{API}/v1/items\n\
             {curl} -w 'denied %{{http_code}}\n' -X DELETE https://{API}/v1/items/1\n\
             {curl} -6 -w 'v6 %{{http_code}}\n' https://{API}/v1/items\n\
             {curl} -w 'any address %{{http_code}}\n' --resolve {API}:443:192.0.2.77 https://{API}/v1/items\n\
             {curl} -w 'clear %{{http_code}}\n' http://{API}/v1/items\n\
             {curl} https://other.test/ {elsewhere}\n\
             {curl} -k https://192.0.2.1/ {elsewhere}\n\
             {curl} -k --resolve evil.test:443:192.0.2.1 https://evil.test/ {elsewhere}\n\
             {curl} -k https://{API}:8443/ {elsewhere}\n\
             {curl} --http0.9 telnet://192.0.2.1:22 </dev/null {elsewhere}"
        ))
        .await;
    let text = out(&done);
    assert_eq!(
        text.matches("failed\n").count(),
        5,
        "{text}\n{}",
        err(&done)
    );
    said(
        &done,
        &["items 200", "denied 403", "v6 200", "any address 200"],
    );
    assert!(!text.contains("clear 200"), "{text}");
    let seen = ground.rehearsal.seen_by(Service::Api);
    assert!(seen.iter().all(|s| s.proof.is_some()) && seen.len() >= 3);
}

/// Runtimes with ideas of their own about proxies, names and certificates.
#[tokio::test(flavor = "multi_thread")]
async fn other_runtimes_work_in_a_cell() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let url = format!("https://{API}/v1/items");
    let node = format!("fetch('{url}').then(answer => console.log(answer.status))");
    let python = format!(
        "import urllib.request as u; print(u.build_opener(u.ProxyHandler({{}})).open('{url}').status)"
    );
    let java = format!(
        r#"import java.net.*; import java.net.http.*;
class Agent {{ public static void main(String[] a) throws Exception {{
  var client = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
  var answer = client.send(HttpRequest.newBuilder(URI.create("{url}")).build(), HttpResponse.BodyHandlers.discarding());
  System.out.println(answer.statusCode());
  System.out.println(((HttpURLConnection) new URL("{url}").openConnection()).getResponseCode());
}} }}"#
    );
    fs::write(ground.path("Agent.java"), java).unwrap();
    let mut left_out = Vec::new();
    for (words, expected) in [
        (&["/usr/bin/node", "-e", &node][..], "200\n"),
        (&["/usr/bin/python3", "-c", &python], "200\n"),
        (&["/usr/bin/java", "Agent.java"], "200\n200\n"),
    ] {
        if !Path::new(words[0]).exists() {
            left_out.push(words[0]);
            continue;
        }
        let done = timeout(PATIENCE * 6, ground.isolated(words).output());
        let done = done.await.unwrap().unwrap();
        assert_eq!(out(&done), expected, "{words:?}: {}", err(&done));
    }
    if !left_out.is_empty() {
        aloud(&format!("{left_out:?}: not installed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_around_the_proxy() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let api = ground.rehearsal.api_addr();
    let script = format!(
        r#"
import os, socket
def tell(what, act):
    try:
        act()
        print(what, "worked")
    except OSError as error:
        print(what, "failed")
def tcp(family, address):
    s = socket.socket(family); s.settimeout(3); s.connect(address)
def udp(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(3); s.connect(address); s.send(b"x"); s.send(b"x"); s.recv(1)
tell("the API on the outer loopback", lambda: tcp(socket.AF_INET, ("{ip}", {port})))
tell("tcp", lambda: tcp(socket.AF_INET, ("192.0.2.1", 8443)))
tell("tcp6", lambda: tcp(socket.AF_INET6, ("2001:db8::1", 8443)))
tell("udp", lambda: udp(socket.AF_INET, ("192.0.2.1", 443)))
tell("udp6", lambda: udp(socket.AF_INET6, ("2001:db8::1", 443)))
tell("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tell("raw6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
tell("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
tell("ping", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
tell("a name", lambda: socket.getaddrinfo("secret.evil.test", 443))
print("interfaces", *[name for _, name in socket.if_nameindex()])
status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
print("capabilities", *[status[name].strip("0\n") or "none" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")])
print("no new privileges", status["NoNewPrivs"].strip())
print("processes", *sorted(int(p) for p in os.listdir("/proc") if p.isdigit())[:2])
"#,
        ip = api.ip(),
        port = api.port()
    );
    let done = run(&mut ground.isolated(&["/usr/bin/python3", "-c", &script])).await;
    assert_eq!(code(&done), 0, "{}\n{}", out(&done), err(&done));
    assert!(!out(&done).contains("worked"), "{}", out(&done));
    said(
        &done,
        &[
            "the API on the outer loopback failed",
            "a name failed",
            "interfaces lo",
            "capabilities none none none none none",
            "no new privileges 1",
            "processes 1 2",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_proxy_is_not_there() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    // A proxy of the same user that serves others, with its admin socket.
    let config = ground.path("tokenward.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let sockets = ground.path("sockets");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).unwrap();
    let admin = format!(
        "admin: {{listen: \"unix:{}/admin.sock\"}}\n",
        sockets.display()
    );
    fs::write(&config, format!("{admin}{text}")).unwrap();
    give_away(ground.folder.path());
    let serving = ground
        .user(program())
        .arg("serve")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let env = ground.path("run/agents/default/env");
    eventually("the other proxy", || {
        env.exists() && sockets.join("admin.sock").exists()
    })
    .await;
    let outside = std::os::unix::net::UnixListener::bind(ground.path("bus")).unwrap();
    // The kernel goes on to call it by the name under which it was bound.
    let renamed = std::os::unix::net::UnixListener::bind(ground.path("passing")).unwrap();
    fs::rename(ground.path("passing"), ground.path("master")).unwrap();
    give_away(ground.folder.path());
    let script = "\
        for f in api.key bearer.key svc-pkjwt.pem ca/ca.key ca/instance.key run/agents/default/env state/tokenward/audit.jsonl; do\n\
          cat $f >/dev/null 2>&1 && echo read $f\n\
        done\n\
        cat tokenward.yaml >/dev/null && echo the configuration is no secret\n\
        for s in sockets/admin.sock bus master; do\n\
          python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' $s 2>/dev/null && echo connected $s\n\
        done\n\
        umount api.key 2>/dev/null && echo uncovered\n\
        unshare -Urm umount api.key 2>/dev/null && echo uncovered\n\
        unshare -Urm sh -c 'mount -t tmpfs none ca && umount ca && umount ca && cat ca/ca.key' 2>/dev/null && echo uncovered\n\
        unshare -Urm true 2>/dev/null && echo mounts of its own\n\
        unshare -Urm sh -c 'mkdir x b; mount --bind x b; mv state x/; cat b/state/tokenward/audit.jsonl' 2>/dev/null && echo carried away\n\
        echo 9 > /proc/sys/user/max_mnt_namespaces 2>/dev/null && echo allowed again\n\
        (echo '# more' >> tokenward.yaml; mv tokenward.yaml other.yaml || rm -f tokenward.yaml) 2>/dev/null && echo another configuration\n\
        unshare -Urn ip link set lo down 2>/dev/null; ip link set lo down 2>/dev/null && echo link down\n\
        nft flush ruleset 2>/dev/null && echo flushed\n\
        nsenter -t 1 -U -n -m true 2>/dev/null && echo entered\n\
        cat /proc/1/environ >/dev/null 2>&1 && echo looked into the first process\n\
        rm -f api.key 2>/dev/null; mv api.key other 2>/dev/null && cat other >/dev/null 2>&1 && echo moved\n\
        echo end";
    let done = ground.script(script).await;
    assert_eq!(
        out(&done),
        "the configuration is no secret\nend\n",
        "{}",
        err(&done)
    );
    assert!(ground.path("api.key").exists());
    assert!(!err(&done).contains("WARNING"), "{}", err(&done));
    drop((outside, renamed, serving));
}

/// Without a cell the command may write the file that says what it may do, so that is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_the_command_has_changed_is_told() {
    let ground = Ground::new().await;
    let more = "echo '# more' >> tokenward.yaml; exit 3";
    let mut command = ground.user(program());
    let done = run(command.args(["run", "--", "sh", "-c", more])).await;
    assert_eq!(code(&done), 3);
    let told = "tokenward.yaml is not what it was when the command started";
    assert!(err(&done).contains(told), "{}", err(&done));
}

/// The store is made by the proxy itself, after the cell, and replaced with each write.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_hidden_from_the_first_moment() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let config = ground.path("tokenward.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let store = "store: {file: {path: vault/store, key: {file: store.key}}}\n";
    fs::write(&config, format!("{text}{store}")).unwrap();
    fs::write(ground.path("store.key"), "07".repeat(32)).unwrap();
    give_away(ground.folder.path());
    let script = "ls vault 2>/dev/null && echo listed; cat vault/store store.key ca/ca.key 2>/dev/null && echo read; echo end";
    for _ in 0..3 {
        let done = ground.script(script).await;
        assert_eq!(out(&done), "end\n", "{}", err(&done));
    }
    assert!(ground.path("vault/store").exists());
}

/// A file that is replaced takes its cover along; the next one is covered as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_replaced_is_hidden_again() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let script = "echo begun > begun; until [ -e replaced ]; do sleep 0.05; done; sleep 1; cat api.key || echo hidden";
    let child = ground
        .isolated(&["sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the command", || ground.path("begun").exists()).await;
    fs::write(ground.path("next"), "another secret").unwrap();
    give_away(&ground.path("next"));
    fs::rename(ground.path("next"), ground.path("api.key")).unwrap();
    fs::write(ground.path("replaced"), "").unwrap();
    let ended = timeout(PATIENCE, child.wait_with_output()).await;
    assert_eq!(out(&ended.unwrap().unwrap()), "hidden\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_were_left_open_do_not_reach_the_command() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let mut command = ground.user(Path::new("/bin/sh"));
    command
        .arg("-c")
        .arg("exec 7<api.key 9</; exec \"$0\" run --isolate -- sh -c 'cat <&7 || echo closed; ls /proc/self/fd/9/ || echo closed'")
        .arg(program());
    let done = run(&mut command).await;
    assert_eq!(out(&done), "closed\nclosed\n", "{}", err(&done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_ends_as_its_command_does() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    fs::write(ground.path("no-program"), "").unwrap();
    for (words, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["sh", "-c", "sleep 100 & exit 3"], 3),
        (&["/nowhere/program"], 127),
        (&["no-such-program-at-all"], 127),
        (&["./no-program"], 126),
    ] {
        let ended = run(&mut ground.isolated(words)).await;
        assert_eq!(code(&ended), expected, "{words:?}: {}", err(&ended));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_reads_its_callers_input() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let input = ground.path("input");
    fs::write(&input, "typed\n").unwrap();
    let mut command = ground.isolated(&["cat"]);
    let done = command.stdin(fs::File::open(&input).unwrap()).output();
    let done = timeout(PATIENCE, done).await.unwrap().unwrap();
    assert_eq!(out(&done), "typed\n", "{}", err(&done));
}

/// SIGTERM reaches the command, which ends in order; SIGKILL takes everything along.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_outlives_the_proxy() {
    if !possible().await {
        return;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let ground = Ground::new().await;
        let script = "trap 'echo ended; exit 5' TERM; sleep 1000 & echo $$ > begun; while :; do sleep 0.05; done";
        let child = ground
            .isolated(&["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("the command", || ground.path("begun").exists()).await;
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let ended = timeout(PATIENCE, child.wait_with_output()).await;
        let ended = ended.unwrap().unwrap();
        if signal == Signal::TERM {
            assert_eq!((code(&ended), out(&ended).as_str()), (5, "ended\n"));
        }
        // The pipe has ended, so everybody who held it has.
        assert!(test_kill_process(pid).is_err());
    }
}

/// Where namespaces are forbidden: the port, and the files. What it does not do is said aloud.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_lets_through_what_it_must_and_says_that_it_is_weaker() {
    let ground = Ground::new().await;
    let api = ground.rehearsal.api_addr();
    let script = format!(
        "curl -sS -o /dev/null -w 'items %{{http_code}}\n' https://{API}/v1/items\n\
         curl -sS -m 5 --noproxy '*' -k https://{api}/ 2>/dev/null || echo direct failed\n\
         for f in api.key svc-pkjwt.pem ca/ca.key state/tokenward/audit.jsonl; do cat $f 2>/dev/null && echo read $f; done\n\
         mkdir -p elsewhere; mv ca elsewhere/ 2>/dev/null && cat elsewhere/ca/ca.key && echo moved\n\
         ln api.key elsewhere/linked 2>/dev/null && cat elsewhere/linked && echo linked\n\
         cat tokenward.yaml >/dev/null && echo the configuration is no secret\n\
         grep NoNewPrivs /proc/self/status\n\
         exit 7"
    );
    let done = run(&mut ground.by("landlock", &["sh", "-c", &script])).await;
    let expected = "items 200\ndirect failed\nthe configuration is no secret\nNoNewPrivs:\t1\n";
    assert_eq!(out(&done), expected, "{}", err(&done));
    assert_eq!(code(&done), 7);
    assert!(err(&done).contains("WEAKER"), "{}", err(&done));
    for (words, expected) in [
        (&["sh", "-c", "kill -KILL $$"][..], 137),
        (&["no-such-program-at-all"], 127),
    ] {
        let ended = run(&mut ground.by("landlock", words)).await;
        assert_eq!(code(&ended), expected, "{words:?}: {}", err(&ended));
    }
}

/// In a user namespace that allows no further ones, as systems that forbid them do.
#[tokio::test(flavor = "multi_thread")]
async fn where_namespaces_are_forbidden_the_reason_and_the_remedy_are_told() {
    if !possible().await {
        return;
    }
    let ground = Ground::new().await;
    let forbidding = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\" \"$@\"";
    for (means, begins) in [(&["--isolation", "namespace"][..], false), (&[], true)] {
        let mut command = ground.user(Path::new("/usr/bin/unshare"));
        command
            .args(["-Ur", "sh", "-c", forbidding])
            .arg(program())
            .args(["run", "--isolate"])
            .args(means)
            .args(["--", "touch", "begun"]);
        let done = run(&mut command).await;
        let text = err(&done);
        assert!(text.contains("user.max_user_namespaces"), "{text}");
        assert_eq!(code(&done) == 0, begins, "{text}");
        assert_eq!(text.contains("WEAKER"), begins, "{text}");
        assert_eq!(ground.path("begun").exists(), begins);
    }
}

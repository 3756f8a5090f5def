//! The command line, by the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use http::Method;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokenward::rehearsal::{Call, Options, Rehearsal, Service};
use tokio::time::timeout;

use crate::kit::{
    API, KEYS, PATIENCE, Served, Setup, Svc, ask, code, err, eventually, free_port, out, run,
    tokenward,
};

/// A folder with a configuration in it, and nothing that runs.
async fn prepared(setup: Setup) -> (TempDir, Rehearsal) {
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    setup.write(folder.path(), &rehearsal);
    (folder, rehearsal)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test]
async fn help_lists_what_works() {
    let folder = TempDir::new().unwrap();
    let help = run(tokenward(folder.path()).arg("--help")).await;
    assert_eq!(code(&help), 0);
    for verb in [
        "serve",
        "run",
        "demo",
        "env",
        "check",
        "explain",
        "ca",
        "audit",
        "healthcheck",
        "schema",
    ] {
        assert!(
            out(&help).contains(&format!("\n  {verb} ")),
            "{verb}\n{}",
            out(&help)
        );
    }
    assert!(err(&help).is_empty());
    let version = run(tokenward(folder.path()).arg("--version")).await;
    assert_eq!(
        out(&version),
        format!("tokenward {}\n", env!("CARGO_PKG_VERSION"))
    );
    for words in [
        &["nonsense"][..],
        &[],
        &["serve", "--nonsense"],
        &["explain", "GET"],
        &["run"],
        &["run", "--nonsense", "--", "true"],
        &["run", "--isolation", "landlock", "--", "true"],
        &["revoke"],
        &["revoke", "--compromise"],
        &["revoke", "--dry-run", "--compromise"],
        &["revoke", "--all", "--agent", "coder"],
    ] {
        let wrong = run(tokenward(folder.path()).args(words)).await;
        assert_eq!(code(&wrong), 2, "{words:?}");
        assert!(
            out(&wrong).is_empty() && !err(&wrong).is_empty(),
            "{words:?}"
        );
    }
}

#[tokio::test]
async fn without_a_configuration_the_remedy_is_named() {
    let folder = TempDir::new().unwrap();
    for verb in ["serve", "check", "env", "healthcheck"] {
        let missing = run(tokenward(folder.path()).arg(verb)).await;
        assert_eq!(code(&missing), 1, "{verb}");
        assert!(err(&missing).contains("--config"), "{}", err(&missing));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_who_can_reach_what() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    let check = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&check), 0, "{}", err(&check));
    for line in [
        "agent default (auth: none",
        "items (dpop) at api.rehearsal.test:443",
        "keys (static)",
        "plain (bearer)",
        "allow POST /v1/items  [items:write]",
        "deny * /v1/items/*/secrets",
    ] {
        assert!(out(&check).contains(line), "{line}\n{}", out(&check));
    }
    let document = json(&out(&run(
        tokenward(folder.path()).args(["check", "--json"])
    )
    .await));
    assert_eq!(document["ok"], true);
    assert_eq!(document["agents"][0]["agent"], "default");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_every_mistake_at_once() {
    let mut items = Svc::items().line("prot: 443").line("replay_buffer: lots");
    items.rules.push("{allow: \"GET items\"}".into());
    let (folder, rehearsal) = prepared(Setup::of([items])).await;
    fs::remove_file(folder.path().join("svc-pkjwt.pem")).unwrap();
    for verb in ["check", "serve"] {
        let check = run(tokenward(folder.path()).arg(verb)).await;
        assert_eq!(code(&check), 1);
        let text = err(&check);
        for key in [
            "services.items.prot",
            "services.items.replay_buffer",
            "services.items.rules[6]",
            "private_key_jwt.key",
        ] {
            assert!(text.contains(key), "{key}\n{text}");
        }
        assert!(text.contains("tokenward.yaml:"), "{text}");
    }
    let document = json(&out(&run(
        tokenward(folder.path()).args(["check", "--json"])
    )
    .await));
    assert_eq!(document["ok"], false);
    assert_eq!(
        document["problems"].as_array().unwrap().len(),
        4,
        "{document}"
    );

    // A secret in the file itself is refused, and not repeated.
    let secret = rehearsal.api_key();
    let file = folder.path().join("tokenward.yaml");
    fs::write(
        &file,
        format!("services:\n  a:\n    hosts: [a.test]\n    credential: {{bearer: {secret}}}\n"),
    )
    .unwrap();
    let check = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&check), 1);
    assert!(
        !err(&check).contains(secret) && err(&check).contains("services.a.credential.bearer"),
        "{}",
        err(&check)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_rule_or_the_missing_line() {
    let (folder, rehearsal) = prepared(Setup::usual()).await;
    // No network, and no secrets either.
    for name in ["svc-pkjwt.pem", "api.key", "bearer.key"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    rehearsal.stop().await;
    let explain = |words: &'static [&'static str]| {
        let mut command = tokenward(folder.path());
        command.arg("explain").args(words);
        async move { run(&mut command).await }
    };
    let allowed = explain(&["GET", "https://api.rehearsal.test/v1/items/7"]).await;
    assert_eq!(code(&allowed), 0, "{}", err(&allowed));
    for line in [
        "allowed",
        "items",
        "allow GET|HEAD /v1/items/**",
        "items:read",
        "dpop",
    ] {
        assert!(out(&allowed).contains(line), "{line}\n{}", out(&allowed));
    }
    let denied = explain(&["DELETE", "https://api.rehearsal.test/v1/items/7", "--json"]).await;
    assert_eq!(code(&denied), 1);
    let document = json(&out(&denied));
    assert_eq!(
        (&document["allowed"], &document["verdict"]),
        (&false.into(), &"policy-denied".into())
    );
    assert!(
        document["remedy"]
            .as_str()
            .unwrap()
            .contains("DELETE /v1/items/"),
        "{document}"
    );
    let foreign = explain(&["GET", "https://other.test/"]).await;
    assert!(code(&foreign) == 1 && out(&foreign).contains("destination-denied"));
    let plain = explain(&["GET", "http://api.rehearsal.test/v1/items"]).await;
    assert!(
        code(&plain) == 1 && out(&plain).contains("tls-required"),
        "{}",
        out(&plain)
    );
    assert_eq!(code(&explain(&["GET", "not a url"]).await), 1);
    assert_eq!(
        code(&explain(&["GET", "https://api.rehearsal.test/", "--agent", "nobody"]).await),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_made_once_and_shows_its_certificate_alone() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    let init = run(tokenward(folder.path()).args(["ca", "init"])).await;
    assert_eq!(code(&init), 0, "{}", err(&init));
    assert!(out(&init).starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(!out(&init).contains("PRIVATE") && !err(&init).contains("PRIVATE"));
    for name in ["ca/ca.key", "ca/instance.key"] {
        let mode = fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let show = run(tokenward(folder.path()).args(["ca", "show"])).await;
    assert_eq!((code(&show), out(&show)), (0, out(&init)));
    let bundle = run(tokenward(folder.path()).args(["ca", "bundle"])).await;
    assert!(code(&bundle) == 0 && out(&bundle).ends_with(&out(&init)));
    // A second one would end every agent's trust in the first.
    let key = fs::read(folder.path().join("ca/ca.key")).unwrap();
    let second = run(tokenward(folder.path()).args(["ca", "init"])).await;
    assert_eq!(code(&second), 1);
    assert_eq!(fs::read(folder.path().join("ca/ca.key")).unwrap(), key);
    let elsewhere = run(tokenward(folder.path()).args(["ca", "init", "--dir", "other"])).await;
    assert_eq!(code(&elsewhere), 0, "{}", err(&elsewhere));
    assert!(folder.path().join("other/ca.key").exists());
}

/// A file with one service, on hosts that change.
fn with_hosts(folder: &TempDir, hosts: &str) {
    let text = format!(
        "ca: {{dir: ca}}\nruntime_dir: run\nlisten: {{proxy: 127.0.0.1:0}}\n\
         services:\n  items:\n    hosts: [{hosts}]\n    credential: none\n    rules: [{{allow: GET /**}}]\n"
    );
    fs::write(folder.path().join("tokenward.yaml"), text).unwrap();
}

#[tokio::test]
async fn a_ca_signs_for_the_hosts_of_the_file_and_no_others() {
    let folder = TempDir::new().unwrap();
    let verb = |words: &[&str]| {
        let mut command = tokenward(folder.path());
        command.args(words);
        async move { run(&mut command).await }
    };
    with_hosts(&folder, "api.items.example, \"*.wild.example\", 192.0.2.7");
    let init = verb(&["ca", "init"]).await;
    assert_eq!(code(&init), 0, "{}", err(&init));
    let told = "permitted 192.0.2.7/32, api.items.example, wild.example; excluded ::/0";
    assert!(err(&init).contains(told), "{}", err(&init));
    let shown = json(&out(&verb(&["ca", "show", "--json"]).await));
    assert_eq!(
        shown["name_constraints"]["permitted"][1],
        "api.items.example"
    );
    assert!(err(&verb(&["ca", "show"]).await).contains(told));
    assert_eq!(code(&verb(&["check"]).await), 0);

    // One host more: nothing is replaced silently, and the message says what to do and where.
    with_hosts(&folder, "api.items.example, \"**.more.example\"");
    let before = fs::read(folder.path().join("ca/ca.pem")).unwrap();
    for words in [&["check"][..], &["serve"]] {
        let refused = verb(words).await;
        assert_eq!(code(&refused), 1, "{words:?}");
        let said = err(&refused);
        assert!(
            said.contains("tokenward.yaml:6: services.items.hosts[1]: "),
            "{said}"
        );
        assert!(
            said.contains("**.more.example") && said.contains("ca init --force"),
            "{said}"
        );
        assert!(!said.contains("api.items.example"), "{said}");
    }
    let refused = verb(&["ca", "init"]).await;
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains("--force"), "{}", err(&refused));
    assert_eq!(fs::read(folder.path().join("ca/ca.pem")).unwrap(), before);

    let instance = fs::read(folder.path().join("ca/instance.key")).unwrap();
    let forced = verb(&["ca", "init", "--force", "--permit", "later.example"]).await;
    assert_eq!(code(&forced), 0, "{}", err(&forced));
    assert!(err(&forced).contains("api.items.example, later.example, more.example"));
    assert_ne!(fs::read(folder.path().join("ca/ca.pem")).unwrap(), before);
    // Placeholders stay what they are.
    assert_eq!(
        fs::read(folder.path().join("ca/instance.key")).unwrap(),
        instance
    );
    assert_eq!(code(&verb(&["check"]).await), 0);

    let free = verb(&["ca", "init", "--force", "--unconstrained"]).await;
    assert!(err(&free).contains("constraints: none"), "{}", err(&free));
    with_hosts(&folder, "anything.example");
    assert_eq!(code(&verb(&["check"]).await), 0);
}

#[tokio::test]
async fn a_given_ca_is_held_against_its_constraints() {
    let folder = TempDir::new().unwrap();
    with_hosts(&folder, "api.items.example");
    assert_eq!(
        code(&run(tokenward(folder.path()).args(["ca", "init"])).await),
        0
    );
    let file = |host: &str| {
        let text = format!(
            "ca: {{cert: {{file: ca/ca.pem}}, key: {{file: ca/ca.key}}}}\nservices:\n  items:\n    \
             hosts: [{host}]\n    credential: none\n    rules: [{{allow: GET /**}}]\n"
        );
        fs::write(folder.path().join("tokenward.yaml"), text).unwrap();
    };
    file("v2.api.items.example");
    let good = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&good), 0, "{}", err(&good));
    file("other.example");
    let bad = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&bad), 1);
    assert!(
        err(&bad).contains(":4: services.items.hosts[0]: "),
        "{}",
        err(&bad)
    );
    assert!(!err(&bad).contains("--force"), "{}", err(&bad));
    let shown = run(tokenward(folder.path()).args(["ca", "show"])).await;
    assert!(out(&shown).contains("BEGIN CERTIFICATE"), "{}", err(&shown));
}

#[tokio::test]
async fn the_schema_is_one_of_json() {
    let folder = TempDir::new().unwrap();
    let schema = run(tokenward(folder.path()).arg("schema")).await;
    assert_eq!(code(&schema), 0);
    let document = json(&out(&schema));
    assert_eq!(document["title"], "tokenward configuration");
    assert!(document["properties"]["services"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn env_prints_what_serve_wrote() {
    let mut setup = Setup::of([Svc::items(), Svc::keys()]);
    setup.agents = vec![("coder", "items"), ("writer", "items, keys")];
    let mut served = Served::start(setup, "info").await;
    let which = run(&mut served.verb(&["env"])).await;
    assert!(
        code(&which) == 1 && err(&which).contains("--agent"),
        "{}",
        err(&which)
    );
    let env = run(&mut served.verb(&["env", "--agent", "coder", "--json"])).await;
    assert_eq!(code(&env), 0, "{}", err(&env));
    let document = json(&out(&env));
    let placeholder = document["ITEMS_TOKEN"].as_str().unwrap().to_owned();
    let proxy = document["HTTPS_PROXY"].as_str().unwrap().to_owned();
    assert!(proxy.starts_with("http://coder:") && document.get("KEYS_TOKEN").is_none());
    assert_eq!(document["NO_PROXY"], "");
    let bundle = document["SSL_CERT_FILE"].as_str().unwrap();
    assert!(
        fs::read_to_string(bundle)
            .unwrap()
            .contains(served.ca().trim())
    );
    let wget = document["WGETRC"].as_str().unwrap();
    assert!(fs::read_to_string(wget).unwrap().contains(bundle));
    let java = document["JAVA_TOOL_OPTIONS"].as_str().unwrap();
    let store = served.folder.path().join("run/trust.p12");
    assert!(store.exists() && java.contains(&format!("trustStore={} ", store.display())));
    // Whoever may list processes may read their options.
    let token = proxy.split(['@', ':']).nth(2).unwrap();
    assert!(token.len() > 8 && !java.contains(token));
    for (format, line) in [
        ("sh", format!("export JAVA_TOOL_OPTIONS='{java}'")),
        ("fish", format!("set -gx JAVA_TOOL_OPTIONS '{java}'")),
        ("docker", format!("--env JAVA_TOOL_OPTIONS='{java}'")),
        ("sh", format!("export ITEMS_TOKEN='{placeholder}'")),
        ("fish", format!("set -gx ITEMS_TOKEN '{placeholder}'")),
        ("powershell", format!("$Env:ITEMS_TOKEN = '{placeholder}'")),
        ("dotenv", format!("ITEMS_TOKEN=\"{placeholder}\"")),
        ("docker", format!("--env ITEMS_TOKEN='{placeholder}'")),
        (
            "k8s",
            format!("- name: ITEMS_TOKEN\n  value: \"{placeholder}\""),
        ),
    ] {
        let env = run(&mut served.verb(&["env", "--agent", "coder", "--format", format])).await;
        assert!(out(&env).contains(&line), "{format}\n{}", out(&env));
    }
    // The environment is its agent's alone.
    let file = served.folder.path().join("run/agents/coder/env");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let dir = fs::metadata(file.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(dir & 0o777, 0o700);
    assert!(served.terminate().await.success());
}

/// Agents look from folders of their own, so a relative `runtime_dir` of a configuration that lies here must not stay so.
#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_whole_paths() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    let config = folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let whole = format!("runtime_dir: {}/run\n", folder.path().display());
    assert!(text.contains(&whole), "{text}");
    fs::write(&config, text.replace(&whole, "runtime_dir: run\n")).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let _serving = tokenward(folder.path())
        .arg("serve")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let file = folder.path().join("run/agents/default/env");
    eventually("the environment", || file.exists()).await;
    let env = run(tokenward(folder.path()).args(["env", "--json"])).await;
    let document = json(&out(&env));
    for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "WGETRC"] {
        let path = document[name].as_str().unwrap();
        assert!(path.starts_with('/'), "{name}={path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn env_without_serve_says_so() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    let env = run(tokenward(folder.path()).arg("env")).await;
    assert!(
        code(&env) == 1 && err(&env).contains("tokenward serve"),
        "{}",
        err(&env)
    );
}

/// A configuration whose key comes from the environment.
fn from_environment() -> Setup {
    let mut setup = Setup::of([Svc::items(), Svc::keys()]);
    setup.keys_from = "{env: KEYS_SECRET}";
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn run_gives_placeholders_and_takes_secrets_away() {
    let (folder, rehearsal) = prepared(from_environment()).await;
    let run_env = run(tokenward(folder.path())
        .args(["run", "--", "sh", "-c", "env"])
        .env("KEYS_SECRET", rehearsal.api_key())
        .env("MARKER", "kept")
        .env("HTTPS_PROXY", "http://elsewhere:1")
        .env("NO_PROXY", "*")
        .env("SSL_CERT_DIR", "/elsewhere")
        .env("NODE_EXTRA_CA_CERTS", "/elsewhere"))
    .await;
    assert_eq!(code(&run_env), 0, "{}", err(&run_env));
    let text = out(&run_env);
    let value = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(&format!("{name}=")))
    };
    assert_eq!(value("MARKER"), Some("kept"));
    assert_eq!(value("KEYS_SECRET"), None);
    assert!(
        !text.contains(rehearsal.api_key()) && !text.contains("elsewhere"),
        "{text}"
    );
    assert!(
        value("HTTPS_PROXY")
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert_eq!((value("NO_PROXY"), value("no_proxy")), (Some(""), Some("")));
    assert!(value("ITEMS_TOKEN").is_some() && value("KEYS_TOKEN").is_some());
    // Its proxy was its own, and left only the audit file.
    let bundle = value("SSL_CERT_FILE").unwrap();
    assert!(!std::path::Path::new(bundle).exists());
    let audit = folder.path().join("state/tokenward/audit.jsonl");
    let verify = run(tokenward(folder.path())
        .args(["audit", "verify"])
        .arg(&audit))
    .await;
    assert_eq!(code(&verify), 0, "{}", err(&verify));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_ends_as_its_command_does() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    fs::write(folder.path().join("no-program"), "").unwrap();
    for (words, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["/nowhere/program"], 127),
        (&["no-such-program-at-all"], 127),
        (&["./no-program"], 126),
    ] {
        let ended = run(tokenward(folder.path()).args(["run", "--"]).args(words)).await;
        assert_eq!(code(&ended), expected, "{words:?}: {}", err(&ended));
    }
    // What follows the command is its own, also where nothing stands before it.
    for words in [["sh", "-c", "exit 7"], ["sh", "-ec", "exit 7"]] {
        let ended = run(tokenward(folder.path()).arg("run").args(words)).await;
        assert_eq!(code(&ended), 7, "{words:?}: {}", err(&ended));
    }
    let failed =
        run(tokenward(folder.path()).args(["run", "--agent", "nobody", "--", "true"])).await;
    assert_eq!(code(&failed), 125, "{}", err(&failed));
    let missing = TempDir::new().unwrap();
    assert_eq!(
        code(&run(tokenward(missing.path()).args(["run", "--", "true"])).await),
        125
    );
}

/// SIGTERM came to us alone; the command ends in order, and so do we.
#[tokio::test(flavor = "multi_thread")]
async fn run_passes_on_that_it_must_end() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    let script = "trap 'echo ended; exit 5' TERM; echo begun > begun; for i in $(seq 400); do sleep 0.05; done";
    let child = tokenward(folder.path())
        .args(["run", "--", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the command", || folder.path().join("begun").exists()).await;
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM)
        .unwrap();
    let ended = timeout(PATIENCE, child.wait_with_output()).await;
    let ended = ended.unwrap().unwrap();
    assert_eq!((code(&ended), out(&ended).as_str()), (5, "ended\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_carries_requests_until_it_is_told_to_end() {
    let mut served = Served::start(Setup::usual(), "info").await;
    assert_eq!(code(&run(&mut served.verb(&["healthcheck"])).await), 0);
    for h2 in [false, true] {
        assert_eq!(
            ask(&served.agent(), API, h2, Call::get("/v1/items"))
                .await
                .status,
            200
        );
        assert_eq!(
            ask(&served.agent(), KEYS, h2, Call::get("/v1/items"))
                .await
                .status,
            200
        );
        assert_eq!(
            ask(
                &served.agent(),
                API,
                h2,
                Call::new(Method::DELETE, "/v1/items/1")
            )
            .await
            .status,
            403
        );
    }
    assert!(served.terminate().await.success());
    let down = run(&mut served.verb(&["healthcheck"])).await;
    assert!(
        code(&down) == 1 && err(&down).contains("not ready"),
        "{}",
        err(&down)
    );
    // Logs are JSON where nobody sits before them.
    for line in served.file("stderr.txt").lines() {
        assert!(json(line)["message"].is_string(), "{line}");
    }
    assert!(served.file("stdout.txt").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_agents_hold() {
    let mut served = Served::start(Setup::usual(), "info").await;
    let before = (served.ca(), served.variable("default", "ITEMS_TOKEN"));
    assert_eq!(
        ask(&served.agent(), API, true, Call::get("/v1/items"))
            .await
            .status,
        200
    );
    served.signal(Signal::INT);
    assert!(served.wait().await.success());
    served.again().await;
    assert_eq!(
        (served.ca(), served.variable("default", "ITEMS_TOKEN")),
        before
    );
    assert_eq!(
        ask(&served.agent(), API, true, Call::get("/v1/items"))
            .await
            .status,
        200
    );
    // A crash leaves a file that can be continued. Lines are written behind the answer, so the last one is waited for.
    let requests = || {
        served
            .file("audit.jsonl")
            .matches("\"event\":\"request\"")
            .count()
    };
    eventually("the second request's line", || requests() == 2).await;
    served.signal(Signal::KILL);
    served.wait().await;
    served.again().await;
    assert_eq!(
        ask(&served.agent(), API, true, Call::get("/v1/items"))
            .await
            .status,
        200
    );
    assert!(served.terminate().await.success());

    let verify = run(&mut served.verb(&["audit", "verify", "audit.jsonl"])).await;
    assert_eq!(code(&verify), 0, "{}", err(&verify));
    let text = served.file("audit.jsonl");
    let count = |event: &str| text.matches(&format!("\"event\":\"{event}\"")).count();
    assert_eq!(
        (
            count("process.started"),
            count("process.stopped"),
            count("request")
        ),
        (3, 2, 3)
    );

    // Edited, shortened in the middle, and cut in a line.
    let lines: Vec<&str> = text.lines().collect();
    let mut missing = lines.clone();
    missing.remove(2);
    let edited = text.replacen("\"status\":200", "\"status\":403", 1);
    for tampered in [
        edited,
        missing.join("\n") + "\n",
        text[..text.len() - 20].to_owned(),
    ] {
        fs::write(served.folder.path().join("tampered.jsonl"), tampered).unwrap();
        let verify = run(&mut served.verb(&["audit", "verify", "tampered.jsonl"])).await;
        assert!(
            code(&verify) == 1 && err(&verify).contains("line "),
            "{}",
            err(&verify)
        );
    }
    let none = run(&mut served.verb(&["audit", "verify", "nowhere.jsonl"])).await;
    assert_eq!(code(&none), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_says_why_it_cannot_start() {
    let port = free_port().await;
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .unwrap();
    let mut setup = Setup::usual();
    setup.listen = format!("127.0.0.1:{port}");
    let (folder, _rehearsal) = prepared(setup).await;
    let failed = run(tokenward(folder.path()).arg("serve")).await;
    assert_eq!(code(&failed), 1);
    assert!(
        err(&failed).contains("listen.proxy") && err(&failed).contains(&port.to_string()),
        "{}",
        err(&failed)
    );
    drop(taken);
    // An audit file that is something else is not appended to.
    fs::write(folder.path().join("audit.jsonl"), "precious\n").unwrap();
    let failed = run(tokenward(folder.path()).arg("serve")).await;
    assert!(
        code(&failed) == 1 && err(&failed).contains("audit"),
        "{}",
        err(&failed)
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("audit.jsonl")).unwrap(),
        "precious\n"
    );
}

/// Where nobody has logged in, and the issuer offers no login, the command of `run` does not begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_needs_a_person_is_not_served_without_one() {
    let (folder, _rehearsal) = prepared(Setup::usual()).await;
    let file = folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let by_login = text.replace("grant: client_credentials", "grant: authorization_code");
    assert_ne!(text, by_login);
    fs::write(&file, by_login).unwrap();
    let mut command = tokenward(folder.path());
    let failed = run(command.args(["run", "--", "touch", "begun"])).await;
    assert_eq!(code(&failed), 125, "{}", err(&failed));
    let why = "the issuer offers no authorization endpoint";
    assert!(err(&failed).contains(why), "{}", err(&failed));
    assert!(!folder.path().join("begun").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_does_not_keep_serve_from_starting() {
    let mut served = Served::start(Setup::usual(), "info").await;
    served.rehearsal.take_down(Service::Issuer).await;
    assert_eq!(
        ask(&served.agent(), API, true, Call::get("/v1/items"))
            .await
            .status,
        503
    );
    assert_eq!(code(&run(&mut served.verb(&["healthcheck"])).await), 0);
    assert!(served.terminate().await.success());
}

#[tokio::test]
async fn the_demo_shows_the_job() {
    let folder = TempDir::new().unwrap();
    let demo = run(tokenward(folder.path()).arg("demo")).await;
    assert_eq!(code(&demo), 0, "{}\n{}", out(&demo), err(&demo));
    assert!(!out(&demo).contains("FAILED"));
    let demo = run(tokenward(folder.path()).args(["demo", "--json"])).await;
    assert_eq!(code(&demo), 0);
    let observed: Vec<_> = out(&demo).lines().map(json).collect();
    assert!(observed.len() >= 10 && observed.iter().all(|o| o["observed"] == true));
}

#[tokio::test]
async fn the_demo_can_fail() {
    let folder = TempDir::new().unwrap();
    for sabotage in ["api-dpop", "strip", "deny"] {
        let demo = run(tokenward(folder.path()).args(["demo", "--sabotage", sabotage])).await;
        assert_eq!(code(&demo), 1, "{sabotage}: {}", out(&demo));
        assert!(
            out(&demo).contains("[FAILED]"),
            "{sabotage}: {}",
            out(&demo)
        );
    }
}

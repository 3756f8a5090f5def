//! References to secrets: what they find, what they say when they find nothing, and that values stay unseen.

use std::time::Duration;

use super::*;
use crate::config::prompts::Prompts;
use crate::config::raw::SecretRef;
use crate::config::secrets::References;
use crate::config::{Answers, Question};
use crate::tokens::CredentialSettings;
use crate::vocab::Secret;

fn bearer(reference: &str) -> String {
    format!(
        "services: {{a: {{hosts: [a.example], rules: [{{allow: GET /}}], credential: {{bearer: {reference}}}}}}}\n"
    )
}

fn value(place: &Place, reference: &str) -> Option<String> {
    let plan = place.load(bearer(reference)).ok()?;
    match &plan.tokens.services[0].1 {
        CredentialSettings::Bearer(secret) => Some(secret.expose().clone()),
        _ => None,
    }
}

#[test]
fn every_kind_of_reference_finds_its_secret() {
    let place = Place::new();
    place.write("one", "s3cret-one\n");
    place.write("two", "s3cret-two\r\n");
    assert_eq!(value(&place, "{file: one}").as_deref(), Some("s3cret-one"));
    assert_eq!(value(&place, "{file: two}").as_deref(), Some("s3cret-two"));
    let absolute = format!("{{file: {}}}", place.path().join("one").display());
    assert_eq!(value(&place, &absolute).as_deref(), Some("s3cret-one"));
    assert_eq!(value(&place, "{env: LLM_KEY}").as_deref(), Some(CANARY));
    assert_eq!(
        value(&place, "{exec: [printf, s3cret]}").as_deref(),
        Some("s3cret")
    );
    assert_eq!(
        value(&place, "{exec: [echo, s3cret]}").as_deref(),
        Some("s3cret")
    );
}

#[test]
fn a_command_gets_a_cleared_environment() {
    let place = Place::new();
    let count = "{exec: [sh, -c, 'env | grep -v -E \"^(PWD|SHLVL|_)=\" | wc -l | tr -d \" \"']}";
    assert_eq!(value(&place, count).as_deref(), Some("0"));
}

#[test]
fn what_cannot_be_found_is_named_and_nothing_more() {
    for (reference, word) in [
        (
            "{env: NOT_SET}",
            "environment variable NOT_SET is not set or empty; set it",
        ),
        ("{env: EMPTY}", "environment variable EMPTY"),
        ("{env: canary_8841_Zq}", "variable named here is not set"),
        ("{file: absent}", "absent does not exist; check the path"),
        ("{file: empty}", "empty is empty"),
        ("{file: .}", "is a directory"),
        ("{exec: []}", "the command is empty"),
        ("{exec: ['']}", "cannot be started"),
        ("{exec: [/no/such/canary-8841-Zq]}", "cannot be started"),
        (
            "{exec: [sh, -c, 'echo canary-8841-Zq; exit 3']}",
            "the command failed",
        ),
        ("{exec: ['true']}", "printed nothing"),
        (
            "{exec: [sh, -c, 'head -c 70000 /dev/zero']}",
            "more than 64 KiB",
        ),
        ("{env: TWO_LINES}", "one line of printable ASCII"),
    ] {
        let found = problems(bearer(reference));
        assert_eq!(found.iter().count(), 1, "{reference}: {found}");
        let problem = found.iter().next().unwrap();
        assert_eq!(problem.key, "services.a.credential.bearer", "{found}");
        assert!(problem.to_string().contains(word), "{reference}: {problem}");
    }
}

#[test]
fn a_literal_is_refused_and_not_repeated() {
    for literal in [
        "canary-8841-Zq",
        "\"canary-8841-Zq\"",
        "8841",
        "[canary-8841-Zq]",
        "{canary-8841-Zq}",
        "{canary8841: x}",
        "{value: canary-8841-Zq}",
        "{env: A, file: canary-8841-Zq}",
        "{env: {canary8841: x}}",
        "{exec: canary-8841-Zq}",
        "{file: [canary-8841-Zq]}",
        "|\n canary-8841-Zq\n",
    ] {
        for (around, key, line) in PLACES {
            let literal = literal.replace('\n', "\n        ");
            let found = problems(around.replace("<SECRET>", &literal));
            let problem = found.iter().find(|p| p.key.starts_with(key)).unwrap();
            assert_eq!(problem.line, *line, "{literal}: {found}");
            assert!(problem.remedy.contains("{env: NAME}"), "{literal}: {found}");
        }
    }
}

/// Every place of a secret: (file, key, line).
const PLACES: &[(&str, &str, usize)] = &[
    (
        "services:\n a:\n  hosts: [a.example]\n  credential:\n   bearer: <SECRET>\n",
        "services.a.credential.bearer",
        5,
    ),
    (
        "services:\n a:\n  hosts: [a.example]\n  credential:\n   header:\n    name: x-key\n    value: <SECRET>\n",
        "services.a.credential.header.value",
        7,
    ),
    (
        "services:\n a:\n  hosts: [a.example]\n  credential:\n   oauth:\n    client_auth:\n     secret_post: <SECRET>\n",
        "services.a.credential.oauth.client_auth.secret_post",
        7,
    ),
    (
        "services:\n a:\n  hosts: [a.example]\n  credential:\n   oauth:\n    client_auth:\n     private_key_jwt:\n      key: <SECRET>\n",
        "services.a.credential.oauth.client_auth.private_key_jwt.key",
        8,
    ),
    (
        "store:\n file:\n  path: s\n  key: <SECRET>\n",
        "store.file.key",
        4,
    ),
    (
        "agents:\n a:\n  auth:\n   token: <SECRET>\n",
        "agents.a.auth.token",
        4,
    ),
    (
        "ca:\n cert: {file: leaf.pem}\n key: <SECRET>\n",
        "ca.key",
        3,
    ),
];

#[test]
fn secrets_in_wrong_places_are_not_repeated() {
    for yaml in [
        "services: {a: {hosts: [canary-8841-Zq/x], credential: canary-8841-Zq}}",
        "services: {a: {hosts: [a.example], credential: {canary-8841-Zq: x}}}",
        "services: {a: {hosts: [a.example], credential: {header: canary-8841-Zq}}}",
        "services: {a: {hosts: [a.example], credential: {oauth: {issuer: canary-8841-Zq, client_id: c, client_auth: {secret_basic: canary-8841-Zq}, grant: canary-8841-Zq, binding: canary-8841-Zq, max_token_age: canary-8841-Zq}}}}",
        "services: {a: {hosts: [a.example], upstream: {connect: 'canary-8841-Zq '}, port: canary-8841-Zq}}",
        "services: {a: {hosts: [a.example], rules: [{allow: canary-8841-Zq, scopes: ['canary-8841-Zq x']}]}}",
        "services: {a: {hosts: [a.example], htu: canary-8841-Zq, replay_buffer: canary-8841-Zq}}",
        "agents: {a: {auth: {token: canary-8841-Zq}}, b: {auth: canary-8841-Zq}}",
        "agents: {a: {auth: {token: {file: not-pem}}, services: ['canary-8841-Zq x']}}\nservices: {}",
        "listen: {proxy: canary-8841-Zq}\nhealth: canary-8841-Zq\ntunnel: [canary-8841-Zq]",
        "store: canary-8841-Zq\naudit: canary-8841-Zq\nlimits: canary-8841-Zq\n",
        "ca: {cert: {file: not-pem}, key: {file: not-pem}}\nservices: {}",
        "services: {a: {hosts: [a.example], credential: {bearer: \"canary-8841-Zq}}}",
        "services:\n\tcanary-8841-Zq: x\n",
        "services: {a: *canary-8841-Zq}",
        "services: {a: !canary-8841-Zq x}",
        "%canary-8841-Zq\n---\na: b\n",
        "a: canary-8841-Zq: b\n",
        "key: \"\\canary-8841-Zq\"\n",
        "canary-8841-Zq",
        "- canary-8841-Zq\n",
        "{[canary-8841-Zq]: x}",
    ] {
        let found = problems(yaml);
        assert!(found.iter().count() > 0, "{yaml}");
    }
}

#[test]
fn a_command_that_hangs_is_ended() {
    let place = Place::new();
    let environment = variables();
    let answers = Answers::default();
    let mut references = References::new(place.path(), &environment, &answers);
    references.exec_limit = Duration::from_millis(300);
    for script in [
        "sleep 60",
        "sleep 60 & sleep 60",
        "exec >&-; sleep 60",
        "sleep 60 & echo x",
    ] {
        let command = ["sh", "-c", script].map(String::from).to_vec();
        let clock = crate::vocab::Clock::system();
        let started = clock.now();
        let read = references.secret(&SecretRef::Exec(command));
        assert!(read.is_err_and(|e| e.what.contains("in time")), "{script}");
        assert!(
            clock.now().since(started) < Duration::from_secs(5),
            "{script}"
        );
    }
}

#[test]
fn what_anybody_may_write_is_refused() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let place = Place::new();
    let chmod = |name: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(place.path().join(name), mode).unwrap();
    };
    place.write("key", "s3cret\n");
    for mode in [0o400, 0o600, 0o644, 0o664] {
        chmod("key", mode);
        assert!(value(&place, "{file: key}").is_some(), "{mode:o}");
    }
    // Kubernetes mounts Secrets and ConfigMaps behind links.
    symlink("key", place.path().join("link")).unwrap();
    assert!(value(&place, "{file: link}").is_some());
    for mode in [0o602, 0o666, 0o777] {
        chmod("key", mode);
        for reference in ["{file: key}", "{file: link}"] {
            let said = place.load(bearer(reference)).err().unwrap().to_string();
            assert!(
                said.contains("anybody") && said.contains("chmod o-w"),
                "{said}"
            );
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
    chmod("key", 0o600);
    chmod("tokenward.yaml", 0o666);
    let said = place.load(bearer("{file: key}")).err().unwrap().to_string();
    assert!(
        said.contains(":1: (file): may be written by anybody"),
        "{said}"
    );
}

fn asked(place: &Place, yaml: &str, ask: crate::config::Ask<'_>) -> Result<Plan, Problems> {
    place.write("tokenward.yaml", yaml);
    let prompts = Prompts::Ask(ask);
    let path = place.path().join("tokenward.yaml");
    crate::config::read_plan(&path, SecretReading::Resolve, prompts, &variables())
}

const TWO_QUESTIONS: &str = "\
services:
  b: {hosts: [b.example], rules: [{allow: GET /}], credential: {bearer: &same {prompt: Second}}}
  a: {hosts: [a.example], rules: [{allow: GET /}], credential: {header: {name: x-key, value: {prompt: Third}}}}
  c: {hosts: [c.example], rules: [{allow: GET /}], credential: {bearer: *same}}
agents: {x: {auth: {token: {prompt: Last}}, services: [a]}}
";

#[test]
fn a_person_is_asked_once_for_each_text_in_the_order_of_the_file() {
    let place = Place::new();
    let mut seen = Vec::new();
    let mut ask = |questions: &[Question]| {
        seen = questions.to_vec();
        let typed = questions.iter();
        Ok(typed
            .map(|q| Secret::new(format!("typed-for-{}", q.text).into_bytes()))
            .collect())
    };
    let plan = asked(&place, TWO_QUESTIONS, &mut ask).unwrap();
    let keys: Vec<_> = seen.iter().map(|q| (&*q.text, q.keys.join(" "))).collect();
    let second = "services.b.credential.bearer services.c.credential.bearer";
    assert_eq!(
        keys,
        [
            ("Second", second.to_owned()),
            ("Third", "services.a.credential.header.value".into()),
            ("Last", "agents.x.auth.token".into()),
        ]
    );
    for (name, credential) in &plan.tokens.services {
        let (CredentialSettings::Bearer(value) | CredentialSettings::Header { value, .. }) =
            credential
        else {
            panic!("{name}");
        };
        let third = name.as_str() == "a";
        let expected = if third {
            "typed-for-Third"
        } else {
            "typed-for-Second"
        };
        assert_eq!(value.expose(), expected);
    }
    assert!(!format!("{:?}", plan.answers).contains("typed"));

    // Again, by what was typed; and by nothing where the text is new.
    let path = place.path().join("tokenward.yaml");
    let again = |yaml: &str| {
        place.write("tokenward.yaml", yaml);
        let prompts = Prompts::Kept(&plan.answers);
        crate::config::read_plan(&path, SecretReading::Resolve, prompts, &variables())
    };
    assert!(again(TWO_QUESTIONS).is_ok());
    let refused = again(&TWO_QUESTIONS.replace("Second", "Fourth"))
        .err()
        .unwrap();
    let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said.iter().all(|line| line.contains("restart tokenward")),
        "{said:?}"
    );
}

#[test]
fn nobody_is_asked_for_a_file_with_a_slip_nor_in_vain() {
    let place = Place::new();
    let mut never = |_: &[Question]| panic!("asked");
    let slip = TWO_QUESTIONS.replace("hosts: [a.example]", "hots: [a.example]");
    assert!(asked(&place, &slip, &mut never).is_err());
    assert!(asked(&place, &bearer("{env: CODER_TOKEN}"), &mut never).is_ok());
    for (reference, word) in [
        ("{prompt: ''}", "not a text to ask with"),
        ("{prompt: ' '}", "not a text to ask with"),
        ("{prompt: \"a\\e[2J\"}", "not a text to ask with"),
        ("{prompt: [a]}", "not a text to ask with"),
        ("{prompt: Key}", "nobody was asked"),
    ] {
        let found = problems(bearer(reference)).to_string();
        assert!(found.contains(word), "{reference}: {found}");
    }
    let long = format!("{{prompt: {}}}", "q".repeat(201));
    assert!(place.load(bearer(&long)).is_err());
    // A key in PEM is no line.
    let ca = "ca: {cert: {file: internal-ca.pem}, key: {prompt: Key}}\ntunnel: ['a.example:443']\n";
    let found = problems(ca).to_string();
    assert!(
        found.contains("ca.key: a key in PEM has several lines"),
        "{found}"
    );
    // Verbs read the operator's token too, and ask nobody.
    let admin =
        "admin: {listen: '127.0.0.1:1', token: {prompt: Token}}\ntunnel: ['a.example:443']\n";
    let found = problems(admin).to_string();
    assert!(found.contains("admin.token: verbs that"), "{found}");
}

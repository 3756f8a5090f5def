//! From a description to a configuration file with its secrets, and to a house that was started from it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokenward::app;
use tokenward::config::{self, Plan, SecretReading};
use tokenward::rehearsal::{Options, Rehearsal};
use tokenward::vocab::Clock;

use super::{API, House, KEYS, PLAIN};

/// An agent's proxy token.
pub(crate) fn agent_token(name: &str) -> String {
    format!("proxy-token/of:{name}-0123456789abcdef")
}

/// How the client proves its name.
#[derive(Clone, Copy)]
pub(crate) enum Auth {
    Basic,
    PrivateKeyJwt,
    Post,
}

/// What a service is given.
#[derive(Clone)]
pub(crate) enum Credential {
    ApiKey,
    Bearer,
    Nothing,
    Oauth {
        client: &'static str,
        auth: Auth,
        binding: &'static str,
        /// Further keys.
        more: &'static str,
    },
}

impl Credential {
    pub(crate) fn oauth(client: &'static str, auth: Auth, binding: &'static str) -> Self {
        Self::Oauth {
            client,
            auth,
            binding,
            more: "",
        }
    }
}

/// A service of the file.
#[derive(Clone)]
pub(crate) struct Svc {
    pub(crate) name: &'static str,
    pub(crate) host: String,
    pub(crate) credential: Credential,
    pub(crate) rules: Vec<String>,
    /// Lines of YAML below the service.
    pub(crate) more: Vec<String>,
    /// The whole of `upstream`, in place of the usual one.
    pub(crate) upstream: Option<String>,
}

/// Rules for every route of the rehearsal.
const RULES: [&str; 6] = [
    r#"{allow: "GET|HEAD /v1/items/**", scopes: ["items:read"]}"#,
    r#"{allow: "GET|HEAD /v1/*", scopes: ["items:read"]}"#,
    r#"{allow: "GET|HEAD /v1/status/*", scopes: ["items:read"]}"#,
    r#"{allow: "POST /v1/items", scopes: ["items:write"]}"#,
    r#"{allow: "POST|PUT /v1/*", scopes: ["items:write"]}"#,
    r#"{deny: "* /v1/items/*/secrets"}"#,
];

impl Svc {
    /// The API that takes DPoP-bound tokens.
    pub(crate) fn items() -> Self {
        Self {
            name: "items",
            host: API.into(),
            credential: Credential::oauth("svc-pkjwt", Auth::PrivateKeyJwt, "dpop"),
            rules: RULES.iter().map(ToString::to_string).collect(),
            more: vec!["placeholder: {variable: ITEMS_TOKEN}".into()],
            upstream: None,
        }
    }

    /// The same with another client.
    pub(crate) fn with(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    /// An API that takes a key in a header.
    pub(crate) fn keys() -> Self {
        Self {
            name: "keys",
            host: KEYS.into(),
            credential: Credential::ApiKey,
            rules: vec![r#"{allow: "* /**"}"#.into()],
            more: vec!["placeholder: {variable: KEYS_TOKEN}".into()],
            upstream: None,
        }
    }

    /// An API that takes a bearer token.
    pub(crate) fn plain() -> Self {
        Self {
            name: "plain",
            host: PLAIN.into(),
            credential: Credential::Bearer,
            more: vec!["placeholder: {variable: PLAIN_TOKEN}".into()],
            ..Self::keys()
        }
    }

    /// The same with one more line.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.more.push(line.into());
        self
    }

    fn yaml(&self, rehearsal: &Rehearsal, keys_from: &str) -> String {
        let dpop = self.host == API;
        let address = if dpop {
            rehearsal.api_addr()
        } else {
            rehearsal.static_addr()
        };
        let upstream = self.upstream.clone().unwrap_or_else(|| {
            format!("{{ca: {{file: ca.pem}}, connect: \"{address}\", allow_private: true}}")
        });
        let resource = if dpop {
            rehearsal.api_origin()
        } else {
            rehearsal.static_origin()
        };
        let mut text = format!(
            "  {}:\n    hosts: [\"{}\"]\n    upstream: {upstream}\n    credential: {}\n    rules:\n",
            self.name,
            self.host,
            credential(&self.credential, rehearsal, resource, keys_from)
        );
        for rule in &self.rules {
            writeln!(text, "      - {rule}").unwrap();
        }
        for line in &self.more {
            writeln!(text, "    {line}").unwrap();
        }
        text
    }
}

fn credential(
    credential: &Credential,
    rehearsal: &Rehearsal,
    resource: &str,
    keys_from: &str,
) -> String {
    match credential {
        Credential::ApiKey => format!("{{header: {{name: x-api-key, value: {keys_from}}}}}"),
        Credential::Bearer => "{bearer: {file: bearer.key}}".into(),
        Credential::Nothing => "none".into(),
        Credential::Oauth {
            client,
            auth,
            binding,
            more,
        } => {
            let auth = match auth {
                Auth::Basic => format!("secret_basic: {{file: {client}.secret}}"),
                Auth::Post => format!("secret_post: {{file: {client}.secret}}"),
                Auth::PrivateKeyJwt => format!(
                    "private_key_jwt: {{key: {{file: {client}.pem}}, kid: \"{}\"}}",
                    rehearsal.client_key_id(client).unwrap()
                ),
            };
            format!(
                "{{oauth: {{issuer: rehearsal, client_id: {client}, client_auth: {{{auth}}}, \
                 grant: client_credentials, resource: \"{resource}\", binding: {binding}{more}}}}}"
            )
        }
    }
}

/// A house that is not built yet.
pub(crate) struct Setup {
    pub(crate) options: Options,
    pub(crate) services: Vec<Svc>,
    /// Names of agents with their services; none: the agent `default`.
    pub(crate) agents: Vec<(&'static str, &'static str)>,
    /// `auth` of those agents that have no token.
    pub(crate) auth: Vec<(&'static str, String)>,
    /// Where the proxy listens.
    pub(crate) listen: String,
    pub(crate) health: String,
    /// How requests may end after SIGTERM.
    pub(crate) drain: &'static str,
    /// Lines at the top of the file.
    pub(crate) more: Vec<String>,
    /// Further keys of the issuer.
    pub(crate) issuer: &'static str,
    /// The audit file, where it is another than the folder's; or all of `audit`, in braces.
    pub(crate) audit: Option<&'static str>,
    /// Where the API key comes from.
    pub(crate) keys_from: &'static str,
    /// The file that the issuer's roots come from.
    pub(crate) issuer_ca: &'static str,
    /// How many files a process of its own may open.
    pub(crate) files: Option<u64>,
    /// Further files beside the configuration, by name.
    pub(crate) write_more: Vec<(&'static str, String)>,
    /// What no key of the file says, such as how long a minute is.
    pub(crate) tune: fn(&mut Plan),
}

impl Setup {
    pub(crate) fn of(services: impl IntoIterator<Item = Svc>) -> Self {
        Self {
            options: Options::default(),
            services: services.into_iter().collect(),
            agents: Vec::new(),
            auth: Vec::new(),
            listen: "127.0.0.1:0".into(),
            health: "127.0.0.1:0".into(),
            drain: "{timeout: 5s}",
            more: Vec::new(),
            issuer: "",
            audit: None,
            keys_from: "{file: api.key}",
            issuer_ca: "ca.pem",
            files: None,
            write_more: Vec::new(),
            tune: |_| {},
        }
    }

    pub(crate) fn usual() -> Self {
        Self::of([Svc::items(), Svc::keys(), Svc::plain()])
    }

    pub(crate) fn line(mut self, line: &str) -> Self {
        self.more.push(line.into());
        self
    }

    /// Writes the file and everything that it refers to.
    pub(crate) fn write(&self, folder: &Path, rehearsal: &Rehearsal) -> PathBuf {
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        put("ca.pem", rehearsal.ca_pem());
        put("api.key", rehearsal.api_key());
        put("bearer.key", rehearsal.bearer_key());
        for client in rehearsal.clients() {
            let id = &client.id;
            put(&format!("{id}.pem"), &rehearsal.client_key_pem(id).unwrap());
            put(
                &format!("{id}.secret"),
                rehearsal.client_secret(id).unwrap(),
            );
        }
        for (name, text) in &self.write_more {
            put(name, text);
        }
        let path = folder.display();
        let own = format!("{path}/audit.jsonl");
        let audit = match self.audit {
            Some(whole) if whole.starts_with('{') => whole.to_owned(),
            other => format!("{{file: {}}}", other.unwrap_or(&own)),
        };
        let mut text = format!(
            "listen: {{proxy: {}}}\nhealth: \"{}\"\nruntime_dir: {path}/run\n\
             ca: {{dir: {path}/ca}}\naudit: {audit}\ndrain: {}\n",
            self.listen, self.health, self.drain
        );
        for line in &self.more {
            writeln!(text, "{line}").unwrap();
        }
        if !self.agents.is_empty() {
            text.push_str("agents:\n");
        }
        for (name, services) in &self.agents {
            put(&format!("{name}.token"), &agent_token(name));
            let own = self.auth.iter().find(|(of, _)| of == name);
            let auth = own.map_or_else(
                || format!("{{token: {{file: {name}.token}}}}"),
                |(_, auth)| auth.clone(),
            );
            writeln!(text, "  {name}: {{auth: {auth}, services: [{services}]}}").unwrap();
        }
        writeln!(
            text,
            "issuers:\n  rehearsal: {{url: \"{}\", ca: {{file: {}}}, connect: \"{}\", allow_private: true{}}}\nservices:",
            rehearsal.issuer_url(),
            self.issuer_ca,
            rehearsal.issuer_addr(),
            self.issuer
        )
        .unwrap();
        for service in &self.services {
            text.push_str(&service.yaml(rehearsal, self.keys_from));
        }
        put("tokenward.yaml", &text);
        folder.join("tokenward.yaml")
    }

    pub(crate) async fn start(self) -> House {
        let rehearsal = Rehearsal::start(self.options.clone()).await.unwrap();
        let folder = TempDir::new().unwrap();
        self.start_in(folder, rehearsal).await
    }

    pub(crate) async fn start_in(self, folder: TempDir, rehearsal: Rehearsal) -> House {
        let file = self.write(folder.path(), &rehearsal);
        let mut plan = config::load(&file, SecretReading::Resolve).unwrap();
        (self.tune)(&mut plan);
        let running = app::start(plan, Clock::system()).await.unwrap();
        running.open();
        let ca = fs::read_to_string(&running.trust().ca).unwrap();
        House {
            rehearsal,
            running,
            ca,
            folder,
        }
    }
}

//! What can be typed. Only verbs that work are here, so `--help` promises nothing else.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::vocab::danger;

/// What `--version` prints; a build that can be broken, or that may do what no other may, says so.
const VERSION: &str = if cfg!(feature = "variants") {
    concat!(
        env!("CARGO_PKG_VERSION"),
        " with broken variants, for tests only"
    )
} else if danger::PLAIN_HTTP {
    concat!(
        env!("CARGO_PKG_VERSION"),
        " with danger-plain-http, for tests only"
    )
} else {
    env!("CARGO_PKG_VERSION")
};

/// Lets AI agents call APIs without ever holding a credential.
#[derive(Debug, Parser)]
#[command(
    name = "tokenward",
    version = VERSION,
    about,
    max_term_width = 100,
    subcommand_required = true
)]
pub(super) struct Args {
    /// The configuration file [default: ./tokenward.yaml, then /etc/tokenward/tokenward.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Machine-readable output
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// Which log lines are written to standard error, e.g. `debug` or `tokenward=trace` [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(super) log: Option<String>,

    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check an audit file, or follow what is written
    Audit {
        #[command(subcommand)]
        verb: AuditVerb,
    },
    /// The interception CA; only certificates are ever printed
    Ca {
        #[command(subcommand)]
        verb: CaVerb,
    },
    /// Check the configuration, then print who can reach what
    Check,
    /// Show the whole job on this machine: no configuration, no accounts, no network
    #[cfg(feature = "demo")]
    Demo {
        /// Break one thing on purpose; the demo must then fail
        #[arg(long, hide = true, value_enum)]
        sabotage: Option<Sabotage>,
    },
    /// Print the environment that an agent needs
    Env {
        /// Which agent
        #[arg(long)]
        agent: Option<String>,
        /// In which form
        #[arg(long, value_enum, default_value = "sh")]
        format: Format,
    },
    /// Say what would happen to a request, and what would allow it; no network
    Explain {
        /// The method, e.g. GET
        method: String,
        /// The URL, with its scheme: `https://api.example/v1/items`
        url: String,
        /// Which agent
        #[arg(long)]
        agent: Option<String>,
    },
    /// Exit 0 if the running proxy is ready
    Healthcheck,
    /// Look for values that must not be there: in files, folders, archives, image layers, core files; for CI
    ///
    /// They are found as they are, in base64, base64url, hex, percent, JSON and HTML escapes, two of these inside each other,
    /// and inside gzip, zlib, Brotli, zstd and tar. Exits 1 where one is found, or something could not be searched.
    Leakcheck(LeakArgs),
    /// Log in for a service, in a browser or on another device
    ///
    /// Talks to the running proxy; with none running it opens `store: file` itself.
    Login(LoginWish),
    /// The system's rules that send a pod's or host's traffic here and nowhere else
    ///
    /// Addresses and ports are those of `listen.transparent` and of the services. Only what is named `tokenward` is ever touched.
    Netfilter {
        #[command(subcommand)]
        verb: NetfilterVerb,
    },
    /// Read the configuration again, and lend again what was revoked without `--compromise`
    Reload,
    /// Stop lending at once, cut what is open, destroy keys and tokens and tell their issuers
    Revoke(RevokeWish),
    /// Fetch new keys and tokens without an outage
    ///
    /// With `--service` or `--agent` it also brings back what was revoked and needs no person.
    Rotate {
        /// Only this service
        #[arg(long)]
        service: Option<String>,
        /// Only this agent's own grants
        #[arg(long)]
        agent: Option<String>,
    },
    /// Start a private proxy and run a command with the environment of `env`
    ///
    /// The command runs as you and can read what you can read.
    Run {
        /// Which agent the command is
        #[arg(long)]
        agent: Option<String>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
        command: Vec<std::ffi::OsString>,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Run the proxy until SIGTERM
    Serve,
    /// Show every grant of the running proxy, and what protects the process
    Status,
}

/// What `login` is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct LoginWish {
    /// The service
    pub(super) service: String,
    /// For this agent alone; without it all agents of the service ride on the login
    #[arg(long)]
    pub(super) agent: Option<String>,
    /// On another device, with a code to type there
    #[arg(long)]
    pub(super) device: bool,
    /// Only print the URL
    #[arg(long)]
    pub(super) no_browser: bool,
}

/// What `revoke` is asked for.
#[derive(Debug, clap::Args)]
// A group of its own: one of the whole struct would hold the other options as well.
#[group(skip)]
#[command(group(clap::ArgGroup::new("selection").required(true).multiple(true).args(["service", "agent", "all"])))]
pub(super) struct RevokeWish {
    /// This service's credential
    #[arg(long)]
    pub(super) service: Option<String>,
    /// What this agent is lent; others go on
    #[arg(long)]
    pub(super) agent: Option<String>,
    /// Everything
    #[arg(long, conflicts_with_all = ["service", "agent"])]
    pub(super) all: bool,
    /// Only a fresh login or grant with a new key brings it back
    #[arg(long)]
    pub(super) compromise: bool,
    /// Only say what would happen
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditVerb {
    /// Follow decisions and events of the running proxy, from now on
    Tail {
        /// Only of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only of this service
        #[arg(long)]
        service: Option<String>,
        /// Only requests that ended so
        #[arg(long, value_enum)]
        decision: Option<Decided>,
    },
    /// Check the hash chain of an audit file
    Verify {
        /// The file
        file: PathBuf,
    },
}

/// How requests ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Decided {
    /// They were carried
    Allow,
    /// They were refused
    Deny,
    /// Nobody waited for their end
    Abandoned,
}

#[derive(Debug, Subcommand)]
pub(super) enum NetfilterVerb {
    /// Put the rules in the place of those that are there, and check that IPv4 and IPv6 are covered
    Apply(NetfilterWish),
    /// Print the rules; needs no privilege
    Print(NetfilterWish),
    /// Take the rules away
    Remove {
        /// Also the route for marked packets
        #[arg(long)]
        tproxy: bool,
        /// Whose rules they are
        #[arg(long, value_enum, default_value = "nft")]
        format: RulesFormat,
    },
}

/// Which rules are wanted.
#[derive(Debug, clap::Args)]
pub(super) struct NetfilterWish {
    /// Where tokenward stands
    #[arg(long, value_enum, default_value = "sidecar")]
    pub(super) shape: RulesShape,
    /// Lead connections by TPROXY instead of redirecting them; for a gateway
    #[arg(long)]
    pub(super) tproxy: bool,
    /// For whom the text is
    #[arg(long, value_enum, default_value = "nft")]
    pub(super) format: RulesFormat,
    /// The group of tokenward, which no agent may have; for a sidecar
    #[arg(long, value_name = "GID", required_if_eq("shape", "sidecar"))]
    pub(super) exempt_gid: Option<u32>,
    /// The interface by which agents come in; for a gateway
    #[arg(long, value_name = "NAME", required_if_eq("shape", "gateway"))]
    pub(super) interface: Option<String>,
}

/// Where tokenward stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RulesShape {
    /// In the agent's own network: a pod, or this machine
    Sidecar,
    /// On the way of others
    Gateway,
}

/// For whom rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RulesFormat {
    /// nftables
    Nft,
    /// iptables-restore and ip6tables-restore, where there is no nftables
    Iptables,
}

#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Print the system's roots and the CA certificate, for clients that take one bundle
    Bundle,
    /// Make the CA where the configuration keeps it, constrained to the hosts of the configuration
    Init(CaInit),
    /// Print the CA certificate, and for which hosts it can sign
    Show,
}

/// What `leakcheck` is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct LeakArgs {
    /// Look for this value; others on this machine can see it while the search runs; may be repeated
    #[arg(long, value_name = "VALUE", required_unless_present_any = ["canaries", "from_env"])]
    pub(super) canary: Vec<String>,
    /// Look for each line of this file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(super) canaries: Vec<PathBuf>,
    /// Look for the value of this environment variable; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) from_env: Vec<String>,
    /// Files and folders; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
}

/// What `ca init` is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct CaInit {
    /// Make it in this directory instead
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Replace a CA that is there; agents then need the new certificate, and `serve` a restart
    #[arg(long)]
    pub(super) force: bool,
    /// Also permit this host and the names below it, for services to come; may be repeated
    #[arg(long, value_name = "HOST", conflicts_with = "unconstrained")]
    pub(super) permit: Vec<String>,
    /// Without name constraints: whoever has its key can then sign for every host
    #[arg(long)]
    pub(super) unconstrained: bool,
}

/// Forms in which `env` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// export NAME='value'
    Sh,
    /// set -gx NAME 'value'
    Fish,
    /// $Env:NAME = 'value'
    Powershell,
    /// NAME="value"
    Dotenv,
    /// One object
    Json,
    /// --env NAME=value, for `docker run`
    Docker,
    /// A list of name and value, for a container's `env`
    K8s,
}

/// What `demo --sabotage` breaks.
#[cfg(feature = "demo")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sabotage {
    /// The API takes tokens without proof
    ApiDpop,
    /// The policy allows what should be denied
    Deny,
    /// What the agent sent reaches the API
    Strip,
}

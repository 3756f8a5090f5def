//! From a plan to a proxy that listens.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::authority::{Custody, custody};
use super::control::{self, Work};
use super::descriptors;
use super::environment::{Access, ProxyName, environment};
use super::error::StartError;
use super::operator::{self, AdminSocket};
use super::reload::{ReloadWishes, Reloader};
use super::running::{Running, Seat};
use crate::admin::{self, Desk, Health, Readiness};
use crate::agent::Agents;
use crate::audit::{Audit, Event};
use crate::ca::{self, Leaves, TrustFiles};
use crate::config::{Plan, ProxyAddress, ProxyAt, StorePlan};
use crate::credential::{InstanceKey, Placeholders, derive};
use crate::exchange::{self, Deps, Exchange, ServiceSettings};
use crate::listen::{Doors, DoorsSetup, Limits, Listener, RedirectMode, TransparentSettings};
use crate::metrics::Metrics;
use crate::policy::Snapshot;
use crate::store::{self, Lost, Store};
use crate::tokens;
use crate::upstream::{Parent, Roots, Upstream, UpstreamSettings};
use crate::vocab::{AgentName, Clock, ServiceName};

/// Leaf certificates kept: under an agent that counts up names, what we hold must stay below 16 MiB.
const LEAVES: usize = 1024;

/// Starts the proxy: binds, loads, and begins to serve. Must run inside the data runtime.
///
/// # Errors
/// [`StartError`]; nothing listens then.
pub async fn start(plan: Plan, clock: Clock) -> Result<Running, StartError> {
    let sockets = Sockets::bind(&plan).await?;
    let custody = custody(&plan.ca, &plan.policy, &clock)?;
    let metrics = Metrics::new()?;
    let (audit, writer) = Audit::start(plan.audit.clone(), clock.clone())?;
    tokio::spawn(audit.herald());
    let tools = Tools {
        clock,
        audit,
        metrics,
    };
    let ca_not_after = custody.root.not_after();
    tools.metrics.ca_not_after(ca_not_after.seconds());

    let wing = data_wing(&plan, &sockets, custody, &tools)?;
    let readiness = Readiness::new(tools.audit.clone(), tools.clock.clone(), ca_not_after);
    let health = Health {
        readiness: readiness.clone(),
        metrics: tools.metrics.clone(),
        audit: tools.audit.clone(),
    };
    let admin_address = sockets.admin.as_ref().and_then(|admin| admin.address);
    let (wishes, reload) = ReloadWishes::new();
    let (door, exchange) = (&wing.door, wing.reloader.exchange.clone());
    let noted = (&tools.audit, &tools.metrics, &tools.clock);
    let desk = operator::desk(&plan, door, exchange, reload, noted);
    let desk = sockets.admin.map(|socket| (socket, desk));
    let health_address = local_addresses(&sockets.health)?.first().copied();
    let stop = CancellationToken::new();
    let control = control_wing(wing.worker, sockets.health, &health, desk, stop.clone())?;
    wing.door.settle().await;
    for listener in sockets.proxies.into_iter().chain(sockets.transparent) {
        wing.doors.serve(listener);
    }
    let generation = plan.policy.generation;
    tools.audit.event(Event::Started {
        version: env!("CARGO_PKG_VERSION"),
        generation,
    });
    Ok(Running {
        reloader: wing.reloader,
        wishes,
        proxies: sockets.proxy_addresses,
        transparent: sockets.transparent_addresses,
        listening: sockets.shown,
        health: health_address,
        admin: admin_address,
        trust: wing.trust,
        seats: wing.seats,
        doors: wing.doors,
        door: wing.door,
        upstream: wing.upstream,
        audit: tools.audit,
        writer,
        readiness,
        stop,
        control,
        drain: plan.drain,
    })
}

/// What both wings are given.
struct Tools {
    clock: Clock,
    audit: Audit,
    metrics: Metrics,
}

/// Everything that listens, bound before anything is loaded.
struct Sockets {
    proxies: Vec<Listener>,
    proxy_addresses: Vec<SocketAddr>,
    transparent: Vec<Listener>,
    transparent_addresses: Vec<SocketAddr>,
    /// What the first of them that has a URL is called.
    proxy_name: Option<ProxyName>,
    /// Each of them, for people.
    shown: Vec<String>,
    health: Vec<TcpListener>,
    /// The operator's.
    admin: Option<AdminSocket>,
    /// All of them: addresses that are never dialled on behalf of an agent.
    own: Vec<SocketAddr>,
}

impl Sockets {
    async fn bind(plan: &Plan) -> Result<Self, StartError> {
        let mut proxies = Vec::new();
        for listener in &plan.listen.proxy {
            proxies.push(bind_proxy(listener).await?);
        }
        let named = proxies.iter().zip(&plan.listen.proxy);
        let proxy_name = named.clone().find_map(|(bound, proxy)| name(bound, proxy));
        let mut shown: Vec<_> = named.map(|(bound, proxy)| shown(bound, proxy)).collect();
        let transparent = plan.listen.transparent.iter().map(bind_transparent);
        let transparent: Vec<Listener> = transparent.collect::<Result<_, _>>()?;
        let transparent_addresses: Vec<_> =
            transparent.iter().filter_map(Listener::address).collect();
        let modes = plan.listen.transparent.iter().map(|one| one.mode.as_str());
        let led = transparent_addresses.iter().zip(modes);
        shown.extend(led.map(|(address, mode)| format!("{address} ({mode})")));
        let health = bind_all("health", plan.health.as_slice()).await?;
        let admin = operator::bind(plan.admin.as_ref()).await?;
        let proxy_addresses: Vec<_> = proxies.iter().filter_map(Listener::address).collect();
        let own = proxy_addresses
            .iter()
            .chain(&transparent_addresses)
            .copied()
            .chain(local_addresses(&health)?)
            .chain(admin.as_ref().and_then(|admin| admin.address))
            .collect();
        Ok(Self {
            proxies,
            proxy_addresses,
            transparent,
            transparent_addresses,
            proxy_name,
            shown,
            health,
            admin,
            own,
        })
    }
}

/// The data wing, and the control wing's part that has not begun to run.
struct Wing {
    doors: Arc<Doors>,
    door: Arc<tokens::Door>,
    worker: tokens::Worker,
    upstream: Upstream,
    trust: TrustFiles,
    seats: Vec<Seat>,
    reloader: Reloader,
}

fn data_wing(
    plan: &Plan,
    sockets: &Sockets,
    custody: Custody,
    tools: &Tools,
) -> Result<Wing, StartError> {
    let Custody { root, instance } = custody;
    let snapshot = Snapshot::build(plan.policy.clone()).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        StartError::Policy(errors.join("; "))
    })?;
    tools.metrics.config_generation(snapshot.generation().0);
    let roots = Roots::system(std::slice::from_ref(root.certificate_der()))?;
    let trust = ca::write_trust_files(&plan.runtime_dir, &root, roots.bundle())?;
    warn_about(&trust);
    let upstream = way_out(plan, roots, sockets, tools)?;
    let deps = tokens::Deps {
        clock: tools.clock.clone(),
        audit: tools.audit.clone(),
        metrics: tools.metrics.clone(),
        upstream: upstream.clone(),
        store: open_store(&plan.store)?,
    };
    let (door, worker) = tokens::start(plan.tokens.clone(), deps)?;
    let seats = seats(
        &snapshot,
        plan,
        &instance,
        sockets.proxy_name.as_ref(),
        &trust,
    );
    let exchange = exchange(plan, snapshot, &instance, door.clone(), &upstream, tools)?;
    let alarm = operator::alarm(&door, &exchange);
    let leaves = Arc::new(Leaves::new(root, tools.clock.clone(), LEAVES)?);
    let doors = Doors::new(DoorsSetup {
        exchange: exchange.clone(),
        agents: Agents::new(plan.agents.clone()),
        leaves: leaves.clone(),
        metrics: tools.metrics.clone(),
        clock: tools.clock.clone(),
        limits: limits(plan),
        alarm,
    })?;
    let reloader = Reloader {
        exchange,
        doors: doors.clone(),
        door: door.clone(),
        leaves,
        upstream: upstream.clone(),
        audit: tools.audit.clone(),
        metrics: tools.metrics.clone(),
        instance,
        proxy: sockets.proxy_name.clone(),
        trust: trust.clone(),
        plan: Mutex::new(plan.clone()),
    };
    Ok(Wing {
        doors,
        door,
        worker,
        upstream,
        reloader,
        trust,
        seats,
    })
}

/// The way to APIs and issuers.
fn way_out(
    plan: &Plan,
    roots: Roots,
    sockets: &Sockets,
    tools: &Tools,
) -> Result<Upstream, StartError> {
    let parent = plan.parent.as_ref();
    let parent = parent.map(|settings| Parent::compile(&roots, settings));
    let settings = UpstreamSettings {
        parent: parent.transpose()?,
        roots,
        own_listeners: sockets.own.clone(),
        limits: descriptors::pool(),
    };
    Ok(Upstream::new(settings, tools.clock.clone()))
}

/// Opens the store, if there is one, and says what of it is lost.
fn open_store(plan: &StorePlan) -> Result<Option<(Store, Lost)>, StartError> {
    // Without the key's value nothing is started.
    let StorePlan::File {
        path,
        key: Some(key),
        previous,
    } = plan
    else {
        return Ok(None);
    };
    let (store, lost) = Store::open(store::Settings {
        path: path.clone(),
        key: key.clone(),
        previous: previous.clone(),
    })?;
    let sequence = store.sequence();
    tracing::info!(path = %path.display(), sequence, "the store is open");
    if store.was_rekeyed() {
        tracing::warn!(
            path = %path.display(),
            "the store is sealed with the new key now; remove `previous_key` and destroy that key"
        );
    }
    if !lost.is_empty() {
        tracing::error!(
            path = %path.display(),
            rows = lost.rows.len(),
            head = lost.head,
            witness = lost.witness,
            "the store is damaged: rows that are lost need a new login, the others work"
        );
    }
    Ok(Some((store, lost)))
}

fn exchange(
    plan: &Plan,
    snapshot: Snapshot,
    instance: &InstanceKey,
    door: Arc<tokens::Door>,
    upstream: &Upstream,
    tools: &Tools,
) -> Result<Arc<Exchange>, StartError> {
    let placeholders = placeholders(instance, &snapshot, &plan.services);
    let streams = plan.limits.agent_streams;
    let services = plan.services.clone();
    let first = exchange::Plan::new(snapshot, services, placeholders, streams, upstream)?;
    let lent = door.clone();
    let exchange = Arc::new(Exchange::new(Deps {
        plan: first.quarantining(plan.quarantined.clone()),
        lent: Arc::new(move || lent.lent()),
        source: door.clone(),
        upstream: upstream.clone(),
        audit: tools.audit.clone(),
        metrics: tools.metrics.clone(),
        clock: tools.clock.clone(),
        pseudonym: pseudonym(instance),
        replay_total: plan.limits.replay_total,
        body_floor: plan.limits.body_floor,
    }));
    exchange.quarantine_by(operator::alarm(&door, &exchange));
    Ok(exchange)
}

fn limits(plan: &Plan) -> Limits {
    Limits {
        connections: descriptors::connections(plan.limits.connections),
        per_agent: plan.limits.agent_connections,
        streams: u32::try_from(plan.limits.agent_streams).unwrap_or(u32::MAX),
        requests_per_second: plan.limits.agent_requests,
        certificates_per_second: plan.limits.agent_certificates,
        request_head: plan.limits.request_head,
        write_stall: write_stall(&plan.services),
    }
}

/// A connection may be to any service, so the most patient one decides.
fn write_stall(services: &[ServiceSettings]) -> Duration {
    let idle = services.iter().map(|service| service.timeouts.idle).max();
    idle.unwrap_or_else(|| exchange::Timeouts::default().idle)
}

/// Starts the control wing's thread: the token worker and the health listeners.
fn control_wing(
    worker: tokens::Worker,
    listeners: Vec<TcpListener>,
    health: &Health,
    desk: Option<(AdminSocket, Desk)>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, StartError> {
    let mut work: Vec<Work> = vec![Box::pin(worker.run())];
    for listener in listeners {
        // The socket was made on the data runtime; its events must arrive where it is served.
        let listener = listener.into_std()?;
        let health = health.clone();
        work.push(Box::pin(async move {
            if let Ok(listener) = TcpListener::from_std(listener) {
                admin::serve(listener, health).await;
            }
        }));
    }
    if let Some((socket, desk)) = desk {
        work.push(Box::pin(async move {
            let _file = socket.file;
            if let Err(error) = desk.serve(socket.entrance).await {
                tracing::error!(%error, "the admin API cannot be served");
            }
        }));
    }
    Ok(control::spawn(work, stop)?)
}

/// What agents call a listener; nothing, where it is a unix socket.
fn name(bound: &Listener, proxy: &ProxyAddress) -> Option<ProxyName> {
    let tls = proxy.tls.as_ref().map(|tls| tls.hosts.as_slice());
    Some(ProxyName::of(bound.address()?, tls))
}

/// A listener, for people.
fn shown(bound: &Listener, proxy: &ProxyAddress) -> String {
    let tls = if proxy.tls.is_some() { "https://" } else { "" };
    match (bound.address(), &proxy.at) {
        (Some(address), _) => format!("{tls}{address}"),
        (None, ProxyAt::Unix { path, .. }) => format!("unix:{}", path.display()),
        (None, ProxyAt::Tcp(address)) => format!("{tls}{address}"),
    }
}

/// Binds one address of the proxy.
async fn bind_proxy(proxy: &ProxyAddress) -> Result<Listener, StartError> {
    let bound = match &proxy.at {
        ProxyAt::Tcp(address) => Listener::tcp(*address).await,
        ProxyAt::Unix { path, mode } => Listener::unix(path, *mode).await,
    };
    let listener = bound.map_err(|why| StartError::Bind {
        what: "listen.proxy",
        address: match &proxy.at {
            ProxyAt::Tcp(address) => address.to_string(),
            ProxyAt::Unix { path, .. } => format!("unix:{}", path.display()),
        },
        why: why.kind(),
    })?;
    match &proxy.tls {
        Some(tls) => Ok(listener.in_tls(&tls.cert_pem, &tls.key_pem)?),
        None => Ok(listener),
    }
}

/// Binds one address to which connections are redirected.
fn bind_transparent(settings: &TransparentSettings) -> Result<Listener, StartError> {
    Listener::transparent(settings).map_err(|why| {
        let why = why.kind();
        let lacks = settings.mode == RedirectMode::Tproxy && why == ErrorKind::PermissionDenied;
        if lacks {
            return StartError::Tproxy;
        }
        StartError::Bind {
            what: "listen.transparent",
            address: settings.address.to_string(),
            why,
        }
    })
}

async fn bind_all(
    what: &'static str,
    addresses: &[SocketAddr],
) -> Result<Vec<TcpListener>, StartError> {
    let mut bound = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        bound.push(listener.map_err(|why| StartError::Bind {
            what,
            address: address.to_string(),
            why: why.kind(),
        })?);
    }
    Ok(bound)
}

fn local_addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    listeners
        .iter()
        .map(|l| l.local_addr().map_err(StartError::from))
        .collect()
}

/// Our name in `Via`: stable for the installation, so that a loop over two processes of it is seen as well.
fn pseudonym(instance: &InstanceKey) -> String {
    let (Ok(agent), Ok(service)) = (AgentName::new("via"), ServiceName::new("via")) else {
        return "tokenward".to_owned();
    };
    let derived = derive(
        instance,
        &agent,
        &service,
        &crate::credential::Shape::default(),
    );
    let letters: String = derived
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .skip(2)
        .take(8)
        .collect();
    format!("tokenward-{letters}")
}

/// The services that an agent may reach, with what is known about carrying to them.
fn reachable<'a>(
    snapshot: &'a Snapshot,
    services: &'a [ServiceSettings],
    agent: &'a AgentName,
) -> impl Iterator<Item = &'a ServiceSettings> {
    snapshot
        .services_of(agent)
        .filter_map(|judged| services.iter().find(|s| s.name == judged.name))
}

pub(super) fn placeholders(
    instance: &InstanceKey,
    snapshot: &Snapshot,
    services: &[ServiceSettings],
) -> Placeholders {
    let pairs = snapshot.agents().flat_map(|agent| {
        reachable(snapshot, services, agent).map(move |s| (agent, &s.name, &s.placeholder.shape))
    });
    Placeholders::new(instance, pairs)
}

/// Each agent's environment.
pub(super) fn seats(
    snapshot: &Snapshot,
    plan: &Plan,
    instance: &InstanceKey,
    proxy: Option<&ProxyName>,
    trust: &TrustFiles,
) -> Vec<Seat> {
    let seat = |agent: &AgentName| {
        let variables: Vec<(String, String)> = reachable(snapshot, &plan.services, agent)
            .filter_map(|s| {
                let name = s.placeholder.variable.clone()?;
                Some((name, derive(instance, agent, &s.name, &s.placeholder.shape)))
            })
            .collect();
        let credential = plan.proxy_tokens.get(agent).map(|token| (agent, token));
        let access = Access {
            // Whoever is known by a listener of its own alone would be nobody at the proxy's.
            proxy: proxy.filter(|_| !plan.agents.only_placed(agent)),
            credential,
            trust,
        };
        Seat {
            agent: agent.clone(),
            environment: environment(&access, &variables),
        }
    };
    snapshot.agents().map(seat).collect()
}

fn warn_about(trust: &TrustFiles) {
    if trust.system_roots == 0 {
        tracing::warn!(
            "no system roots were found: hosts under `tunnel` will not verify for agents"
        );
    }
    if trust.others_may_write {
        tracing::warn!("others may write into runtime_dir: mount it read-only into agents");
    }
}

//! From a plan to a proxy that listens.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::authority::{Custody, custody};
use super::control::{self, Work};
use super::environment::{Access, environment};
use super::error::StartError;
use super::running::{Running, Seat};
use crate::admin::{self, Health, Readiness};
use crate::agent::Agents;
use crate::audit::{Audit, Event};
use crate::ca::{self, Leaves, TrustFiles};
use crate::config::Plan;
use crate::credential::{InstanceKey, Placeholders, derive};
use crate::exchange::{self, Deps, Exchange, ServiceSettings};
use crate::listen::{Doors, DoorsSetup, Limits};
use crate::metrics::Metrics;
use crate::policy::Snapshot;
use crate::tokens;
use crate::upstream::{PoolLimits, Roots, Upstream, UpstreamSettings};
use crate::vocab::{AgentName, Clock, ServiceName};

/// Leaf certificates kept.
const LEAVES: usize = 10_000;

/// Starts the proxy: binds, loads, and begins to serve. Must run inside the data runtime.
///
/// # Errors
/// [`StartError`]; nothing listens then.
pub async fn start(plan: Plan, clock: Clock) -> Result<Running, StartError> {
    let addresses: Vec<SocketAddr> = plan.listen.proxy.iter().map(|p| p.addr).collect();
    let listeners = bind_all("listen.proxy", &addresses).await?;
    let health = bind_all("health", plan.health.as_slice()).await?;
    let proxies = local_addresses(&listeners)?;
    let own: Vec<SocketAddr> = proxies
        .iter()
        .copied()
        .chain(local_addresses(&health)?)
        .collect();

    let Custody { root, instance } = custody(&plan.ca, &clock)?;
    let metrics = Metrics::new()?;
    let (audit, writer) = Audit::start(plan.audit, clock.clone())?;
    let snapshot = Snapshot::build(plan.policy).map_err(|errors| {
        StartError::Policy(
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        )
    })?;
    let generation = snapshot.generation();
    metrics.config_generation(generation.0);
    let ca_not_after = root.not_after();
    metrics.ca_not_after(ca_not_after.seconds());

    let roots = Roots::system(std::slice::from_ref(root.certificate_der()))?;
    let trust = ca::write_trust_files(&plan.runtime_dir, &root, roots.bundle())?;
    warn_about(&trust);
    let upstream = Upstream::new(
        UpstreamSettings {
            roots,
            own_listeners: own,
            limits: PoolLimits::default(),
        },
        clock.clone(),
    );
    let token_deps = tokens::Deps {
        clock: clock.clone(),
        audit: audit.clone(),
        metrics: metrics.clone(),
        upstream: upstream.clone(),
    };
    let (door, worker) = tokens::start(plan.tokens, token_deps)?;

    let placeholders = placeholders(&instance, &snapshot, &plan.services);
    let seats = seats(
        &snapshot,
        &plan.services,
        &instance,
        &plan.proxy_tokens,
        proxies.first(),
        &trust,
    );
    let exchange_plan = exchange::Plan::new(
        snapshot,
        plan.services,
        placeholders,
        plan.limits.agent_streams,
        &upstream,
    )?;
    let exchange = Arc::new(Exchange::new(Deps {
        plan: exchange_plan,
        source: door.clone(),
        upstream: upstream.clone(),
        audit: audit.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        pseudonym: pseudonym(&instance),
    }));
    let doors = Doors::new(DoorsSetup {
        exchange,
        agents: Agents::new(plan.agents),
        leaves: Arc::new(Leaves::new(root, clock.clone(), LEAVES)?),
        metrics: metrics.clone(),
        limits: Limits {
            connections: plan.limits.connections,
            per_agent: plan.limits.agent_connections,
            streams: u32::try_from(plan.limits.agent_streams).unwrap_or(u32::MAX),
            request_head: plan.limits.request_head,
        },
    });

    let readiness = Readiness::new(audit.clone(), clock, ca_not_after);
    let health_addresses = local_addresses(&health)?;
    let mut work: Vec<Work> = vec![Box::pin(worker.run())];
    for listener in health {
        // The socket was made on the data runtime; its events must arrive where it is served.
        let listener = listener.into_std()?;
        let state = Health {
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            audit: audit.clone(),
        };
        work.push(Box::pin(async move {
            if let Ok(listener) = TcpListener::from_std(listener) {
                admin::serve(listener, state).await;
            }
        }));
    }
    let stop = CancellationToken::new();
    let control = control::spawn(work, stop.clone())?;
    for listener in listeners {
        tokio::spawn(doors.clone().serve(listener));
    }
    audit.event(Event::Started {
        version: env!("CARGO_PKG_VERSION"),
        generation,
    });
    Ok(Running {
        proxies,
        health: health_addresses.first().copied(),
        trust,
        seats,
        doors,
        door,
        upstream,
        audit,
        writer,
        readiness,
        stop,
        control,
        drain: plan.drain,
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
            address: *address,
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

fn placeholders(
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
fn seats(
    snapshot: &Snapshot,
    services: &[ServiceSettings],
    instance: &InstanceKey,
    tokens: &std::collections::BTreeMap<AgentName, crate::vocab::Secret<String>>,
    proxy: Option<&SocketAddr>,
    trust: &TrustFiles,
) -> Vec<Seat> {
    let Some(proxy) = proxy else {
        return Vec::new();
    };
    let seat = |agent: &AgentName| {
        let variables: Vec<(String, String)> = reachable(snapshot, services, agent)
            .filter_map(|s| {
                let name = s.placeholder.variable.clone()?;
                Some((name, derive(instance, agent, &s.name, &s.placeholder.shape)))
            })
            .collect();
        let credential = tokens.get(agent).map(|token| (agent, token));
        let access = Access {
            proxy: *proxy,
            credential,
            bundle: &trust.bundle,
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

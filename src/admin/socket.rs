//! The operator's socket: JSON over HTTP/1.1 on a unix socket that only our own user and root may use.
//!
//! No answer carries a token, an authorization code or a key; what a login shows (a URL, a user's code) goes to the
//! operator who began it. The proxy never dials a unix socket, so no agent comes here by way of it; and what says that it
//! came by way of a proxy of ours is refused all the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::health::came_from_an_agent;
use super::logins::{Logins, owner};
use super::revoke;
use crate::credential::BoxFuture;
use crate::tokens::{Door, GrantStatus, KeyFate, LoginError, Rotated, Selection, Standing};
use crate::vocab::{AgentName, Code, GrantId, ServiceName};

/// Connections at one time.
const CONNECTIONS: usize = 32;
/// How long a head, and then a body, may take to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request.
const HEAD_MAX: usize = 16 * 1024;
/// Longest body of a request.
const BODY_MAX: usize = 16 * 1024;

/// What the socket speaks about.
pub struct Desk {
    door: Arc<Door>,
    logins: Logins,
    facts: DeskFacts,
}

/// What does not change while we run.
pub struct DeskFacts {
    /// Our own user.
    pub uid: u32,
    /// The agents of the configuration in force.
    pub agents: Box<dyn Fn() -> Vec<AgentName> + Send + Sync>,
    /// Ends every exchange that rides on what this selection is about and the door has stopped. How many.
    pub sever: Box<dyn Fn(&Selection) -> usize + Send + Sync>,
    /// Has the configuration read again.
    pub reload: Reload,
    /// What protects the process, by name, and whether it holds.
    pub protections: Vec<(&'static str, bool)>,
    /// Where refresh tokens are kept: `file` or `memory`.
    pub store: &'static str,
}

/// Reads the configuration again and takes it into force: the number of the generation that is in force then, or
/// everything that is wrong with the file, line by line.
pub type Reload = Box<dyn Fn() -> BoxFuture<'static, Result<u64, Vec<String>>> + Send + Sync>;

impl Desk {
    /// A desk over these grants.
    #[must_use]
    pub fn new(door: Arc<Door>, facts: DeskFacts) -> Self {
        Self {
            logins: Logins::new(Arc::clone(&door)),
            door,
            facts,
        }
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, listener: UnixListener) {
        let desk = Arc::new(self);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) if desk.admits(&stream) => {
                    let desk = Arc::clone(&desk);
                    tokio::spawn(async move {
                        desk.connection(stream).await;
                        drop(permit);
                    });
                }
                Ok(_) => {
                    tracing::warn!("another user's process was turned away at the admin socket")
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin socket could not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// The mode of the socket says so as well; but a mode can be changed, and a folder be mounted elsewhere.
    fn admits(&self, stream: &UnixStream) -> bool {
        let uid = stream.peer_cred().map(|who| who.uid());
        uid.is_ok_and(|uid| uid == self.facts.uid || uid == 0)
    }

    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let service = service_fn(move |request| {
            let desk = Arc::clone(&self);
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ARRIVAL_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if came_from_an_agent(&request) {
            return refuse(
                StatusCode::FORBIDDEN,
                "forbidden",
                "not by way of the proxy",
            );
        }
        let (head, body) = request.into_parts();
        let path: Vec<&str> = head.uri.path().trim_start_matches('/').split('/').collect();
        match (&head.method, path.as_slice()) {
            (&Method::GET, ["v1", "status"]) => json_answer(StatusCode::OK, &self.status()),
            (&Method::GET, ["v1", "logins"]) => json_answer(StatusCode::OK, &self.logins.list()),
            (&Method::GET, ["v1", "logins", id]) => {
                let wait = head.uri.query() == Some("wait=1");
                match self.logins.look(id, wait).await {
                    Some(found) => json_answer(StatusCode::OK, &found),
                    None => no_such_login(),
                }
            }
            (&Method::DELETE, ["v1", "logins", id]) => {
                if self.logins.cancel(id) {
                    json_answer(StatusCode::OK, &json!({"id": id, "state": "cancelled"}))
                } else {
                    no_such_login()
                }
            }
            (&Method::POST, ["v1", "logins"]) => match self.read(body).await {
                Ok(wish) => self.begin(&wish).await,
                Err(refusal) => refusal,
            },
            (&Method::POST, ["v1", "rotate"]) => match self.read(body).await {
                Ok(wish) => self.rotate(&wish).await,
                Err(refusal) => refusal,
            },
            (&Method::POST, ["v1", "revoke"]) => match self.read(body).await {
                Ok(wish) => revoke::revoke(&self.door, &self.facts, &wish).await,
                Err(refusal) => refusal,
            },
            (&Method::POST, ["v1", "reload"]) => match self.read(body).await {
                Ok(_) => revoke::reload(&self.door, &self.facts).await,
                Err(refusal) => refusal,
            },
            (
                _,
                [
                    "v1",
                    "status" | "logins" | "rotate" | "revoke" | "reload",
                    ..,
                ],
            ) => refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this is not done with this method",
            ),
            _ => refuse(StatusCode::NOT_FOUND, "not_found", "nothing is here"),
        }
    }

    /// Reads what is wanted: an object with `service`, `agent` and `device`, and nothing else.
    async fn read(&self, body: Incoming) -> Result<Wish, Response<Full<Bytes>>> {
        let bad = |what| refuse(StatusCode::BAD_REQUEST, "request", what);
        #[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
        let arriving = Limited::new(body, BODY_MAX).collect();
        let arrived = tokio::time::timeout(ARRIVAL_TIMEOUT, arriving).await;
        let Ok(Ok(arrived)) = arrived else {
            return Err(bad("the body is too large or too slow"));
        };
        let parsed = serde_json::from_slice(&arrived.to_bytes());
        let Ok(Value::Object(members)) = parsed else {
            return Err(bad("the body is not a JSON object"));
        };
        let mut wish = Wish::default();
        for (name, value) in members {
            match (name.as_str(), value) {
                ("service", Value::String(text)) => {
                    let service = ServiceName::new(&text).ok();
                    let service = service.filter(|name| self.door.knows(name));
                    let unknown = || {
                        let known = self.door.bindings().into_iter();
                        let known: Vec<_> = known.map(|(name, _)| name.to_string()).collect();
                        let known = known.join(", ");
                        let what = format!("the configuration has no such service; it has {known}");
                        refuse(StatusCode::NOT_FOUND, "service", &what)
                    };
                    wish.service = Some(service.ok_or_else(unknown)?);
                }
                ("agent", Value::String(text)) => {
                    let agent = AgentName::new(&text).ok();
                    let known = (self.facts.agents)();
                    let agent = agent.filter(|name| known.contains(name));
                    let unknown = || {
                        let known: Vec<&str> = known.iter().map(AgentName::as_str).collect();
                        let known = known.join(", ");
                        let what = format!("the configuration has no such agent; it has {known}");
                        refuse(StatusCode::NOT_FOUND, "agent", &what)
                    };
                    wish.agent = Some(agent.ok_or_else(unknown)?);
                }
                ("device", Value::Bool(device)) => wish.device = device,
                ("all", Value::Bool(all)) => wish.all = all,
                ("compromise", Value::Bool(compromise)) => wish.compromise = compromise,
                ("dry_run", Value::Bool(dry_run)) => wish.dry_run = dry_run,
                (_, Value::Null) => {}
                _ => return Err(bad("a member is not known or of another type")),
            }
        }
        Ok(wish)
    }

    async fn begin(&self, wish: &Wish) -> Response<Full<Bytes>> {
        let Some(service) = wish.service.clone() else {
            return refuse(StatusCode::BAD_REQUEST, "request", "`service` is missing");
        };
        let agent = wish.agent.clone().unwrap_or_else(AgentName::everyone);
        let grant = GrantId { service, agent };
        match self.logins.begin(grant, wish.device).await {
            Ok(begun) => json_answer(StatusCode::CREATED, &begun),
            Err(error) => {
                let status = match error {
                    LoginError::OtherGrant => StatusCode::CONFLICT,
                    LoginError::Unavailable(Code::Overloaded) => StatusCode::TOO_MANY_REQUESTS,
                    _ => StatusCode::BAD_GATEWAY,
                };
                refuse(status, "login", &error.to_string())
            }
        }
    }

    async fn rotate(&self, wish: &Wish) -> Response<Full<Bytes>> {
        let done = self.door.rotate(wish.service.as_ref(), wish.agent.as_ref());
        let all: Value = done.await.iter().map(show_rotated).collect();
        json_answer(StatusCode::OK, &json!({"grants": all}))
    }

    fn status(&self) -> Value {
        let grants: Value = self.door.standing().iter().map(show_standing).collect();
        let services: Value = self
            .door
            .bindings()
            .iter()
            .map(|(name, binding)| json!({"service": name.as_str(), "binding": binding.as_str()}))
            .collect();
        let protections: serde_json::Map<String, Value> = self
            .facts
            .protections
            .iter()
            .map(|(name, holds)| ((*name).to_owned(), json!(holds)))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "store": self.facts.store,
            "protections": protections,
            "services": services,
            "grants": grants,
            "logins": self.logins.list(),
        })
    }
}

/// What a request asks for.
#[derive(Default)]
pub(super) struct Wish {
    pub(super) service: Option<ServiceName>,
    pub(super) agent: Option<AgentName>,
    device: bool,
    pub(super) all: bool,
    pub(super) compromise: bool,
    pub(super) dry_run: bool,
}

fn show_standing(standing: &Standing) -> Value {
    let tokens: Value = standing.tokens.iter().map(show_token).collect();
    json!({
        "service": standing.grant.service.as_str(),
        "agent": owner(&standing.grant),
        "shared": standing.grant.agent.is_everyone(),
        "grant": standing.how,
        "binding": standing.binding.as_str(),
        "refreshable": standing.persists,
        "health": standing.health,
        "tokens": tokens,
    })
}

fn show_token(token: &GrantStatus) -> Value {
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    json!({
        "scopes": scopes,
        "thumbprint": token.thumbprint,
        "token_id": token.lease,
        "age": token.age.map(|age| age.as_secs()),
        "expires_in": token.expires_in.map(|left| left.as_secs()),
        "code": token.trouble.map(Code::as_str),
    })
}

fn show_rotated(rotated: &Rotated) -> Value {
    json!({
        "service": rotated.grant.service.as_str(),
        "agent": owner(&rotated.grant),
        "key": match rotated.key {
            KeyFate::Failed => "failed",
            KeyFate::New => "new",
            KeyFate::NeedsLogin => "needs_login",
            KeyFate::None => "none",
        },
        "tokens": rotated.tokens,
        "renewed": rotated.renewed,
    })
}

fn no_such_login() -> Response<Full<Bytes>> {
    refuse(StatusCode::NOT_FOUND, "login", "there is no such login")
}

pub(super) fn refuse(status: StatusCode, code: &str, what: &str) -> Response<Full<Bytes>> {
    json_answer(status, &json!({"error": {"code": code, "message": what}}))
}

pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

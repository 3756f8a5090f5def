//! The admin API: JSON over HTTP/1.1, as `openapi.json` describes it. Who may come in is settled before (`guard`).
//!
//! No answer carries a token, an authorization code or a key; what a login shows (a URL, a user's code) goes to the
//! operator who began it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{json_answer, refuse, sealed};
use super::guard::Objection;
use super::health::came_from_an_agent;
use super::logins::{Logins, owner};
use super::revoke;
use super::routes::{Act, Found, find};
use super::tail::{Live, Wanted};
use super::watcher::Watcher;
use crate::credential::BoxFuture;
use crate::tokens::{Door, GrantStatus, KeyFate, LoginError, Rotated, Selection, Standing};
use crate::vocab::{AgentName, Code, GrantId, ServiceName};

/// How long a handshake, a head, and then a body, may take to arrive.
pub(super) const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// What the API is like, for programs.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
/// Longest body of a request.
const BODY_MAX: usize = 16 * 1024;

/// What an answer's body is: a document, or lines that go on.
pub(super) type Said = Either<Full<Bytes>, Live>;

/// What operators are told, and what they may do.
pub struct Desk {
    door: Arc<Door>,
    logins: Logins,
    facts: DeskFacts,
}

/// What does not change while we run.
pub struct DeskFacts {
    /// The agents of the configuration in force.
    pub agents: Box<dyn Fn() -> Vec<AgentName> + Send + Sync>,
    /// Ends every exchange that rides on what this selection is about and the door has stopped. How many.
    pub sever: Box<dyn Fn(&Selection) -> usize + Send + Sync>,
    /// Forgets the sessions that an API has opened for a grant: it has other credentials now.
    pub renewed: Arc<Renewed>,
    /// Has the configuration read again.
    pub reload: Reload,
    /// What protects the process, by name, and whether it holds.
    pub protections: Vec<(&'static str, bool)>,
    /// Where refresh tokens are kept: `file` or `memory`.
    pub store: &'static str,
    /// What is noted of those who are turned away.
    pub watcher: Watcher,
}

/// Is told of a grant that somebody has renewed.
pub(super) type Renewed = dyn Fn(&GrantId) + Send + Sync;

/// Reads the configuration again and takes it into force: the number of the generation that is in force then, or
/// everything that is wrong with the file, line by line.
pub type Reload = Box<dyn Fn() -> BoxFuture<'static, Result<u64, Vec<String>>> + Send + Sync>;

impl Desk {
    /// A desk over these grants.
    #[must_use]
    pub fn new(door: Arc<Door>, facts: DeskFacts) -> Self {
        Self {
            logins: Logins::new(Arc::clone(&door), Arc::clone(&facts.renewed)),
            door,
            facts,
        }
    }

    /// Answers one request. `place`: its connection's.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> Response<Said> {
        if came_from_an_agent(&request) {
            let what = "not by way of the proxy";
            return refuse(StatusCode::FORBIDDEN, "forbidden", what).map(Either::Left);
        }
        let (head, body) = request.into_parts();
        let (act, named) = match find(&head.method, head.uri.path()) {
            Found::Act(act, named) => (act, named),
            Found::OtherMethod => {
                let what = "this is not done with this method";
                let refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, "method", what);
                return refusal.map(Either::Left);
            }
            Found::Nothing => {
                let refusal = refuse(StatusCode::NOT_FOUND, "not_found", "nothing is here");
                return refusal.map(Either::Left);
            }
        };
        let query = head.uri.query().unwrap_or_default();
        if act == Act::Follow {
            return self.follow(query);
        }
        let about = (named, query);
        self.act(act, about, body, place).await.map(Either::Left)
    }

    /// Does what has several steps, to its end: an operator who does not wait for the answer must not leave it half done.
    /// It keeps its connection's place until then, so there are no more of them than connections.
    async fn carry_out(
        self: &Arc<Self>,
        act: Act,
        wish: Wish,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> Response<Full<Bytes>> {
        let (desk, place) = (Arc::clone(self), Arc::clone(place));
        let done = tokio::spawn(async move {
            let answer = match act {
                Act::Rotate => desk.rotate(&wish).await,
                Act::Revoke => revoke::revoke(&desk.door, &desk.facts, &wish).await,
                _ => revoke::reload(&desk.door, &desk.facts).await,
            };
            drop(place);
            answer
        });
        done.await.unwrap_or_else(|_| {
            let what = "this went wrong inside; `status` says how things stand";
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal", what)
        })
    }

    async fn act(
        self: &Arc<Self>,
        act: Act,
        (named, query): (&str, &str),
        body: Incoming,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> Response<Full<Bytes>> {
        match act {
            // What goes on is no document, and was answered before.
            Act::Describe | Act::Follow => described(),
            Act::LogIn => match self.read(body).await {
                Ok(wish) => self.begin(&wish).await,
                Err(refusal) => refusal,
            },
            Act::LoginCancel => {
                if self.logins.cancel(named) {
                    let cancelled = json!({"id": named, "state": "cancelled"});
                    json_answer(StatusCode::OK, &cancelled)
                } else {
                    no_such_login()
                }
            }
            Act::LoginShow => match self.logins.look(named, query == "wait=1").await {
                Some(found) => json_answer(StatusCode::OK, &found),
                None => no_such_login(),
            },
            Act::Logins => json_answer(StatusCode::OK, &self.logins.list()),
            Act::Rotate | Act::Reload | Act::Revoke => match self.read(body).await {
                Ok(wish) => self.carry_out(act, wish, place).await,
                Err(refusal) => refusal,
            },
            Act::Status => json_answer(StatusCode::OK, &self.status()),
        }
    }

    /// Lines as they are written, until the reader leaves.
    fn follow(&self, query: &str) -> Response<Said> {
        let Some(wanted) = Wanted::read(query) else {
            let what = "known here: agent=NAME, service=NAME, decision=allow|deny|abandoned";
            return refuse(StatusCode::BAD_REQUEST, "request", what).map(Either::Left);
        };
        let Some(tail) = self.facts.watcher.follow() else {
            let what = "eight follow already; end one of them";
            return refuse(StatusCode::TOO_MANY_REQUESTS, "busy", what).map(Either::Left);
        };
        let mut answer = Response::new(Either::Right(Live::new(tail, wanted)));
        sealed(&mut answer, "text/event-stream");
        answer
    }

    /// Answers a request that may not be answered.
    pub(super) fn object(&self, objection: Objection) -> Response<Said> {
        let refusal = match objection {
            Objection::Name => {
                let what = "this is not a name of the proxy: call it by its address, by localhost or by its certificate's name";
                refuse(StatusCode::MISDIRECTED_REQUEST, "host", what)
            }
            Objection::Page => {
                let what = "a page in a browser could have sent this: no Origin, and bodies as application/json";
                refuse(StatusCode::FORBIDDEN, "forbidden", what)
            }
            Objection::Token => {
                self.facts.watcher.admin_refused();
                let what = "the token of `admin.token` is needed, as Authorization: Bearer";
                let mut answer = refuse(StatusCode::UNAUTHORIZED, "unauthorized", what);
                let scheme = HeaderValue::from_static("Bearer");
                answer
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, scheme);
                answer
            }
        };
        refusal.map(Either::Left)
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
        let (service, agent) = (wish.service.as_ref(), wish.agent.as_ref());
        let done = self.door.rotate(service, agent, &*self.facts.renewed);
        let done = done.await;
        let all: Value = done.grants.iter().map(show_rotated).collect();
        let restored: Value = done
            .restored
            .iter()
            .map(|grant| json!({"service": grant.service.as_str(), "agent": owner(grant)}))
            .collect();
        json_answer(
            StatusCode::OK,
            &json!({"grants": all, "restored": restored}),
        )
    }

    fn status(&self) -> Value {
        let grants: Value = self.door.standing().iter().map(show_standing).collect();
        let services: Value = self
            .door
            .bindings()
            .iter()
            .map(|(name, binding)| {
                let revoked = self.door.stopped(name, &AgentName::everyone());
                json!({"service": name.as_str(), "binding": binding.as_str(), "revoked": revoked})
            })
            .collect();
        let stopped: Value = self.door.stops().iter().map(revoke::show_stop).collect();
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
            "stopped": stopped,
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
        "checked": token.checked.map(|checked| json!({
            "by": checked.by,
            "outcome": checked.outcome,
            "ago": checked.ago.as_secs(),
        })),
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

fn described() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(OPENAPI.as_bytes())));
    sealed(&mut answer, "application/json");
    answer
}

//! Writes the room's notes into the audit file and the metrics.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::journal::{Journal, Note, Standing};
use super::keeper::Reason;
use crate::audit::{Audit, Event};
use crate::metrics::{Metrics, Peer};
use crate::vocab::{Binding, GrantId};

/// How long a line may take to be written before something goes on without it.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Audit and metrics together.
pub(super) struct Ledger {
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
}

impl Journal for Ledger {
    fn note(&self, note: &Note<'_>) {
        self.count(note);
        if let Some(event) = event(note) {
            self.audit.event(event);
        }
        // Told beside the failure itself, which says what agents are told: here it is who was refused, and why.
        if let Some(event) = refused(note) {
            self.metrics.security_event(event.name());
            self.audit.event(event);
        }
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.audit.written(SETTLE_MAX))
    }
}

impl Ledger {
    #[expect(clippy::too_many_lines, reason = "a table: one arm a note")]
    fn count(&self, note: &Note<'_>) {
        let metrics = &self.metrics;
        if let Some((grant, event)) = life(note) {
            metrics.token_event(grant.service.as_str(), event);
        }
        match note {
            Note::BindingMismatch { grant } => {
                tracing::warn!(%grant, "the issuer bound a token to a key that is not ours");
                metrics.security_event("binding_mismatch");
            }
            Note::ClockOffset { service, seconds } => {
                // Offsets are bounded to minutes, which a float holds exactly.
                let seconds = i32::try_from(*seconds).unwrap_or(i32::MAX);
                metrics.clock_offset(service.as_str(), f64::from(seconds));
            }
            Note::DowngradeRefused { .. } => metrics.security_event("downgrade_refused"),
            Note::EndpointMoved { service } => {
                tracing::warn!(%service, "the issuer's metadata names another host than before");
                metrics.security_event("issuer_moved");
            }
            Note::GrantDead { grant, ending } => {
                tracing::error!(
                    %grant,
                    why = ending.as_str(),
                    "the grant is over: only a new login brings it back"
                );
                metrics.security_event(ending.as_str());
            }
            Note::GrantInDoubt { grant } => {
                tracing::warn!(%grant, "a refresh was cut off; its refresh token is tried again");
            }
            Note::NonceChallenge { service } => {
                metrics.nonce_challenge(service.as_str(), Peer::Issuer);
            }
            Note::NotRotated { grant } => {
                tracing::warn!(%grant, "the issuer does not rotate its refresh tokens");
                metrics.security_event("refresh_not_rotated");
            }
            Note::Proof { service } => metrics.dpop_proof(service.as_str()),
            Note::ScopeChanged { .. } => metrics.security_event("scope_changed"),
            Note::Stopped { compromise, .. } => {
                metrics.security_event(if *compromise {
                    "compromised"
                } else {
                    "revoked"
                });
            }
            Note::Suspected { grant, reason } => {
                tracing::warn!(%grant, why = reason, "a grant gets a new key and new tokens");
                metrics.security_event("grant_suspected");
            }
            Note::TooFast { grant, excess } => {
                let (had, expected) = (excess.had, excess.expected);
                tracing::warn!(%grant, had, expected, "tokens come faster than their lives explain");
                metrics.security_event("token.refresh_rate");
            }
            Note::Standing {
                service,
                binding,
                standing,
            } => self.stand(service.as_str(), *binding, *standing),
            Note::Checked { .. }
            | Note::Dropped { .. }
            | Note::Exchanged { .. }
            | Note::Failed { .. }
            | Note::Issued { .. }
            | Note::KeyRotated { .. }
            | Note::Restored { .. }
            | Note::RevocationPending { .. }
            | Note::Revoked { .. } => {}
        }
    }

    fn stand(&self, service: &str, binding: Binding, standing: Standing) {
        let live = standing.healthy + standing.unknown + standing.degraded;
        self.metrics.tokens(service, binding, "live", live);
        let health = [
            ("healthy", standing.healthy),
            ("unknown", standing.unknown),
            ("degraded", standing.degraded),
            ("failed", standing.failed),
        ];
        for (state, grants) in health {
            self.metrics.token_health(service, state, grants);
        }
    }
}

/// What happened in the life of a token, in the words of the metric.
fn life<'a>(note: &Note<'a>) -> Option<(&'a GrantId, &'static str)> {
    Some(match *note {
        Note::Checked { grant, outcome, .. } => match outcome {
            "active" => (grant, "checked"),
            "inactive" => (grant, "found_inactive"),
            _ => (grant, "check_unanswered"),
        },
        Note::Dropped { grant, reason, .. } => match reason {
            Reason::Expired => (grant, "expired"),
            _ => (grant, "dropped"),
        },
        Note::Exchanged { grant, .. } => (grant, "exchanged"),
        Note::Failed { grant, .. } => (grant, "failed"),
        Note::GrantInDoubt { grant } => (grant, "in_doubt"),
        Note::Issued { grant, renewal, .. } if renewal => (grant, "refreshed"),
        Note::Issued { grant, .. } => (grant, "issued"),
        Note::KeyRotated { grant } => (grant, "key_rotated"),
        Note::Revoked {
            grant, confirmed, ..
        } if confirmed => (grant, "revoked"),
        Note::Revoked { grant, .. } => (grant, "revocation_failed"),
        Note::RevocationPending { grant, .. } => (grant, "revocation_pending"),
        _ => return None,
    })
}

/// The audit line of a note, where it has one.
fn event(note: &Note<'_>) -> Option<Event> {
    Some(match *note {
        Note::Checked { .. } | Note::ScopeChanged { .. } | Note::TooFast { .. } => {
            return seen(note);
        }
        Note::DowngradeRefused { grant } => Event::DowngradeRefused {
            grant: grant.clone(),
        },
        Note::Dropped { .. } => return dropped(note),
        Note::Exchanged { grant, chain } => Event::TokenExchanged {
            grant: grant.clone(),
            chain: chain.to_vec(),
        },
        Note::Failed { grant, failure } => Event::TokenRequestFailed {
            grant: grant.clone(),
            code: failure.code,
            oauth_error: failure.oauth_error,
        },
        Note::GrantDead { grant, ending } => Event::GrantDead {
            grant: grant.clone(),
            reason: ending.as_str(),
        },
        Note::KeyRotated { grant } => Event::KeyRotated {
            grant: grant.clone(),
        },
        Note::GrantInDoubt { grant } => Event::GrantInDoubt {
            grant: grant.clone(),
        },
        Note::Issued { .. } => return issued(note),
        Note::NotRotated { grant } => Event::RefreshNotRotated {
            grant: grant.clone(),
        },
        Note::Revoked { .. }
        | Note::RevocationPending { .. }
        | Note::Stopped { .. }
        | Note::Restored { .. }
        | Note::Suspected { .. } => return ended(note),
        // Told by the failure that follows, or by metrics alone.
        Note::BindingMismatch { .. }
        | Note::ClockOffset { .. }
        | Note::EndpointMoved { .. }
        | Note::NonceChallenge { .. }
        | Note::Proof { .. }
        | Note::Standing { .. } => return None,
    })
}

/// What the operator, or a suspicion, has ended.
fn ended(note: &Note<'_>) -> Option<Event> {
    Some(match *note {
        Note::Revoked {
            grant,
            kind,
            lease,
            confirmed,
        } => Event::TokenRevoked {
            grant: grant.clone(),
            kind,
            token_id: lease,
            confirmed,
        },
        Note::RevocationPending { grant, kind } => Event::RevocationPending {
            grant: grant.clone(),
            kind,
        },
        Note::Stopped {
            selection,
            compromise,
        } => Event::AccessRevoked {
            service: selection.service.clone(),
            agent: selection.agent.clone(),
            compromise,
        },
        Note::Restored { selection } => Event::AccessRestored {
            service: selection.service.clone(),
            agent: selection.agent.clone(),
        },
        Note::Suspected { grant, reason } => Event::GrantSuspected {
            grant: grant.clone(),
            reason,
        },
        _ => return None,
    })
}

/// What was noticed of a token or of its issuer.
fn seen(note: &Note<'_>) -> Option<Event> {
    Some(match *note {
        Note::Checked {
            grant,
            lease,
            by,
            outcome,
            proofs,
        } => Event::TokenHealth {
            grant: grant.clone(),
            token_id: lease,
            by,
            outcome,
            proofs: proofs.to_vec(),
        },
        Note::ScopeChanged {
            grant,
            requested,
            granted,
            taken,
        } => Event::ScopeChanged {
            grant: grant.clone(),
            requested: requested.clone(),
            granted: granted.clone(),
            taken,
        },
        Note::TooFast { grant, excess } => Event::RefreshRate {
            grant: grant.clone(),
            had: excess.had,
            expected: excess.expected,
        },
        _ => return None,
    })
}

/// The issuer said no to us, in one of the standards' words.
fn refused(note: &Note<'_>) -> Option<Event> {
    let Note::Failed { grant, failure } = *note else {
        return None;
    };
    failure.oauth_error.map(|error| Event::IssuerAuthFailed {
        grant: grant.clone(),
        error,
    })
}

/// A token's last line: it came to its end, or was given up before.
fn dropped(note: &Note<'_>) -> Option<Event> {
    let Note::Dropped {
        grant,
        lease: token_id,
        reason,
    } = *note
    else {
        return None;
    };
    let grant = grant.clone();
    Some(match reason {
        Reason::Expired => Event::TokenExpired { grant, token_id },
        _ => Event::TokenDropped {
            grant,
            token_id,
            reason: reason.as_str(),
        },
    })
}

/// A token's first line: it is new, or it follows another.
fn issued(note: &Note<'_>) -> Option<Event> {
    let Note::Issued {
        grant,
        lease,
        scopes,
        binding,
        jkt,
        expires_in,
        renewal,
    } = *note
    else {
        return None;
    };
    let (grant, scopes, jkt) = (grant.clone(), scopes.clone(), jkt.map(Into::into));
    Some(if renewal {
        Event::TokenRefreshed {
            grant,
            scopes,
            expires_in,
            binding,
            jkt,
            token_id: lease,
        }
    } else {
        Event::TokenIssued {
            grant,
            scopes,
            expires_in,
            binding,
            jkt,
            token_id: lease,
        }
    })
}

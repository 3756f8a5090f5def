//! What an agent does that is not usual for it: found by its watch (`agent::Watch`), noted, and refused where the
//! configuration says so. For an agent without one this is a look at an empty place.

use super::accept::Doors;
use super::proxy::Caller;
use crate::agent::{Action, Sighting};
use crate::audit::Event;
use crate::exchange::Refusal;
use crate::vocab::Code;

impl Doors {
    /// Whether a call is usual enough to go on. `request`: it counts as one; a CONNECT does not.
    pub(super) fn usual(&self, caller: &Caller, request: bool) -> Result<(), Refusal> {
        let watch = caller.quota.watch.load();
        let Some(watch) = &*watch else {
            return Ok(());
        };
        let found = watch.see(&Sighting {
            from: caller.from,
            wall: self.clock.wall(),
            now: self.clock.now(),
            request,
        });
        let mut denied = false;
        for finding in found {
            denied |= finding.deny;
            let action = if finding.deny {
                watch.settings().action
            } else {
                Action::Log
            };
            let event = Event::Anomaly {
                agent: caller.agent.name().clone(),
                what: finding.what.event(),
                action: action.as_str(),
                source: caller.from,
            };
            if finding.tell {
                self.exchange.event(event);
                // Once: what is revoked stays so until the operator lifts it.
                if action == Action::Revoke {
                    (self.alarm)(caller.agent.name());
                }
            } else {
                self.metrics.security_event(event.name());
            }
        }
        if denied {
            return Err(Code::AnomalyDenied.into());
        }
        Ok(())
    }
}

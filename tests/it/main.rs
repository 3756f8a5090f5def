//! The house as a whole: a strict issuer and strict APIs, the proxy started from a configuration file, and agents that
//! call through it. Real sockets only.

#![expect(
    clippy::too_many_lines,
    reason = "a test tells one story from its start to its end"
)]

#[cfg(test)]
mod kit;

#[cfg(test)]
mod admin;
#[cfg(test)]
mod agents;
#[cfg(test)]
mod attacked;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod canary;
#[cfg(test)]
mod challenges;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod cookies;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod expect;
#[cfg(test)]
mod fapi;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod guard;
mod heads;
#[cfg(test)]
mod health;
#[cfg(test)]
mod hygiene;
#[cfg(test)]
mod incident;
#[cfg(test)]
mod issuer;
#[cfg(test)]
mod leakcheck;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod outgoing;
#[cfg(test)]
mod parent;
#[cfg(test)]
mod pipes;
#[cfg(test)]
mod prompts;
#[cfg(test)]
mod refusals;
mod reload;
#[cfg(test)]
mod revoke;
#[cfg(test)]
mod scopes;
#[cfg(test)]
mod store;
#[cfg(test)]
mod story;
#[cfg(test)]
mod transparent;
#[cfg(test)]
mod watch;

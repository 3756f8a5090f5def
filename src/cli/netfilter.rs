//! `netfilter`: the rules that lead connections here and let nothing else out.

use std::process::ExitCode;

use serde_json::json;

use super::args::{Args, NetfilterVerb, NetfilterWish, RulesFormat, RulesShape};
use super::serve::plan_without_secrets;
use super::{Failure, out};
use crate::app::netfilter::{self, Family, Ground, Shape};

pub(super) fn netfilter(args: &Args, verb: &NetfilterVerb) -> Result<ExitCode, Failure> {
    match verb {
        NetfilterVerb::Print(wish) => print(args, wish),
        NetfilterVerb::Apply(wish) => apply(args, wish),
        NetfilterVerb::Remove { tproxy, format } => {
            let removed = netfilter::remove(*format == RulesFormat::Iptables, *tproxy);
            runtime()?.block_on(removed).map_err(failure)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print(args: &Args, wish: &NetfilterWish) -> Result<ExitCode, Failure> {
    let ground = ground(args, wish)?;
    let texts = match wish.format {
        RulesFormat::Nft => vec![("nft", ground.nft())],
        RulesFormat::Iptables => [Family::V4, Family::V6]
            .map(|family| (family.program(), ground.legacy(family, "")))
            .to_vec(),
    };
    if args.json {
        let texts: serde_json::Map<_, _> = texts
            .into_iter()
            .map(|(program, text)| (program.to_owned(), text.into()))
            .collect();
        out::data(&format!("{:#}\n", json!({ "rules": texts })));
    } else {
        let texts: Vec<_> = texts.into_iter().map(|(_, text)| text).collect();
        out::data(&texts.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn apply(args: &Args, wish: &NetfilterWish) -> Result<ExitCode, Failure> {
    let ground = ground(args, wish)?;
    let applied = netfilter::apply(&ground, wish.format == RulesFormat::Iptables);
    let seen = runtime()?.block_on(applied).map_err(failure)?;
    if args.json {
        let seen = json!({ "covered": seen.families, "unserved": ground.unserved() });
        out::data(&format!("{seen:#}\n"));
    } else {
        let families = seen.families.join(" and ");
        out::data(&format!("{families} are covered, says {}\n", seen.by));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the rules are made from. A family without a listener is worth a word: everything of it will be rejected.
fn ground(args: &Args, wish: &NetfilterWish) -> Result<Ground, Failure> {
    let plan = plan_without_secrets(args)?;
    let shape = match (wish.shape, wish.exempt_gid, &wish.interface) {
        (RulesShape::Sidecar, Some(gid), None) => Shape::Sidecar { gid },
        (RulesShape::Gateway, None, Some(interface)) => Shape::Gateway {
            interface: interface.clone(),
        },
        (RulesShape::Sidecar, _, _) => {
            return Err(Failure(
                "netfilter: a sidecar takes --exempt-gid, and no --interface".into(),
            ));
        }
        (RulesShape::Gateway, _, _) => {
            return Err(Failure(
                "netfilter: a gateway takes --interface, and no --exempt-gid".into(),
            ));
        }
    };
    let resolvers = netfilter::resolvers();
    let ground = Ground::of(&plan, shape, wish.tproxy, resolvers).map_err(failure)?;
    for family in ground.unserved() {
        out::say(&format!(
            "tokenward: {family} has no address in listen.transparent: all that agents send over it is rejected"
        ));
    }
    Ok(ground)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(Failure::of)
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure(format!("netfilter: {error}"))
}

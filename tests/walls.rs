//! The walls of the house. `ARCHITECTURE.md` says which room may know which, which package has which home and how a
//! request walks; these tests read that page and hold the source to it, so that neither can rot without the other.
//!
//! A failure names the file, the rule and what to do. An exception stands in a list here, with its reason.

#[path = "walls/house.rs"]
mod house;
#[path = "walls/planted.rs"]
mod planted;
#[path = "walls/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use house::Exceptions;
use source::Source;

type Outcome = Result<(), Box<dyn Error>>;

/// Who may look at the inside of a `Secret`.
const EXPOSE: &Exceptions = &[
    (
        "admin/caller.rs",
        "the operator's token is shown to the proxy that it is for",
    ),
    (
        "admin/guard.rs",
        "the operator's token is hashed, and no longer kept",
    ),
    (
        "app/environment.rs",
        "an agent's own proxy token goes into that agent's environment",
    ),
    (
        "ca/instance.rs",
        "the instance key is written to its file, mode 0600",
    ),
    (
        "ca/key.rs",
        "the CA's key signs here and is written to its file, mode 0600",
    ),
    ("ca/root.rs", "a CA key from the configuration is parsed"),
    (
        "config/compile.rs",
        "secrets are checked to be text that can be sent",
    ),
    (
        "config/compile/admin.rs",
        "the operator's token is warned about where it is short",
    ),
    (
        "config/compile/agents.rs",
        "a proxy token is hashed, and warned about where it is short",
    ),
    (
        "config/compile/authentication.rs",
        "a client certificate, public but read as secrets are, is checked against its key",
    ),
    (
        "config/compile/pem.rs",
        "private keys are checked to be usable before anything starts",
    ),
    (
        "cli/leakcheck.rs",
        "a list of values to look for is cut into lines",
    ),
    (
        "config/same.rs",
        "secrets of two generations are compared, in constant time",
    ),
    (
        "credential/certificate.rs",
        "a client's key becomes a handle that signs",
    ),
    (
        "credential/lease.rs",
        "the token becomes a header value, marked sensitive",
    ),
    (
        "credential/placeholder.rs",
        "placeholders are derived from the instance key",
    ),
    (
        "exchange/cookies/jar.rs",
        "cookies that were kept become the field of a request, marked sensitive",
    ),
    (
        "listen/listener.rs",
        "a listener's private key is parsed where TLS is set up",
    ),
    (
        "leak/canary.rs",
        "values that are looked for become the patterns of the search",
    ),
    ("proof/key.rs", "a DPoP key is parsed"),
    (
        "store/seal.rs",
        "the operator's key is parsed, and a file's key is derived from it",
    ),
    (
        "tokens/identity.rs",
        "a client certificate, public but read as secrets are, is parsed",
    ),
    (
        "tokens/issuer/",
        "client secrets, keys and tokens as the issuer's protocol has them",
    ),
    (
        "tokens/lineage.rs",
        "two refresh tokens are compared, in constant time",
    ),
    (
        "tokens/lineage/row.rs",
        "a refresh token and its key become the row that is sealed",
    ),
    (
        "tokens/probe.rs",
        "the token becomes a header of the request that asks after it, marked sensitive",
    ),
    (
        "tokens/retired.rs",
        "tokens to be revoked are told apart by their hash",
    ),
    (
        "tokens/settings.rs",
        "credentials of two generations are compared, in constant time",
    ),
    (
        "tokens/supply.rs",
        "a token or assertion is checked to be one line that can be sent",
    ),
    (
        "upstream/issuer.rs",
        "the form of a token request is written",
    ),
    (
        "upstream/parent.rs",
        "the parent proxy's credential becomes the line of a head, wiped with it",
    ),
];

/// Who may ask for the time.
const TIME: &Exceptions = &[
    (
        "exchange/body.rs",
        "tokio's own clock, to move the deadlines of timers, and for how long one of them ran",
    ),
    (
        "exchange/kept.rs",
        "tokio's own clock, for how long a timer of its own ran",
    ),
    (
        "exchange/taking.rs",
        "tokio's own clock, for the deadline of a timer",
    ),
    (
        "listen/intercept.rs",
        "tokio's own clock, for the end of a handshake",
    ),
    (
        "listen/linger.rs",
        "tokio's own clock, for the two ends of a wait on a socket",
    ),
    (
        "listen/stall.rs",
        "tokio's own clock, to move the deadline of a timer",
    ),
    (
        "listen/transparent.rs",
        "tokio's own clock, for the end of a handshake",
    ),
    ("vocab/clock.rs", "the one place where time enters"),
];

/// Who may read the environment.
const ENVIRONMENT: &Exceptions = &[(
    "config/env.rs",
    "the one place where the environment enters",
)];

/// Who may take a DPoP key out of its signer.
const SEALABLE: &Exceptions = &[(
    "tokens/lineage.rs",
    "a key outlives the process with the refresh token that is bound to it, sealed",
)];

/// Who may make an `Arrival`.
const ARRIVAL: &Exceptions = &[(
    "listen/",
    "the doors, which know the caller and the destination",
)];

/// Who may talk to issuers.
const ISSUER: &Exceptions = &[
    ("tokens/", "everything that speaks OAuth"),
    ("upstream/", "it is made here"),
];

/// Where a broken variant may have its hook. A file needs more than a habit to stand here: the hook is out of the
/// program without the feature, but it is in the reader's way.
const VARIANTS: &Exceptions = &[
    ("audit/record.rs", "audit-gap"),
    ("cli/mod.rs", "the variant is chosen at the start"),
    ("credential/attach.rs", "bearer-downgrade, token-in-log"),
    (
        "credential/strip.rs",
        "any-placeholder, framing-kept, strip-nothing",
    ),
    ("exchange/arrival.rs", "crash"),
    (
        "exchange/attempts.rs",
        "echo-upstream-errors, nonce-uncapped, pass-through",
    ),
    ("exchange/guard.rs", "reflects-proof"),
    ("exchange/respond.rs", "echo-upstream-errors"),
    ("exchange/story.rs", "dials-first"),
    ("exchange/variant.rs", "decides-once, redirect-follower"),
    ("listen/connect.rs", "dials-first"),
    ("listen/intercept.rs", "host-trusting"),
    ("listen/watched.rs", "bare-lf, framing-kept"),
    ("policy/catalogue.rs", "suffix-without-dot"),
    ("policy/decide.rs", "pass-through"),
    ("upstream/address.rs", "private-allowed"),
    ("upstream/dial.rs", "echo-upstream-errors, rebinding"),
    ("upstream/key.rs", "pool-unkeyed"),
    ("upstream/lookup.rs", "echo-upstream-errors"),
    ("upstream/pool.rs", "pool-unkeyed"),
    ("upstream/tls.rs", "echo-upstream-errors"),
    (
        "upstream/variant.rs",
        "framing-kept, trusts-any-certificate",
    ),
    ("vocab/path.rs", "path-as-sent"),
];

/// Where a build for tests may do what no other may.
const DANGER: &Exceptions = &[
    ("cli/args.rs", "`--version` says it"),
    ("cli/mod.rs", "every start says it"),
    (
        "config/compile/issuers.rs",
        "an issuer on loopback in clear text",
    ),
    (
        "policy/snapshot.rs",
        "a credential to loopback in clear text",
    ),
    ("proof/uri.rs", "proofs name the scheme that is used"),
    ("upstream/issuer.rs", "an issuer on loopback in clear text"),
    ("upstream/mod.rs", "a credential to loopback in clear text"),
];

/// Variants that have a name and wait for the check that they will leave out.
const VARIANTS_TO_COME: &[&str] = &[];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(name: &str) -> Result<String, String> {
    fs::read_to_string(root().join(name)).map_err(|e| format!("{name}: {e}"))
}

/// Everything under `src/`, read once for all tests.
fn sources() -> Result<&'static [Source], String> {
    static SOURCES: OnceLock<Result<Vec<Source>, String>> = OnceLock::new();
    let read = || source::sources(&root().join("src")).map_err(|e| format!("src: {e}"));
    SOURCES.get_or_init(read).as_deref().map_err(Clone::clone)
}

/// Fails with one line for each violation.
fn none(found: Vec<String>) -> Outcome {
    if found.is_empty() {
        Ok(())
    } else {
        Err(format!("{} violations\n{}", found.len(), found.join("\n")).into())
    }
}

#[test]
fn every_room_is_in_the_table_and_every_row_is_a_room() -> Outcome {
    none(house::unlisted(
        &house::rooms(&read("ARCHITECTURE.md")?)?,
        sources()?,
    ))
}

#[test]
fn rooms_import_downwards_and_never_across_the_wings() -> Outcome {
    let rooms = house::rooms(&read("ARCHITECTURE.md")?)?;
    none(
        sources()?
            .iter()
            .flat_map(|source| house::imports(&rooms, source))
            .collect(),
    )
}

#[test]
fn the_rehearsal_judges_with_code_of_its_own() -> Outcome {
    let rooms = house::rooms(&read("ARCHITECTURE.md")?)?;
    let sources = sources()?.iter();
    none(
        sources
            .flat_map(|source| house::partial(&rooms, source))
            .collect(),
    )
}

#[test]
fn no_rooms_import_each_other_in_a_circle() -> Outcome {
    let rooms = house::rooms(&read("ARCHITECTURE.md")?)?;
    let edges = house::edges(&rooms, sources()?);
    let circle: BTreeSet<String> = house::circles(&edges).into_iter().collect();
    let inside = edges
        .iter()
        .filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
    let report = |((from, to), place): (&(String, String), &String)| {
        format!(
            "{place}: `{from}` imports `{to}`, which leads back to `{from}`; cut the circle where it is thinnest"
        )
    };
    none(inside.map(report).collect())
}

#[test]
fn the_program_knows_the_command_line_and_nothing_else() -> Outcome {
    let sources = sources()?;
    let main = sources.iter().filter(|source| source.path == "main.rs");
    let strays = main.flat_map(|source| &source.all_paths).filter(|named| {
        named.segments.first().is_some_and(|s| s == "tokenward")
            && named.segments.get(1).is_none_or(|s| s != "cli")
    });
    none(
        strays
            .map(|named| {
                format!(
                    "src/main.rs:{}: only `cli` is called here; move the rest there",
                    named.line
                )
            })
            .collect(),
    )
}

#[test]
fn files_can_be_read_as_one_thing() -> Outcome {
    none(sources()?.iter().filter_map(house::long).collect())
}

#[test]
fn secrets_are_exposed_where_a_reason_is_given() -> Outcome {
    let rule = "a secret leaves its wrapper; hand on the `Secret`, or add the file with a reason to EXPOSE in tests/walls.rs";
    let found = |source: &Source, homes: &Exceptions| {
        let mut found = house::calls(source, homes, "expose", rule);
        found.extend(house::only_in(source, homes, &["Secret", "expose"], rule));
        found
    };
    let sources = sources()?;
    let mut all: Vec<String> = sources
        .iter()
        .flat_map(|source| found(source, EXPOSE))
        .collect();
    all.extend(house::stale(EXPOSE, sources, |source| {
        !found(source, &[]).is_empty()
    }));
    none(all)
}

#[test]
fn a_proof_key_leaves_its_signer_for_the_store_alone() -> Outcome {
    let rule = "a DPoP key never leaves its signer but for the store; sign through the `Signer`";
    let sources = sources()?;
    let found = |source: &Source, homes: &Exceptions| house::calls(source, homes, "sealable", rule);
    let mut all: Vec<String> = sources
        .iter()
        .flat_map(|source| found(source, SEALABLE))
        .collect();
    all.extend(house::stale(SEALABLE, sources, |source| {
        !found(source, &[]).is_empty()
    }));
    none(all)
}

#[test]
fn time_enters_through_the_clock() -> Outcome {
    let rule = "time is an argument; take a `vocab::Clock`, or a `Stopwatch` for a duration";
    let found = |source: &Source, homes: &Exceptions| {
        let mut found = house::only_in(source, homes, &["Instant", "now"], rule);
        found.extend(house::only_in(source, homes, &["SystemTime", "now"], rule));
        found
    };
    let sources = sources()?;
    let mut all: Vec<String> = sources
        .iter()
        .flat_map(|source| found(source, TIME))
        .collect();
    all.extend(house::stale(TIME, sources, |source| {
        !found(source, &[]).is_empty()
    }));
    none(all)
}

#[test]
fn the_environment_is_read_in_one_file() -> Outcome {
    let rule = "nothing changes behaviour from afar; let `config` read it and pass it on";
    let words = ["var", "var_os", "vars", "vars_os", "set_var", "remove_var"];
    let of = |source: &Source| -> Vec<String> {
        words
            .iter()
            .flat_map(|word| house::only_in(source, ENVIRONMENT, &["env", word], rule))
            .collect()
    };
    none(sources()?.iter().flat_map(of).collect())
}

#[test]
fn broken_variants_stay_where_they_are_listed() -> Outcome {
    let rule = "a broken variant has no hook here; add the file to VARIANTS in tests/walls.rs, or find a listed place";
    let asks = |source: &Source, homes: &Exceptions| {
        let words = ["broken", "choose", "overhear", "overheard"];
        let of = |word: &&str| house::only_in(source, homes, &["variant", word], rule);
        words.iter().flat_map(of).collect::<Vec<String>>()
    };
    let sources = sources()?;
    let mut all: Vec<String> = sources
        .iter()
        .flat_map(|source| asks(source, VARIANTS))
        .collect();
    all.extend(house::stale(VARIANTS, sources, |source| {
        !asks(source, &[]).is_empty()
    }));
    none(all)
}

#[test]
fn every_broken_variant_is_broken_somewhere_and_none_can_be_shipped() -> Outcome {
    let list = read("src/vocab/variant.rs")?;
    let names = list
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = \""))
        .map(|(variant, _)| variant);
    let hooked = |variant: &str| {
        let hook = format!("Variant::{variant})");
        let of = |source: &Source| source.production.contains(&hook);
        sources().is_ok_and(|all| all.iter().any(of))
    };
    let names: Vec<&str> = names.collect();
    let wrong = |variant: &&str| hooked(variant) == VARIANTS_TO_COME.contains(variant);
    let tell = |variant: &&str| {
        format!("src/vocab/variant.rs: {variant} has no hook, or is listed as waiting for one")
    };
    let mut found: Vec<String> = names
        .iter()
        .copied()
        .filter(wrong)
        .map(|v| tell(&v))
        .collect();
    if names.len() < 10 {
        found.push("src/vocab/variant.rs: its list could not be read".to_owned());
    }
    found.extend(shipped("variants")?);
    none(found)
}

/// Whether the manifest or the image brings a feature with it that is for tests alone.
fn shipped(feature: &str) -> Result<Option<String>, String> {
    let asked = format!("\"{feature}");
    let pulled = read("Cargo.toml")?
        .lines()
        .any(|line| line.contains(&asked));
    let built = read("Dockerfile")?.contains(feature);
    let tell =
        || format!("Cargo.toml, Dockerfile: nothing may bring the feature `{feature}` with it");
    Ok((pulled || built).then(tell))
}

#[test]
fn what_is_dangerous_is_asked_where_it_is_listed_and_cannot_be_shipped() -> Outcome {
    let rule = "what only a build for tests may do has no place here; add the file to DANGER in tests/walls.rs";
    let asks =
        |source: &Source, homes: &Exceptions| house::only_in(source, homes, &["danger"], rule);
    let sources = sources()?;
    let mut found: Vec<String> = sources
        .iter()
        .flat_map(|source| asks(source, DANGER))
        .collect();
    found.extend(house::stale(DANGER, sources, |source| {
        !asks(source, &[]).is_empty()
    }));
    found.extend(shipped("danger-")?);
    none(found)
}

#[test]
fn only_the_doors_make_arrivals() -> Outcome {
    let rule = "an arrival says who calls and where to; only a door under src/listen/ knows both";
    none(
        sources()?
            .iter()
            .flat_map(|source| house::only_in(source, ARRIVAL, &["Arrival", "new"], rule))
            .collect(),
    )
}

#[test]
fn only_the_token_room_talks_to_issuers() -> Outcome {
    let rule = "OAuth stays in `tokens`; ask the door (`credential::Source`) for a lease instead";
    let of = |source: &Source| -> Vec<String> {
        let mut found = house::only_in(source, ISSUER, &["IssuerClient"], rule);
        found.extend(house::only_in(
            source,
            ISSUER,
            &["IssuerClient", "new"],
            rule,
        ));
        found
    };
    none(sources()?.iter().flat_map(of).collect())
}

#[test]
fn packages_stay_at_home() -> Outcome {
    let packages = house::packages(&read("ARCHITECTURE.md")?);
    none(
        sources()?
            .iter()
            .flat_map(|source| house::strays(&packages, source))
            .collect(),
    )
}

#[test]
fn every_dependency_has_a_home() -> Outcome {
    let named: BTreeSet<String> = house::packages(&read("ARCHITECTURE.md")?)
        .into_iter()
        .map(|p| p.name)
        .collect();
    let used = house::dependencies(&read("Cargo.toml")?);
    let missing = used.difference(&named).map(|name| {
        format!("Cargo.toml: `{name}` has no home; give it a row in the table of packages in ARCHITECTURE.md")
    });
    let gone = named.difference(&used).map(|name| {
        format!("ARCHITECTURE.md: package `{name}` is no dependency; remove it from the table")
    });
    none(missing.chain(gone).collect())
}

#[test]
fn the_readme_lists_every_code_and_no_other() -> Outcome {
    let known = house::codes(&read("src/vocab/code.rs")?);
    let rows = house::table(&read("README.md")?, &["code", "status"]);
    let told: BTreeSet<(String, String)> = rows
        .iter()
        .flat_map(|row| {
            let code = row[0].trim_matches('`').to_owned();
            let statuses = row[1]
                .split(',')
                .map(|status| status.trim().to_owned())
                .collect::<Vec<_>>();
            statuses
                .into_iter()
                .map(move |status| (code.clone(), status))
        })
        .collect();
    let missing = known.difference(&told).map(|(code, status)| {
        format!("README.md: code `{code}` with status {status} is not in the table of codes; agents are told it, so describe it")
    });
    let gone = told.difference(&known).map(|(code, status)| {
        format!("README.md: code `{code}` with status {status} is not in src/vocab/code.rs; correct the row")
    });
    none(missing.chain(gone).collect())
}

#[test]
fn codes_that_cannot_occur_are_marked() -> Outcome {
    let rows = house::table(&read("README.md")?, &["code", "status", "meaning", "today"]);
    let marked = |code: &String| {
        rows.iter()
            .any(|row| row[0].trim_matches('`') == code && row[3] == "not yet")
    };
    let unused = house::unused_codes(&read("src/vocab/code.rs")?, sources()?);
    let wrong = unused.iter().filter(|code| !marked(code));
    none(
        wrong
            .map(|code| {
                format!("README.md: nothing in src/ ever answers `{code}`; mark its row `not yet`")
            })
            .collect(),
    )
}

#[test]
fn every_metric_is_documented_and_no_other() -> Outcome {
    let known = house::metrics(&read("src/metrics/names.rs")?);
    let readme = read("README.md")?;
    let mut text = readme.clone();
    if let Ok(pages) = fs::read_dir(root().join("docs")) {
        for page in pages {
            let path = page?.path();
            if path.extension().is_some_and(|kind| kind == "md") {
                text.push_str(&fs::read_to_string(path)?);
            }
        }
    }
    let rows = house::table(&readme, &["metric"]);
    let told: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| house::metrics(&row[0]))
        .collect();
    let told_anywhere = house::metrics(&text);
    let missing = known.difference(&told_anywhere).map(|name| {
        format!("README.md: metric `{name}` is not described; add it to the table of metrics")
    });
    let gone = told.difference(&known).map(|name| {
        format!("README.md: metric `{name}` is not in src/metrics/names.rs; correct the row")
    });
    none(missing.chain(gone).collect())
}

#[test]
fn the_page_and_the_code_tell_the_same_story() -> Outcome {
    let code = read("src/exchange/story.rs")?;
    let code = code
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .map(str::to_owned);
    let page = read("ARCHITECTURE.md")?;
    let section = page
        .lines()
        .skip_while(|line| *line != "## Life of a request")
        .skip(1);
    let section = section
        .take_while(|line| !line.starts_with("## "))
        .map(str::to_owned);
    let (told, walked) = (house::story(section), house::story(code));
    let same = told == walked && !told.is_empty();
    none(if same {
        Vec::new()
    } else {
        vec![format!(
            "src/exchange/story.rs: its list and `Life of a request` in ARCHITECTURE.md differ; change both in one commit\n  \
             page: {told:#?}\n  code: {walked:#?}"
        )]
    })
}

/// The image's first stage knows the manifest and stand-ins for `src` alone. A target without a path is looked for on the disk, and
/// where it is not there the manifest is refused.
#[test]
fn the_manifest_can_be_read_without_its_targets() -> Result<(), Box<dyn Error>> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))?;
    let mut targets = 0;
    for (kind, target) in manifest
        .split("\n[")
        .filter_map(|section| section.split_once("]]\n"))
    {
        let path = target.lines().any(|line| line.starts_with("path = "));
        assert!(path, "a target in {kind}]] has no path:\n{target}");
        targets += 1;
    }
    assert!(targets > 4, "only {targets} targets were found");
    Ok(())
}

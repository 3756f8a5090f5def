//! The plan as `ARCHITECTURE.md` writes it, and the rules that the source is held to.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Named, Source, code_lines};

/// Most lines of code in one file.
pub(crate) const FILE_MAX: usize = 600;

/// A part of the house. Nothing crosses from one wing into the other; the roof sees everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wing {
    Control,
    Data,
    Floor,
    Roof,
}

/// One room: its place decides whom it may import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) number: u32,
    pub(crate) wing: Wing,
    pub(crate) name: String,
}

/// Files that may do what others may not, each with the reason.
pub(crate) type Exceptions = [(&'static str, &'static str)];

/// The rows of the first table whose header begins with these cells.
pub(crate) fn table(text: &str, header: &[&str]) -> Vec<Vec<String>> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .skip_while(|line| !begins(&cells(line), header));
    let rows = lines
        .by_ref()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(cells).collect()
}

fn begins(row: &[String], header: &[&str]) -> bool {
    row.len() >= header.len() && row.iter().zip(header).all(|(cell, wanted)| cell == wanted)
}

fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line
        .strip_prefix('|')
        .and_then(|line| line.strip_suffix('|'))
    else {
        return Vec::new();
    };
    let hidden = inner.replace("\\|", "\u{0}");
    hidden
        .split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"))
        .collect()
}

/// What stands between backticks in a cell.
pub(crate) fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Reads the table of rooms.
pub(crate) fn rooms(plan: &str) -> Result<Vec<Room>, String> {
    let rows = table(plan, &["number", "wing", "room"]);
    if rows.is_empty() {
        return Err(
            "ARCHITECTURE.md: the table `| number | wing | room | ...` is missing; put it back"
                .into(),
        );
    }
    rows.iter().map(|row| room(row)).collect()
}

fn room(row: &[String]) -> Result<Room, String> {
    let wrong = || {
        format!(
            "ARCHITECTURE.md: the row {row:?} is no room; write number, wing (floor, data, control or roof) and `room`"
        )
    };
    let [number, wing, name, ..] = row else {
        return Err(wrong());
    };
    let wing = match wing.as_str() {
        "control" => Wing::Control,
        "data" => Wing::Data,
        "floor" => Wing::Floor,
        "roof" => Wing::Roof,
        _ => return Err(wrong()),
    };
    let number = number.parse().map_err(|_| wrong())?;
    let name = quoted(name).into_iter().next().ok_or_else(wrong)?;
    Ok(Room { number, wing, name })
}

/// Whether one room may import another, and if not, why.
fn refusal(from: &Room, to: &Room) -> Option<&'static str> {
    if from.name == to.name {
        None
    } else if to.number >= from.number {
        Some("it is not below")
    } else if to.wing == Wing::Floor || to.wing == from.wing || from.wing == Wing::Roof {
        None
    } else {
        Some("it is in the other wing")
    }
}

fn target(named: &Named) -> Option<&str> {
    match named.segments.as_slice() {
        [root, room, ..] if root == "crate" => Some(room),
        _ => None,
    }
}

/// The room whose fakes the tests of every room may use. It knows words only, so that closes no circle.
pub(crate) const STAGE: &str = "rehearsal";

/// Imports that go up or across, tests included: what a room's tests need, moving the room would need as well.
pub(crate) fn imports(rooms: &[Room], source: &Source) -> Vec<String> {
    let room = |name: &str| rooms.iter().find(|room| room.name == name);
    let Some(from) = source.room().and_then(room) else {
        return Vec::new();
    };
    let mut found = BTreeSet::new();
    for named in &source.all_paths {
        let Some(name) = target(named) else { continue };
        let place = format!("src/{}:{}", source.path, named.line);
        if name == "*" {
            found.insert(format!(
                "{place}: `crate::*` hides which rooms are imported; name the room"
            ));
            continue;
        }
        let Some(to) = room(name) else { continue };
        if name == STAGE && !source.production_paths.contains(named) {
            continue;
        }
        if let Some(why) = refusal(from, to) {
            found.insert(format!(
                "{place}: room `{}` ({}) imports `{}` ({}), and {why}; move the code to where both are below it, or let \
                 the lower room own a trait or a `Settings` that the upper one fills in",
                from.name, from.number, to.name, to.number
            ));
        }
    }
    found.into_iter().collect()
}

/// What the rehearsal imports besides words. It judges what the other rooms make.
pub(crate) fn partial(rooms: &[Room], source: &Source) -> Vec<String> {
    let of_ours = |name: &str| {
        rooms
            .iter()
            .any(|room| room.name == name && room.number > 0)
    };
    let strays = source.all_paths.iter().filter(|named| {
        source.room() == Some(STAGE)
            && target(named).is_some_and(|name| name != STAGE && of_ours(name))
    });
    let report = |named: &Named| {
        format!(
            "src/{}:{}: the rehearsal is a second opinion and imports `vocab` only; write what it needs anew",
            source.path, named.line
        )
    };
    strays.map(report).collect()
}

/// Who imports whom outside tests, with one place for each.
pub(crate) fn edges(rooms: &[Room], sources: &[Source]) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for source in sources {
        let Some(from) = source.room() else { continue };
        for named in &source.production_paths {
            let Some(to) = target(named) else { continue };
            if to != from && rooms.iter().any(|room| room.name == to) {
                let place = format!("src/{}:{}", source.path, named.line);
                found
                    .entry((from.to_owned(), to.to_owned()))
                    .or_insert(place);
            }
        }
    }
    found
}

/// Rooms that lie on a circle of imports: they reach themselves.
pub(crate) fn circles(edges: &BTreeMap<(String, String), String>) -> Vec<String> {
    let nodes: BTreeSet<&String> = edges.keys().flat_map(|(from, to)| [from, to]).collect();
    let reaches_itself = |start: &String| {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut next = vec![start];
        while let Some(node) = next.pop() {
            for (_, to) in edges.keys().filter(|(from, _)| from == node) {
                if to == start {
                    return true;
                }
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        false
    };
    nodes
        .into_iter()
        .filter(|node| reaches_itself(node))
        .cloned()
        .collect()
}

/// Rooms without a folder, and folders without a row.
pub(crate) fn unlisted(rooms: &[Room], sources: &[Source]) -> Vec<String> {
    let folders: BTreeSet<&str> = sources.iter().filter_map(Source::room).collect();
    let named: BTreeSet<&str> = rooms.iter().map(|room| room.name.as_str()).collect();
    let mut found = Vec::new();
    for folder in folders.difference(&named) {
        found.push(format!("src/{folder}: the room is not in the table of ARCHITECTURE.md; give it a row, which decides its imports"));
    }
    for name in named.difference(&folders) {
        found.push(format!("ARCHITECTURE.md: room `{name}` has no folder under src/; remove the row or make the room"));
    }
    let single = |source: &&Source| {
        source.room().is_none() && !matches!(source.path.as_str(), "lib.rs" | "main.rs")
    };
    for source in sources.iter().filter(single) {
        found.push(format!(
            "src/{}: a file beside the rooms; move it into one",
            source.path
        ));
    }
    found
}

/// Files that are too long to be read as one thing.
pub(crate) fn long(source: &Source) -> Option<String> {
    let lines = code_lines(source);
    (lines > FILE_MAX).then(|| {
        format!(
            "src/{}: {lines} lines of code, {FILE_MAX} are the end; split it by subject",
            source.path
        )
    })
}

/// Where code outside tests names a path that only `homes` may name. A home is a file or, ending in `/`, a folder.
pub(crate) fn only_in(
    source: &Source,
    homes: &Exceptions,
    tail: &[&str],
    rule: &str,
) -> Vec<String> {
    if homes.iter().any(|(home, _)| is_home(home, &source.path)) {
        return Vec::new();
    }
    let hits = source
        .production_paths
        .iter()
        .filter(|named| named.ends_in(tail));
    hits.map(|named| {
        format!(
            "src/{}:{}: `{}`: {rule}",
            source.path,
            named.line,
            tail.join("::")
        )
    })
    .collect()
}

/// Where code outside tests calls a method that only `homes` may call.
pub(crate) fn calls(source: &Source, homes: &Exceptions, method: &str, rule: &str) -> Vec<String> {
    if homes.iter().any(|(home, _)| is_home(home, &source.path)) {
        return Vec::new();
    }
    let call = format!(".{method}(");
    let lines = source.production.lines().enumerate();
    let hits = lines.filter(|(_, line)| line.contains(&call));
    hits.map(|(i, _)| format!("src/{}:{}: `{call}`: {rule}", source.path, i + 1))
        .collect()
}

/// Exceptions that nothing uses any more.
pub(crate) fn stale(
    exceptions: &Exceptions,
    sources: &[Source],
    used: impl Fn(&Source) -> bool,
) -> Vec<String> {
    let idle = |home: &&(&str, &str)| !sources.iter().any(|s| is_home(home.0, &s.path) && used(s));
    let idle = exceptions.iter().filter(idle);
    idle.map(|(home, _)| {
        format!("tests/walls.rs: the exception for src/{home} is not used; remove it")
    })
    .collect()
}

fn is_home(home: &str, path: &str) -> bool {
    home == path || (home.ends_with('/') && path.starts_with(home))
}

/// Where a package may be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// `true`: everywhere but in `places`.
    pub(crate) all_but: bool,
    pub(crate) places: Vec<String>,
}

/// Reads the table of package homes.
pub(crate) fn packages(plan: &str) -> Vec<Package> {
    let rows = table(plan, &["package", "may be imported in"]);
    let of = |row: &Vec<String>| {
        let places = quoted(&row[1]);
        let all_but = row[1].starts_with("everywhere");
        let names = quoted(&row[0]).into_iter();
        names
            .map(move |name| Package {
                name,
                all_but,
                places: places.clone(),
            })
            .collect::<Vec<_>>()
    };
    rows.iter().flat_map(of).collect()
}

/// Packages that a file imports away from their home. Tests may use what they like.
pub(crate) fn strays(packages: &[Package], source: &Source) -> Vec<String> {
    let at_place = |place: &String| {
        source.path == *place
            || source.path.starts_with(&format!("{place}/"))
            || source.path == format!("{place}.rs")
    };
    let mut found = Vec::new();
    for named in &source.production_paths {
        let crate_name = named.segments.first().map_or("", String::as_str);
        let Some(package) = packages
            .iter()
            .find(|p| p.name.replace('-', "_") == crate_name)
        else {
            continue;
        };
        if package.places.iter().any(at_place) == package.all_but {
            found.push(format!(
                "src/{}:{}: `{}` is not at home here; do it in one of its homes (the table of packages in \
                 ARCHITECTURE.md), or argue in that table why this is one",
                source.path, named.line, package.name
            ));
        }
    }
    found
}

/// Names under `[dependencies]`.
pub(crate) fn dependencies(manifest: &str) -> BTreeSet<String> {
    let section = manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|n| !n.starts_with('#'))
        .collect()
}

/// Code and status of every situation in the source of `vocab::Code`.
pub(crate) fn codes(source: &str) -> BTreeSet<(String, String)> {
    let start = source.find("\ncodes! {").unwrap_or(source.len());
    let block = source[start..].split("\n}").next().unwrap_or_default();
    let of = |line: &str| {
        let mut parts = line.trim().split('"');
        let (_, code, status) = (parts.next()?, parts.next()?, parts.next()?);
        Some((code.to_owned(), status.trim().to_owned()))
    };
    block.lines().filter_map(of).collect()
}

/// Codes of which no file outside `vocab` names any situation: they cannot occur.
pub(crate) fn unused_codes(source: &str, sources: &[Source]) -> BTreeSet<String> {
    let start = source.find("\ncodes! {").unwrap_or(source.len());
    let block = source[start..].split("\n}").next().unwrap_or_default();
    let mut variants: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in block.lines() {
        if let (Some(variant), Some(code)) =
            (line.split_whitespace().next(), line.split('"').nth(1))
        {
            variants.entry(code.to_owned()).or_default().push(variant);
        }
    }
    let outside = sources
        .iter()
        .filter(|source| source.room() != Some("vocab"));
    let named: BTreeSet<&str> = outside
        .flat_map(|source| &source.production_paths)
        .filter_map(|named| match named.segments.as_slice() {
            [.., kind, variant] if kind == "Code" => Some(variant.as_str()),
            _ => None,
        })
        .collect();
    variants.retain(|_, all| !all.iter().any(|variant| named.contains(variant)));
    variants.into_keys().collect()
}

/// Names of metrics in a text.
pub(crate) fn metrics(text: &str) -> BTreeSet<String> {
    let ends = |rest: &str| {
        rest.find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len())
    };
    text.match_indices("tokenward_")
        .map(|(at, _)| text[at..at + ends(&text[at..])].to_owned())
        .collect()
}

/// The items of the numbered list in a file's module documentation or in a section of a page, as plain words.
pub(crate) fn story(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let mut open = false;
    for line in lines {
        let text = line.trim_end();
        let number = text
            .find(". ")
            .filter(|end| *end > 0 && text[..*end].bytes().all(|b| b.is_ascii_digit()));
        if let Some(end) = number {
            items.push(plain(&text[end + 2..]));
            open = true;
        } else if open && text.starts_with("   ") && !text.trim_start().starts_with("* ") {
            if let Some(item) = items.last_mut() {
                item.push(' ');
                item.push_str(&plain(text.trim()));
            }
        } else {
            open = false;
        }
    }
    items
}

fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '`' | '[' | ']' | '*'))
        .collect()
}

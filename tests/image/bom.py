"""What holds of the SBOM: its form, by CycloneDX's own schema; that it is about this checkout, this build and this program; and
that whatever is wrong with one would be seen."""

import copy
import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = re.compile(rb"/registry/src/[^/\0]+/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[^/\0]*)/")


def packages(bom):
    return {(c["name"], c["version"]) for c in bom["components"]}


def formed(bom):
    """CycloneDX's own schema, in its strict form. It takes its time."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if wrong := JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(bom)):
        yield f"the schema says {str(wrong)[:300]}"


def licensed(bom):
    from cyclonedx.spdx import is_expression

    for c in bom["components"]:
        if not c.get("licenses") or not all(is_expression(each.get("expression", "")) for each in c["licenses"]):
            yield f"{c['name']}: no licence in SPDX's words"


def locked(bom):
    """Each package is one of Cargo.lock, with its checksum, once; edges lead to packages that are there."""
    lock = {(p["name"], p["version"]): p for p in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    for c in bom["components"]:
        known = lock.get((c["name"], c["version"]))
        if not known or c.get("hashes") != [{"alg": "SHA-256", "content": known["checksum"]}]:
            yield f"{c['name']} {c['version']}: not so in Cargo.lock"
    if len(packages(bom)) != len(bom["components"]):
        yield "a package twice"
    refs = {c["bom-ref"] for c in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
    if {d["ref"] for d in bom["dependencies"]} != refs or any(set(d["dependsOn"]) - refs for d in bom["dependencies"]):
        yield "an edge from or to nowhere"


def linked(bom, binary):
    """Every crate that the program names in its own places of panics."""
    found = {(name.decode(), version.decode()) for name, version in NAMES.findall(binary)}
    if len(found) < 20:
        yield f"only {len(found)} crates are named in the program"
    yield from (f"{name} {version}: in the program and not in the SBOM" for name, version in sorted(found - packages(bom)))


def compiled(bom, messages):
    """What cargo gave to the compiler, as `cargo build --message-format=json` told: all of it, and nothing else."""
    told = [json.loads(line) for line in messages.splitlines() if line.startswith("{")]
    ids = {m["package_id"] for m in told if m["reason"] in ("compiler-artifact", "build-script-executed")}
    built = set()
    for package in ids - {i for i in ids if i.startswith("path+")}:
        whole = re.search(r"/([^/#]+)#(?:([A-Za-z0-9_-]+)@)?([^#]+)$", package)
        built.add((whole[2] or whole[1], whole[3]))
    yield from (f"{name} {version}: compiled and not in the SBOM" for name, version in sorted(built - packages(bom)))
    yield from (f"{name} {version}: in the SBOM and not compiled" for name, version in sorted(packages(bom) - built))


CARRIED = {"openssl-src": "openssl", "tikv-jemalloc-sys": "jemalloc"}


def told(bom):
    """What other people's scanners look for beside crates."""
    for c in bom["components"]:
        within = CARRIED.get(c["name"])
        if within and [n["name"] for n in c.get("components", [])] != [within]:
            yield f"{c['name']}: does not say which {within}"
        if within and c["scope"] != "required":
            yield f"{c['name']}: is linked in, and said not to be"


def judged(bom, binary, messages):
    for rule in (licensed, locked, told):
        yield from rule(bom)
    yield from linked(bom, binary)
    if messages:
        yield from compiled(bom, messages)
    yield from formed(bom)


def of(bom, name):
    return next(c for c in bom["components"] if c["name"] == name)


SABOTAGE = {
    "a crate is missing": lambda b: b["components"].remove(of(b, "hyper")),
    "a crate that is only built with is missing": lambda b: b["components"].remove(of(b, "cc")),
    "a crate too many": lambda b: b["components"].append({**of(b, "hyper"), "name": "proptest", "bom-ref": "x"}),
    "another version": lambda b: of(b, "hyper").update(version="0.0.1"),
    "another checksum": lambda b: of(b, "hyper")["hashes"][0].update(content="0" * 64),
    "no licence": lambda b: of(b, "hyper").pop("licenses"),
    "a licence that nobody knows": lambda b: of(b, "hyper").update(licenses=[{"expression": "MIT/Apache-2.0"}]),
    "a key that CycloneDX does not have": lambda b: of(b, "hyper").update(licence="MIT"),
    "OpenSSL is not named": lambda b: of(b, "openssl-src").pop("components"),
    "an edge to nowhere": lambda b: b["dependencies"][0]["dependsOn"].append("pkg:cargo/nothing@1"),
}


def missed(bom, binary, messages):
    """Wrong documents that the judge takes for right."""
    for what, change in SABOTAGE.items():
        changed = copy.deepcopy(bom)
        change(changed)
        if next(judged(changed, binary, messages), None) is None:
            yield f"not found: {what}"

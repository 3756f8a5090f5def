#!/usr/bin/env python3
"""What tokenward is made of, as CycloneDX 1.5: every package that its build takes, with licence, address and checksum.

deploy/image/sbom.py [--target TRIPLE] > tokenward.cdx.json

Run in the checkout. Asks cargo alone: `cargo tree` which packages, `cargo metadata` and Cargo.lock what of them. The same checkout
gives the same bytes: no date, no serial number.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

# As the image is built.
FEATURES = ("--no-default-features",)
# Packages that carry the source of another project, which scanners know by its own name and version.
CARRIED = {"openssl-src": "openssl", "tikv-jemalloc-sys": "jemalloc"}


def cargo(*words):
    return subprocess.run(["cargo", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def tree(target, edges):
    """Packages that are built, as (name, version). `cargo metadata` would add what features of development dependencies bring."""
    lines = cargo("tree", "--locked", *FEATURES, "--target", target, "--edges", edges, "--prefix", "none", "--format", "{p}").splitlines()
    return {(name, version.removeprefix("v")) for name, version in (line.split()[:2] for line in lines if line.strip())}


def licence(expression):
    """SPDX has no slash, which old manifests use for OR."""
    return re.sub(r"\s*/\s*", " OR ", expression)


def purl(name, version, kind="cargo"):
    return f"pkg:{kind}/{name}@{quote(version)}"


def component(package, checksum, shipped):
    name, version = package["name"], package["version"]
    it = {"type": "library", "bom-ref": purl(name, version), "name": name, "version": version, "scope": "required" if shipped else "excluded",
          "licenses": [{"expression": licence(package["license"])}], "purl": purl(name, version), "hashes": [{"alg": "SHA-256", "content": checksum}]}
    if package["repository"]:
        it["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    if name in CARRIED:
        within, number = CARRIED[name], re.match(r"\d+(\.\d+)+", version.split("+")[1])[0]
        it["components"] = [{"type": "library", "bom-ref": purl(within, number, "generic"), "name": within, "version": number,
                             "purl": purl(within, number, "generic"), "cpe": f"cpe:2.3:a:{within}:{within}:{number}:*:*:*:*:*:*:*"}]
    return it


def document(target):
    told = json.loads(cargo("metadata", "--locked", "--format-version", "1", *FEATURES, "--filter-platform", target))
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.loads(Path("Cargo.lock").read_text())["package"]}
    key = {p["id"]: (p["name"], p["version"]) for p in told["packages"]}
    of = {key[p["id"]]: p for p in told["packages"]}
    root = key[told["resolve"]["root"]]
    built, linked = tree(target, "normal,build"), tree(target, "normal")
    # Built by a build script, and linked in all the same.
    linked |= {package for package in built if package[0] in CARRIED}
    own = of[root]
    edges = {key[n["id"]]: {key[d["pkg"]] for d in n["deps"] if any(k["kind"] != "dev" for k in d["dep_kinds"])} for n in told["resolve"]["nodes"]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": purl(*root), "name": root[0], "version": root[1], "description": own["description"],
                                   "licenses": [{"expression": licence(own["license"])}], "purl": purl(*root)},
                     "properties": [{"name": "tokenward:target", "value": target}]},
        "components": [component(of[p], checksums[p], p in linked) for p in sorted(built - {root})],
        "dependencies": [{"ref": purl(*p), "dependsOn": sorted(purl(*d) for d in edges[p] & built)} for p in sorted(built)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="[default: this machine's]")
    options = parser.parse_args()
    host = re.search(r"^host: (\S+)$", subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout, re.M)[1]
    json.dump(document(options.target or host), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

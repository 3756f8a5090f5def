# Every task of the project. `just` lists them; `just check` is what CI runs, in the same order.

# Program that builds images: docker, podman or buildah.
container := env("CONTAINER", "docker")

[private]
default:
    @just --list --unsorted

# What CI runs
check: test kills live netns demo fmt lint doc deny alerts corpus variants leaks conformance issuers differential fuzz deploy judge-image interop-quick world verifiers

# All tests
test:
    cargo test --locked

# Kills at six points of a refresh, an issuer that refuses, a crowd at a token's end; ROUNDS of each point
kills ROUNDS="5" *FLAGS:
    cargo build --locked
    tests/kills/run.py --bin target/debug/tokenward --rounds {{ ROUNDS }} {{ FLAGS }}

# Reloads and restarts under load, in short; `just soak` does the long form
live *FLAGS:
    cargo build --locked
    tests/live/run.py --bin target/debug/tokenward {{ FLAGS }}

# Ways around redirected connections, in network namespaces; needs root, nft and iptables
netns *FLAGS:
    cargo build --locked
    tests/netns/run.py --bin target/debug/tokenward {{ FLAGS }}

# The demonstration, and that it fails (with 1, not with 2 for wrong usage) where a part does not do its work
demo:
    cargo run --locked --release -- demo
    cargo run --locked --release -- demo --sabotage api-dpop; test $? -eq 1
    cargo run --locked --release -- demo --sabotage strip; test $? -eq 1
    cargo run --locked --release -- demo --sabotage deny; test $? -eq 1

# Formatting, checked only
fmt:
    cargo fmt --all --check

# Clippy, with and without the default features; warnings are errors
lint:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --no-default-features -- -D warnings

# Documentation of private items too: links inside it must not rot
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# Licences, bans and sources of all dependencies. Advisories apart: `cargo deny check advisories` needs its database
deny:
    cargo deny --locked check bans licenses sources

# Alert rules and their cases; needs promtool, which comes with Prometheus
alerts:
    promtool check rules deploy/prometheus/alerts.yaml
    promtool test rules deploy/prometheus/alerts_test.yaml

# Attacks, case by case, in a private network; needs root or `unshare -r`, and the packages of tests/corpus/requirements.txt
corpus *FLAGS:
    cargo build --locked --release
    tests/corpus/run.py --bin target/release/tokenward {{ FLAGS }}

# The same against every deliberately broken variant: each must be found out
variants *NAMES:
    cargo build --locked --features variants
    tests/corpus/variants.py --bin target/debug/tokenward {{ NAMES }}

# Generated requests against three foreign parsers; a million by hand: `just differential 1000000`
differential CASES="20000":
    cargo build --locked --release
    tests/differential/run.py --bin target/release/tokenward --cases {{ CASES }}

# Foreign authorization server, APIs and clients; DIR holds the servers. Without such a folder it says that it was skipped
world DIR="../shared/world":
    cargo build --locked --release
    TOKENWARD_WORLD="{{ DIR }}" tests/world/run.py

# Every fault of the foreign servers against both of their DPoP verifiers; `just verifiers ../shared/world --markdown` prints the table
verifiers DIR="../shared/world" *FLAGS:
    cargo build --locked --release
    TOKENWARD_WORLD="{{ DIR }}" tests/verifiers/run.py {{ FLAGS }}

# Strict and faulty issuers, whose verification is another library's
issuers *FLAGS:
    cargo build --locked --release
    tests/issuers/run.py {{ FLAGS }}

# A run at trace level with secrets planted everywhere, searched by `leakcheck`
leaks *FLAGS:
    cargo build --locked --release
    cargo build --locked --features variants
    tests/leaks/run.py --bin target/release/tokenward --broken target/debug/tokenward {{ FLAGS }}

# The authorization scenarios of the MCP conformance suite; a debug build, for its servers speak plain HTTP
conformance *FLAGS:
    cargo build --locked --features danger-plain-http
    tests/conformance/run.py --bin target/debug/tokenward {{ FLAGS }}

# The foreign servers with load and faults going on for MINUTES, then answers cut at every place; before that 200 kills at each point of a refresh, an outage
# in real time, and 100,000 seeded lives of a login
soak MINUTES="60" DIR="../shared/world":
    cargo build --locked --release
    tests/kills/run.py --bin target/release/tokenward --rounds 200 --seconds 60 --only kills rekey terminated outage storm crowd
    tests/live/run.py --bin target/release/tokenward --seconds 100 --rate 500 --restarts 50
    TOKENWARD_SEEDS=100000 cargo test --locked --release --lib -- --nocapture tokens::door::sim
    TOKENWARD_WORLD="{{ DIR }}" tests/world/run.py --minutes {{ MINUTES }}

# Manifests, Compose file, units, dashboard and their configurations; plays the pods where it is run as root
deploy *FLAGS:
    cargo build --locked --release
    tests/deploy/run.py --bin target/release/tokenward {{ FLAGS }}

# Every client with what `tokenward env` prints; writes the README's table. Needs gh, wget and a JDK 17 beside what `world` needs
interop *FLAGS:
    cargo build --locked --release
    tests/interop/run.py --bin target/release/tokenward --json tests/interop/results.json --table README.md {{ FLAGS }}

# The same without Node 22, deno, bun and Java, held against the README's table
interop-quick:
    cargo build --locked --release
    tests/interop/run.py --bin target/release/tokenward --quick

# Every fuzz target for SECONDS; needs g++
fuzz SECONDS="20" *TARGETS:
    fuzz/run.sh -t {{ SECONDS }} {{ TARGETS }}

# What each step of a request costs, alone
benches *FLAGS:
    cargo bench --locked --features fuzzing --bench hot_path --bench decision -- {{ FLAGS }}

# What the response guard costs: two proxies side by side, with it and without
bench-guard *FLAGS:
    cargo build --locked --profile dist
    deploy/bench/guard.py {{ FLAGS }}

# tokenward beside other proxies, as deploy/bench/README.md says; needs root. DIR holds the bench, FLAGS go to its run.sh
bench DIR="../shared/bench" *FLAGS:
    cargo build --locked --profile dist
    BENCH_DIR="{{ DIR }}" deploy/bench/run.sh {{ FLAGS }}

# The container image. FLAGS go to the builder: `just image x:1 --build-arg BUILDER_IMAGE=…`
image TAG="tokenward:dev" *FLAGS:
    {{ container }} build -t {{ TAG }} --build-arg REVISION="$(git rev-parse HEAD)" {{ FLAGS }} .

# The image of the init container that writes a pod's network rules
image-init TAG="tokenward-init:dev" *FLAGS:
    {{ container }} build -t {{ TAG }} --target init --build-arg REVISION="$(git rev-parse HEAD)" {{ FLAGS }} .

# The image, built from a local base around the program, run as it is meant to, its SBOM and layers looked through. Needs root, buildah, mmdebstrap
judge-image *FLAGS:
    cargo build --locked --release
    tests/image/run.py --bin target/release/tokenward {{ FLAGS }}

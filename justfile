# Every task of the project. `just` lists them; `just check` is what CI runs, in the same order.

# Program that builds images: docker, podman or buildah.
container := env("CONTAINER", "docker")

[private]
default:
    @just --list --unsorted

# What CI runs
check: fmt lint test doc deny demo

# Formatting, checked only
fmt:
    cargo fmt --all --check

# Clippy, with and without the default features; warnings are errors
lint:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --no-default-features -- -D warnings

# All tests
test:
    cargo test --locked

# Documentation of private items too: links inside it must not rot
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# Licences, bans and sources of all dependencies. Advisories apart: `cargo deny check advisories` needs its database
deny:
    cargo deny --locked check bans licenses sources

# The demonstration, and that it fails (with 1, not with 2 for wrong usage) where a part does not do its work
demo:
    cargo run --locked -- demo
    cargo run --locked -- demo --sabotage api-dpop; test $? -eq 1
    cargo run --locked -- demo --sabotage strip; test $? -eq 1
    cargo run --locked -- demo --sabotage deny; test $? -eq 1

# Tests against a foreign authorization server and APIs; DIR is the folder that holds them
world DIR: (_exists "world")
    TOKENWARD_WORLD="{{ DIR }}" cargo test --locked --test it world -- --nocapture

# Mixed load with faults, for MINUTES
soak MINUTES="60": (_exists "soak")
    TOKENWARD_SOAK_MINUTES="{{ MINUTES }}" cargo test --locked --release --test it soak -- --nocapture

# The container image. FLAGS go to the builder: `just image x:1 --build-arg BUILDER_IMAGE=…`
image TAG="tokenward:dev" *FLAGS:
    {{ container }} build -t {{ TAG }} {{ FLAGS }} .

# A filter that matches no test passes without having tested anything.
_exists FILTER:
    @cargo test --locked --test it {{ FILTER }} -- --list | grep -q ': test$' || { echo "no test is named {{ FILTER }}" >&2; exit 1; }

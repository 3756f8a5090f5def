#!/usr/bin/env bash
# A Debian with our Rust toolchain and what OpenSSL and AWS-LC need, as an archive: the first stage of the image where no registry of
# images is at hand. tests/image/run.py --full takes it.
#
# tests/image/builder.sh ARCHIVE
set -euo pipefail
[[ $# == 1 ]] || { echo "usage: $0 ARCHIVE" >&2; exit 2; }
mmdebstrap --quiet --variant=minbase --include=ca-certificates,gcc,g++,make,perl,python3 bookworm "$1"
# What this machine's cargo trusts, for cargo alone: a company's root must not get into the image.
trust=$(mktemp -d)
trap 'rm -rf "$trust"' EXIT
mkdir -p "$trust/root/.cargo"
cp /etc/ssl/certs/ca-certificates.crt "$trust/root/.cargo/roots.pem"
printf '[http]\ncainfo = "/root/.cargo/roots.pem"\n' >"$trust/root/.cargo/config.toml"
tar -rf "$1" -C "$trust" --owner=0 --group=0 root/.cargo
# Programs, the compiler's libraries, the standard library; no documentation.
tar -rf "$1" -C "$(rustc --print sysroot)" --owner=0 --group=0 --transform='s,^,usr/local/,' bin lib

#!/usr/bin/env bash
# tokenward beside the bench's own contestants, first bearer, then DPoP, and one table of both. See README.md.
#   BENCH_DIR=../shared/bench run.sh [flags of the bench's run.sh]
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
BENCH_DIR=$(cd "${BENCH_DIR:-$HERE/../../../shared/bench}" && pwd)
OUT=${BENCH_RUN:-/tmp/bench-run}/tokenward-$(date +%H%M%S); mkdir -p "$(dirname "$OUT")"
# Where the kernel groups processes by session, nice counts within the group only.
[ ! -w /proc/self/autogroup ] || echo -15 > /proc/self/autogroup
export CONTESTANTS_DIR=$HERE
: "${TOKENWARD:=$HERE/../../target/dist/tokenward}"; export TOKENWARD
"$BENCH_DIR/run.sh" -o "$OUT.bearer" "$@" minimitm tokenward ${PEERS:-hudsucker-nodelay envoy mitmproxy}
# The floor signs beside a fixed bearer token, so it has an origin of its own.
"$BENCH_DIR/run.sh" -o "$OUT.floor" -m "h1 h2 rate" "$@" minimitm-dpop
ORIGIN_AUTH='DPoP *' "$BENCH_DIR/run.sh" -o "$OUT.dpop" -m "h1 h2 rate" "$@" tokenward-dpop
"$BENCH_DIR/table.py" "$OUT.bearer" "$OUT.floor" "$OUT.dpop"

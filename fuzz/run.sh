#!/usr/bin/env bash
# Builds every fuzz target and runs each for a while; fails where one crashes. Stable Rust and g++ are enough.
#
#     fuzz/run.sh [-t SECONDS] [TARGET…]
#
# Inputs that were found to matter stay in fuzz/corpus/TARGET (not committed), those that crash in fuzz/crashes. To run
# one again: fuzz/run.sh -r TARGET FILE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=20 again=
while getopts "t:r" option; do
    case $option in
        t) seconds=$OPTARG ;;
        r) again=1 ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

host=$(rustc -vV | sed -n 's/^host: //p')
# Coverage as libFuzzer reads it. The flags are stable; `cargo fuzz` would set the same. Naming the target keeps them
# off build scripts and macros.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
 -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 "
RUSTFLAGS=${RUSTFLAGS//$'\n'/}
target=${CARGO_TARGET_DIR:-target}/fuzz
CARGO_TARGET_DIR=$target cargo build --quiet --locked --release --target "$host"
bin=$target/$host/release

if [[ $again ]]; then
    exec "$bin/$1" "$2"
fi
if (($# == 0)); then
    mapfile -t names < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v '^tokenward-fuzz$')
    set -- "${names[@]}"
fi
failed=0
printf '%-12s %12s %10s %8s\n' target runs coverage corpus
for name; do
    mkdir -p "corpus/$name" crashes
    log=$(mktemp)
    code=0
    "$bin/$name" "corpus/$name" "seeds/$name" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="crashes/$name-" >"$log" 2>&1 || code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2) || true
    printf '%-12s %12s %10s %8s\n' "$name" "${runs:-?}" "${coverage:-?}" "$(find "corpus/$name" -type f | wc -l)"
    if ((code)); then
        failed=1
        tail -40 "$log"
        echo "$name crashed; again with: fuzz/run.sh -r $name fuzz/crashes/…"
    fi
    rm -f "$log"
done
exit $failed

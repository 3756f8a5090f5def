#!/bin/sh
# Makes a CA, keeps its public certificate in OUT and throws the key away. TOKENWARD names the program, if not on the path.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: make.sh OUT" >&2
    exit 2
fi
out=$1
tokenward=${TOKENWARD:-tokenward}

umask 077
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

cat > "$scratch/tokenward.yaml" <<END
ca: {dir: "$scratch/ca"}
runtime_dir: "$scratch/run"
services: {example: {hosts: [api.example.invalid], credential: none, rules: [{allow: "GET /**"}]}}
END
"$tokenward" ca init --config "$scratch/tokenward.yaml" > "$scratch/said"

# What is copied is looked at first: a certificate, and no key beside it.
if grep -q 'PRIVATE KEY' "$scratch/ca/ca.pem" "$scratch/said"; then
    echo "make.sh: a private key where only certificates belong; nothing copied" >&2
    exit 1
fi
grep -q 'BEGIN CERTIFICATE' "$scratch/ca/ca.pem"

umask 022
mkdir -p "$out"
cp "$scratch/ca/ca.pem" "$out/ca.pem"
chmod 644 "$out/ca.pem"
echo "$out/ca.pem"

# Sourced by the launchers here: what both write, and how they start. run.sh has set NAME PORT CERTS STATE ORIGIN_PORT.
: "${TOKENWARD:=$(dirname "${BASH_SOURCE[0]}")/../../target/dist/tokenward}"

# write_config CREDENTIAL: the bench measures work, so limits that are there to slow one agent down are opened wide.
write_config() {
  mkdir -p "$STATE"
  install -m 600 "$CERTS/mitm-ca.key" "$STATE/ca.key"
  printf 'REAL-SECRET' > "$STATE/token"; chmod 600 "$STATE/token"
  cat > "$STATE/tokenward.yaml" <<YAML
listen: {proxy: "127.0.0.1:$PORT"}
runtime_dir: $STATE/run
ca: {cert: {file: $CERTS/mitm-ca.pem}, key: {file: $STATE/ca.key}}
store: memory
audit: {file: $STATE/audit.jsonl}
limits:
  per_agent: {connections: 4096, streams: 4096, requests_per_second: 1000000, certificates_per_second: 1000000}
$1
services:
  bench:
    hosts: ["*.bench.test"]
    port: $ORIGIN_PORT
    upstream: {ca: {file: $CERTS/origin-ca.pem}, allow_private: true}
    credential: $2
    rules: [{allow: "* /**"}]
YAML
}

CMD=("$TOKENWARD" serve --config "$STATE/tokenward.yaml")

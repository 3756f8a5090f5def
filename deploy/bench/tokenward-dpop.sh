# A token of a loopback issuer and a fresh proof with every request. Run it with ORIGIN_AUTH='DPoP *'.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ISSUER_PORT=$((PORT + 1000))
prepare() {
  write_config "issuers:
  bench:
    url: https://as.bench.test:$ISSUER_PORT
    ca: {file: $CERTS/origin-ca.pem}
    connect: 127.0.0.1
    allow_private: true" "{oauth: {issuer: bench, client_id: bench, client_auth: {secret_basic: {file: token}}, grant: client_credentials, binding: dpop}}"
  [ -n "${ISSUER_PID:-}" ] && kill -0 "$ISSUER_PID" 2>/dev/null && return
  taskset -c 0 python3 "$(dirname "${BASH_SOURCE[0]}")/issuer.py" "$ISSUER_PORT" "$CERTS" >"$STATE/issuer.log" 2>&1 &
  ISSUER_PID=$!; PIDS+=("$ISSUER_PID")
  waitport "$ISSUER_PORT"
}

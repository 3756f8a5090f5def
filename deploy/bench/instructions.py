#!/usr/bin/env python3
"""Instructions of one request over a kept HTTP/1.1 connection, counted by callgrind.

    instructions.py [--dpop] [--guard MODE] [PROXY COMMAND…]      # default: ../../target/dist/tokenward, or $TOKENWARD

Needs valgrind, a set-up bench (BENCH_DIR, BENCH_TARGET, its certificates in BENCH_RUN/certs) and a free port 9443. 60 requests
warm up, then the counters are set to zero, and after 200 more they are read.
"""
import argparse, os, pathlib, re, signal, socket, ssl, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("BENCH_TARGET", "/tmp/bench-target")) / "release"
CERTS = pathlib.Path(os.environ.get("BENCH_RUN", "/tmp/bench-run")) / "certs"
PORT, ORIGIN, ISSUER, WARM, COUNTED = 18090, 9443, 19090, 60, 200


def wait(port):
    for _ in range(1200):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def configuration(folder, dpop, guard):
    credential = "{bearer: {file: token}}"
    issuer = ""
    if dpop:
        issuer = (f"issuers: {{bench: {{url: 'https://as.bench.test:{ISSUER}', ca: {{file: {CERTS}/origin-ca.pem}}, connect: 127.0.0.1, "
                  "allow_private: true}}\n")
        credential = ("{oauth: {issuer: bench, client_id: bench, client_auth: {secret_basic: {file: token}}, grant: client_credentials, "
                      "binding: dpop}}")
    for name, text in (("token", "REAL-SECRET"), ("ca.key", (CERTS / "mitm-ca.key").read_text())):
        (folder / name).touch(0o600)
        (folder / name).write_text(text)
    (folder / "tokenward.yaml").write_text(f"""
listen: {{proxy: "127.0.0.1:{PORT}"}}
runtime_dir: {folder}/run
ca: {{cert: {{file: {CERTS}/mitm-ca.pem}}, key: {{file: {folder}/ca.key}}}}
audit: {{file: {folder}/audit.jsonl}}
limits: {{per_agent: {{requests_per_second: 1000000}}}}
{issuer}services:
  bench:
    hosts: ["*.bench.test"]
    port: {ORIGIN}
    upstream: {{ca: {{file: {CERTS}/origin-ca.pem}}, allow_private: true, connect: "127.0.0.1:{ORIGIN}"}}
    credential: {credential}
    response_guard: "{guard}"
    rules: [{{allow: "* /**"}}]
""")


def connection():
    raw = socket.create_connection(("127.0.0.1", PORT))
    host = f"api.bench.test:{ORIGIN}"
    raw.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    context = ssl.create_default_context(cafile=CERTS / "mitm-ca.pem")
    return context.wrap_socket(raw, server_hostname="api.bench.test")


def ask(stream):
    stream.sendall(f"GET /bytes/1024 HTTP/1.1\r\nHost: api.bench.test:{ORIGIN}\r\nAuthorization: Bearer placeholder\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += stream.recv(65536) or sys.exit("the connection ended")
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
    while len(body) < length:
        body += stream.recv(65536)
    if not head.startswith(b"HTTP/1.1 200"):
        sys.exit(head.decode())


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--dpop", action="store_true")
    options.add_argument("--guard", choices=["redact", "block", "off"], default="redact")
    options.add_argument("command", nargs="*")
    options = options.parse_args()
    started = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        configuration(folder, options.dpop, options.guard)
        program = os.environ.get("TOKENWARD", HERE / "../../target/dist/tokenward")
        command = options.command or [program, "serve", "--config", folder / "tokenward.yaml"]
        try:
            expected = "DPoP *" if options.dpop and not options.command else "Bearer REAL-SECRET"
            started.append(subprocess.Popen([TARGET / "loadgen", "origin", "--dir", CERTS, "--listen", f"127.0.0.1:{ORIGIN}", "--auth", expected]))
            if options.dpop:
                started.append(subprocess.Popen([sys.executable, HERE / "issuer.py", str(ISSUER), CERTS]))
                wait(ISSUER)
            wait(ORIGIN)
            proxy = subprocess.Popen(["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", *command],
                                     stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            started.append(proxy)
            wait(PORT)
            stream = connection()
            for _ in range(WARM):
                ask(stream)
            subprocess.run(["callgrind_control", "-z", str(proxy.pid)], check=True, stdout=subprocess.DEVNULL)
            for _ in range(COUNTED):
                ask(stream)
            time.sleep(1)
            subprocess.run(["callgrind_control", "-d", str(proxy.pid)], check=True, stdout=subprocess.DEVNULL)
            dumps = sorted(folder.glob("out.*"))
            total = sum(int(re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.M)[1]) for dump in dumps[-1:])
            print(f"{total // COUNTED} instructions a request")
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
                process.wait(30)


main()

#!/usr/bin/env python3
"""What the response guard costs: two proxies side by side, one with `response_guard: redact` and one with `off`.

    guard.py [--rounds N] [--megabytes N] [TOKENWARD]      # default: ../../target/dist/tokenward

Needs openssl and Node.js 20 (whose zlib packs the answers; zstd is measured where it has that). Both proxies are asked in turn, in
rounds, and what is told is the ratio of the two: processor time for an answer of 1 KiB, and for a download the time until the agent has the
content unpacked, and the proxy's processor time, for each content coding. Processor time is /proc's own count, so it may be taken on a machine that does other things.
"""
import argparse, os, pathlib, re, shutil, socket, ssl, statistics, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
HOST = "api.bench.test"
ORIGIN = r"""
import https from 'node:https';
import zlib from 'node:zlib';
import fs from 'node:fs';
const [dir, megabytes] = [process.argv[2], Number(process.argv[3])];
// Lines like an API's: words, numbers and some that hardly pack, so that a coding has something to do.
let seed = 7;
const next = () => { seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5; return seed >>> 0; };
const lines = [];
for (let length = 0; length < megabytes * 1048576;) {
    const line = `{"id":${next()},"name":"item-${next() % 1000}","state":"ready","mark":"${next().toString(36)}${next().toString(36)}"}\n`;
    lines.push(line);
    length += line.length;
}
const plain = Buffer.from(lines.join(''));
const bodies = { identity: plain, gzip: zlib.gzipSync(plain, { level: 6 }), deflate: zlib.deflateSync(plain, { level: 6 }),
    br: zlib.brotliCompressSync(plain, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5, [zlib.constants.BROTLI_PARAM_LGWIN]: 22 } }) };
if (zlib.zstdCompressSync) bodies.zstd = zlib.zstdCompressSync(plain);
// What an agent spends that has to unpack for itself.
const unpack = { identity: () => 0, gzip: zlib.gunzipSync, deflate: zlib.inflateSync, br: zlib.brotliDecompressSync, zstd: zlib.zstdDecompressSync };
const unpacking = (coding) => {
    const took = [1, 2, 3].map(() => { const begun = performance.now(); unpack[coding](bodies[coding]); return performance.now() - begun; });
    return Math.min(...took) / 1000;
};
const small = plain.subarray(0, 1024);
https.createServer({ key: fs.readFileSync(`${dir}/origin.key`), cert: fs.readFileSync(`${dir}/origin.pem`) }, (ask, answer) => {
    const coding = ask.url.slice(1);
    const body = coding === 'small' ? small : bodies[coding];
    if (!body) { answer.writeHead(404).end(); return; }
    const head = { 'content-type': 'application/x-ndjson', 'content-length': body.length };
    if (coding !== 'small' && coding !== 'identity') head['content-encoding'] = coding;
    answer.writeHead(200, head).end(body);
}).listen(0, '127.0.0.1', function () { console.log(`${this.address().port} ${Object.keys(bodies).map((coding) => `${coding}=${unpacking(coding)}`).join(' ')}`); });
"""


def certificates(folder):
    run = lambda *words: subprocess.run(["openssl", *words], check=True, cwd=folder, stderr=subprocess.DEVNULL)
    for name in ("ca", "origin"):
        run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
    run("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=bench", "-days", "2", "-out", "ca.pem")
    run("req", "-new", "-key", "origin.key", "-subj", f"/CN={HOST}", "-out", "origin.csr")
    (folder / "names").write_text(f"subjectAltName=DNS:{HOST}\n")
    run("x509", "-req", "-in", "origin.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
        "-out", "origin.pem")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    def __init__(self, program, folder, mode, origin):
        self.mode, self.origin, self.port = mode, origin, free_port()
        place = folder / mode
        place.mkdir()
        (place / "token").touch(0o600)
        (place / "token").write_text("an-api-key-of-usual-length-0123456789abcdef")
        (place / "tokenward.yaml").write_text(f"""
listen: {{proxy: "127.0.0.1:{self.port}"}}
runtime_dir: {place}/run
audit: {{file: {place}/audit.jsonl}}
limits: {{per_agent: {{requests_per_second: 1000000}}}}
services:
  bench:
    hosts: [{HOST}]
    port: {origin}
    upstream: {{ca: {{file: {folder}/ca.pem}}, allow_private: true, connect: "127.0.0.1:{origin}"}}
    credential: {{bearer: {{file: token}}}}
    response_guard: "{mode}"
    rules: [{{allow: "* /**"}}]
""")
        environment = {"PATH": os.environ["PATH"], "HOME": str(place)}
        self.process = subprocess.Popen([program, "serve", "--config", place / "tokenward.yaml"], cwd=place, env=environment,
                                        stdout=subprocess.DEVNULL, stderr=open(place / "log", "w"))
        until = time.monotonic() + 30
        while not (place / "run/ca.pem").exists():
            if time.monotonic() > until or self.process.poll() is not None:
                sys.exit((place / "log").read_text())
            time.sleep(0.05)
        self.context = ssl.create_default_context(cafile=place / "run/ca.pem")
        self.stream = self.connect()

    def connect(self):
        raw = socket.create_connection(("127.0.0.1", self.port), 60)
        raw.sendall(f"CONNECT {HOST}:{self.origin} HTTP/1.1\r\nHost: {HOST}:{self.origin}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += raw.recv(1) or sys.exit("the proxy hung up")
        return self.context.wrap_socket(raw, server_hostname=HOST)

    def ask(self, path):
        """Reads one answer to its end; how many bytes of body came."""
        self.stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{self.origin}\r\n\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.stream.recv(65536) or sys.exit("the connection ended")
        head, _, body = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(head.decode() + body.decode(errors="replace"))
        length = re.search(rb"content-length: (\d+)", head, re.I)
        count = len(body)
        end = body[-5:]
        while count < int(length[1]) if length else end != b"0\r\n\r\n":
            piece = self.stream.recv(262144) or sys.exit("the answer broke off")
            count += len(piece)
            end = (end + piece)[-5:]
        return count

    def spent(self):
        """Processor time so far, in seconds."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measured(proxy, path, times):
    spent, begun = proxy.spent(), time.monotonic()
    size = sum(proxy.ask(path) for _ in range(times))
    return proxy.spent() - spent, time.monotonic() - begun, size


def compare(proxies, path, times, rounds):
    """Processor time and time of each proxy: the median of the rounds, taken in turn."""
    took = {proxy.mode: [] for proxy in proxies}
    for turn in range(rounds):
        for proxy in proxies if turn % 2 else reversed(proxies):
            took[proxy.mode].append(measured(proxy, path, times))
    return {mode: [statistics.median(values) for values in zip(*rows)] for mode, rows in took.items()}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--megabytes", type=int, default=32)
    options.add_argument("program", nargs="?", default=HERE / "../../target/dist/tokenward")
    options = options.parse_args()
    program = shutil.which(options.program) or sys.exit(f"there is no program {options.program}")
    started = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            certificates(folder)
            (folder / "origin.mjs").write_text(ORIGIN)
            origin = subprocess.Popen(["node", folder / "origin.mjs", folder, str(options.megabytes)], stdout=subprocess.PIPE, text=True)
            started.append(origin)
            port, *codings = origin.stdout.readline().split()
            proxies = [Proxy(os.path.abspath(program), folder, mode, int(port)) for mode in ("redact", "off")]
            started.extend(proxy.process for proxy in proxies)
            compare(proxies, "/small", 500, 1)
            small = compare(proxies, "/small", 2000, options.rounds)
            cpu = {mode: row[0] / 2000 * 1e6 for mode, row in small.items()}
            print(f"answer of 1 KiB: {cpu['redact']:.0f} µs of processor with the guard, {cpu['off']:.0f} without: {cpu['redact'] / cpu['off']:.2f}")
            for coding in codings:
                # What the guard gives out is unpacked already; without it the agent has that to do.
                coding, unpacking = coding.split("=")
                big = compare(proxies, f"/{coding}", 1, options.rounds)
                content = big["redact"][2] / 1e6
                speed = {"redact": content / big["redact"][1], "off": content / (big["off"][1] + float(unpacking))}
                print(f"download, {coding}: {speed['redact']:.0f} MB/s with the guard, {speed['off']:.0f} without: {speed['redact'] / speed['off']:.2f}; "
                      f"processor {big['redact'][0]:.3f} s, {big['off'][0]:.3f} s: {big['redact'][0] / big['off'][0]:.2f}")
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(30)


main()

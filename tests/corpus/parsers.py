"""Foreign parsers as origins: what they understood is compared with the audit. h11 is an origin like the others; Node's
and nginx's are processes."""

import atexit
import json
import shutil
import subprocess
import threading
from pathlib import Path

from origins import Origin, Record

HERE = Path(__file__).resolve().parent


class Node:
    """Node's http server (llhttp): `node.js` writes one line for each request."""

    def __init__(self, house, host):
        self.name, self.address, self.records = host, house.address(host), []
        context = house.ca.server(house.dir, [host])
        certificate, key = context.files
        self.process = subprocess.Popen(
            ["node", HERE / "node.js", self.address, "443" if house.private else "0", certificate, key],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.accepted = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            told = json.loads(line)
            fields = [(n.lower(), v) for n, v in zip(told["raw"][::2], told["raw"][1::2])]
            self.records.append(Record(self.name, told["connection"], told["method"], told["url"], fields, self.name,
                                       bytes.fromhex(told["body"]), complete=told["complete"]))

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Nginx:
    """nginx reads the request and passes on what it understood; the origin behind it records that."""

    def __init__(self, house, host):
        self.name, self.address = host, house.address(host)
        behind = Origin(host, "127.0.0.1", 0)
        self.behind = behind
        context = house.ca.server(house.dir, [host])
        certificate, key = context.files
        self.port = 443 if house.private else 18443
        dir = house.dir / "nginx"
        dir.mkdir(exist_ok=True)
        (dir / "nginx.conf").write_text(f"""
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; merge_slashes off; underscores_in_headers on; ignore_invalid_headers off;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s; client_max_body_size 0; large_client_header_buffers 8 64k;
  server {{
    listen {self.address}:{self.port} ssl; server_name _;
    ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{ proxy_pass http://127.0.0.1:{behind.port}; proxy_http_version 1.1; proxy_set_header Host $http_host;
                  proxy_set_header X-Understood $uri;
                  proxy_set_header Connection ""; proxy_request_buffering off; }}
  }}
}}
""")
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen([binary, "-c", dir / "nginx.conf", "-p", dir], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self.process.kill)

    @property
    def records(self):
        return self.behind.records

    def stop(self):
        self.process.terminate()
        self.process.wait()


def start(house):
    """Those that this machine has, by the name of their service."""
    found = {"h11": house.origins["h11.rw.test"]}
    if shutil.which("node"):
        found["node"] = Node(house, "node.rw.test")
    if shutil.which("nginx") or Path("/usr/sbin/nginx").exists():
        found["nginx"] = Nginx(house, "nginx.rw.test")
    return found

#!/usr/bin/env python3
"""Judges what is under deploy/: every Kubernetes overlay rendered, held against the strict schemas of three versions, and against
A07 of the attacks, network policies included; the Compose file; the systemd units; every query of dashboard and alerts; every
tokenward.yaml by `tokenward check`. Then each shape of pods is played here with its own volumes and users.

    tests/deploy/run.py [--bin FILE] [--cache DIR] [--keep]

Packages are installed once, into the cache [default: $TOKENWARD_CI_CACHE/deploy]. Needs Python 3.11 with venv, openssl, curl;
uses kubectl, promtool, systemd-analyze, nft where they are, and root for the plays. What could not be run is told and counted.
"""

import argparse
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
from program import interpreter  # noqa: E402

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DASHBOARD = KUBERNETES / "components" / "monitoring" / "tokenward.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
# The oldest that knows native sidecars without a switch, one between, the newest whose schema there is.
VERSIONS = ("1.29.0", "1.33.0", "1.37.0")
# Overlay: its shape, whether agents may ask DNS, whether Prometheus comes.
OVERLAYS = {"sidecar": ("sidecar", True, False), "sidecar-monitored": ("sidecar", True, True),
            "sidecar-transparent": ("transparent", True, False), "gateway": ("gateway", False, False),
            "gateway-monitored": ("gateway", False, True), "gateway-dns": ("gateway", True, False), "gateway-replicas": ("gateway", False, False)}
PLAYED = ("sidecar", "sidecar-transparent", "gateway", "gateway-replicas")
# The sidecar with the secrets mounted into its agent, and the one with rules, its agent in the group that they let out: what a play must find out.
CONTROLS = {"sidecar-open": {f"the agent reads=/run/secrets/tokenward/..1/{f}" for f in ("client.pem", "coder-token", "store.key")},
            "sidecar-around": {"missing: who=10001 10001 10001", "missing: around=503", "missing: elsewhere=7"}}
# Labels that Prometheus adds itself.
SCRAPED = {"job", "instance", "le", "__name__"}


class Judge:
    def __init__(self, options, cache, folder):
        self.options, self.cache, self.folder = options, cache, folder
        self.passed = self.failed = 0
        self.skipped, self.docs = [], {}

    def note(self, what, problems, told=""):
        problems = list(problems)
        self.passed, self.failed = self.passed + (not problems), self.failed + bool(problems)
        print(f"{'FAIL' if problems else 'ok  '} {what:64} {told}", flush=True)
        for problem in problems[:12]:
            print(f"       {problem}", flush=True)

    def skip(self, what, why):
        self.skipped.append(what)
        print(f"---- {what:64} not run: {why}", flush=True)

    # Kubernetes

    def render(self):
        kubectl = tools.kubectl(self.cache)
        if not kubectl:
            return self.skip("all overlays", "there is no kubectl for this machine")
        found = {p.parent.name for p in (KUBERNETES / "overlays").glob("*/kustomization.yaml")}
        self.note("every overlay is judged", sorted(found ^ set(OVERLAYS)))

        def one(name):
            done = subprocess.run([kubectl, "kustomize", KUBERNETES / "overlays" / name], capture_output=True, text=True, timeout=60)
            return name, done

        with ThreadPoolExecutor(2) as pool:
            for name, done in pool.map(one, OVERLAYS):
                problems = [done.stderr.strip()[-400:]] if done.returncode else []
                # Warnings of kustomize are about keys that will go.
                problems += [line for line in done.stderr.splitlines() if "Warning" in line]
                if not problems:
                    self.docs[name] = [d for d in yaml.safe_load_all(done.stdout) if d]
                    (self.folder / f"{name}.yaml").write_text(done.stdout)
                self.note(f"{name} is rendered", problems, f"{len(self.docs.get(name, []))} objects")
        return None

    def schemas(self):
        import kubernetes_validate

        def wrong(doc, version):
            if doc["apiVersion"].startswith("monitoring.coreos.com/"):
                return None
            try:
                kubernetes_validate.validate(doc, version, strict=True)
            except Exception as error:  # its own error, or the library's for an unknown kind
                return f"{doc['kind']} {doc['metadata']['name']}: {getattr(error, 'message', error)}"[:300]
            return None

        # The same object in several overlays is asked about once.
        each = {json.dumps(d, sort_keys=True): d for docs in self.docs.values() for d in docs}
        for version in VERSIONS:
            self.note(f"strict schemas of Kubernetes {version}", filter(None, (wrong(d, version) for d in each.values())), f"{len(each)} objects")
        odd = copy.deepcopy(next(d for d in each.values() if d["kind"] == "Deployment"))
        odd["spec"]["template"]["spec"]["containers"][0]["comand"] = []
        self.note("the schemas see a key that does not exist", [] if wrong(odd, VERSIONS[-1]) else ["they do not"])
        monitors = [d for d in each.values() if d["kind"] in ("PodMonitor", "ServiceMonitor")]
        self.note("monitors, by a list of keys: no package has their schema", [p for d in monitors for p in monitor(d)], f"{len(monitors)} objects")

    def manifests(self):
        for name, (shape, dns, monitored) in OVERLAYS.items():
            docs = self.docs.get(name)
            if docs is None:
                continue
            self.note(f"{name}: users, files, probes, replicas", [p for rule in pods.RULES for p in rule(docs)])
            self.note(f"{name}: what the network lets through", pods.network(docs, shape, dns, monitored))
        if set(self.docs) >= set(PLAYED):
            sabotage.judge(self, self.docs)

    # Configurations

    def configurations(self):
        found = {f"overlay {name}": next(d["data"]["tokenward.yaml"] for d in docs if d["kind"] == "ConfigMap" and "tokenward.yaml" in d["data"])
                 for name, docs in self.docs.items()}
        found |= {"compose": (DEPLOY / "compose" / "tokenward.yaml").read_text(), "systemd": (DEPLOY / "systemd" / "tokenward.yaml").read_text()}
        if not self.options.bin:
            return self.skip(f"{len(found)} embedded configurations", "there is no tokenward to ask")
        problems = []
        for name, text in found.items():
            file = self.folder / "tokenward.yaml"
            file.write_text(text)
            done = checked(self.options.bin, self.folder, file, text)
            problems += [f"{name}: {line}" for line in (done.stdout + done.stderr).splitlines()] if done.returncode else []
        file.write_text(text.replace("rules:", "rulse:"))
        self.note("every embedded tokenward.yaml passes `tokenward check`", problems, f"{len(found)} configurations")
        self.note("`check` sees a broken one", [] if checked(self.options.bin, self.folder, file, text).returncode == 1 else ["it does not"])
        return None

    # Queries

    def queries(self):
        known = metrics_of(ROOT / "README.md")
        self.note("README.md has a table of metrics", [] if len(known) >= 20 else [f"only {len(known)} in it"], f"{len(known)} metrics")
        dashboard = json.loads(DASHBOARD.read_text())
        asked = [(p["title"], t["expr"], t["legendFormat"]) for p in dashboard["panels"] for t in p["targets"]]
        asked += [(v["name"], v["query"], "") for v in dashboard["templating"]["list"] if v["type"] == "query"]
        self.note("every dashboard query names metrics and labels that exist", [p for a in asked for p in unknown(known, *a)], f"{len(asked)} queries")
        ids = [p["id"] for p in dashboard["panels"]]
        self.note("panels have numbers of their own", [] if len(ids) == len(set(ids)) else ["they do not"])
        bad = [e for e in ("sum(tokenward_request_total)", "sum by (agnet) (tokenward_requests_total)", 'tokenward_tokens{service="a",kind="b"}')
               if not list(unknown(known, "", e, ""))]
        self.note("a query with a wrong name would be seen", bad)
        expressions = [e for _, e, _ in asked if not e.startswith("label_values")]
        if not shutil.which("promtool"):
            self.skip("queries by promtool", "there is no promtool")
        else:
            rules = [{"record": f"x:{i}", "expr": e.replace("$__rate_interval", "5m").replace("$instance", ".*")} for i, e in enumerate(expressions)]
            file = self.folder / "rules.yaml"
            file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
            done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60)
            self.note("promtool parses every dashboard query", [done.stdout + done.stderr] if done.returncode else [], f"{len(rules)} queries")
        if not ALERTS.exists():
            return self.skip("alert rules", "deploy/prometheus/alerts.yaml is not in this checkout")
        rules = [r for g in yaml.safe_load(ALERTS.read_text())["groups"] for r in g["rules"]]
        self.note("every alert names metrics and labels that exist",
                  [p for r in rules for p in unknown(known, r["alert"], r["expr"], r["annotations"].get("summary", ""))], f"{len(rules)} alerts")
        jobs = {j for r in rules for j in re.findall(r'job="([^"]*)"', r["expr"])}
        self.note("alerts and monitors agree on the job's name", [] if jobs <= {"tokenward"} else sorted(jobs))
        wrapped = subprocess.run(["sh", "-c", wrapping_line()], capture_output=True, text=True, cwd=ROOT, timeout=60)
        whole = yaml.safe_load(wrapped.stdout) if not wrapped.returncode else {}
        self.note("the line of docs/deploy/monitoring.md makes a PrometheusRule of them",
                  [] if whole.get("kind") == "PrometheusRule" and whole["spec"] == yaml.safe_load(ALERTS.read_text()) else [wrapped.stderr or "it does not"])
        return None

    # Compose and systemd

    def compose(self):
        import jsonschema
        schema = json.loads(tools.compose_schema(self.cache).read_text())
        file = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
        errors = [e.message for e in jsonschema.Draft7Validator(schema).iter_errors(file)]
        self.note("compose.yaml fits the schema of Compose", errors)
        self.note("compose.yaml: the agent has one network, which leads nowhere, and public files", composed(file))
        broken = []
        for change in sabotage.COMPOSE:
            changed = copy.deepcopy(file)
            change(changed)
            if not list(composed(changed)):
                broken.append(change.__doc__)
        self.note("a compose.yaml with a way out would be seen", broken, f"{len(sabotage.COMPOSE)} changes")

    def systemd(self):
        if not shutil.which("systemd-analyze"):
            return self.skip("the systemd units", "there is no systemd-analyze")
        units = self.folder / "units"
        units.mkdir()
        for name, file in (("tokenward.service", "tokenward.service"), ("agent@coder.service", "agent@.service")):
            # The programs need not be installed here; that they are executable is not what is judged.
            text = re.sub(r"/usr/local/bin/(tokenward|agent)\b", "/bin/true", (DEPLOY / "systemd" / file).read_text())
            (units / name).write_text(text)
        names = [units / "tokenward.service", units / "agent@coder.service"]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, timeout=60)
        said = [line for line in (done.stdout + done.stderr).splitlines() if str(units.name) in line or "tokenward" in line or "agent@" in line]
        self.note("systemd-analyze verify", said + ([f"ended with {done.returncode}"] if done.returncode else []))
        for name in names:
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=15", name], capture_output=True, text=True, timeout=60)
            level = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
            self.note(f"systemd-analyze security: {name.name}", [done.stderr or "above 1.5"] if done.returncode else [], f"exposure {level[1] if level else '?'}")
        config = yaml.safe_load((DEPLOY / "systemd" / "tokenward.yaml").read_text())
        unit = (DEPLOY / "systemd" / "tokenward.service").read_text()
        loaded = set(re.findall(r"^LoadCredential=([^:]+):", unit, re.M))
        read = set(re.findall(r"/run/credentials/tokenward.service/([\w.-]+)", json.dumps(config)))
        self.note("the unit loads the credentials that tokenward.yaml reads", sorted(loaded ^ read))
        if shutil.which("systemd-sysusers"):
            root = self.folder / "root"
            (root / "etc").mkdir(parents=True)
            done = subprocess.run(["systemd-sysusers", f"--root={root}", DEPLOY / "systemd" / "sysusers.conf"], capture_output=True, text=True, timeout=60)
            users = (root / "etc" / "passwd").read_text() if (root / "etc" / "passwd").exists() else ""
            self.note("systemd-sysusers makes the user", [] if not done.returncode and users.startswith("tokenward:") else [done.stderr or "it does not"])
        return None

    # Plays

    def plays(self):
        if not self.options.bin:
            return self.skip("plays of the pods", "there is no tokenward to play with")
        if os.geteuid() or not shutil.which("setpriv"):
            return self.skip("plays of the pods", "they need root and setpriv")
        playable = [name for name in PLAYED if name in self.docs]
        if not shutil.which("nft") and "sidecar-transparent" in playable:
            playable.remove("sidecar-transparent")
            self.skip("the play of sidecar-transparent", "there is no nft")
        for name, overlay, change in (("sidecar-open", "sidecar", sabotage.opened), ("sidecar-around", "sidecar-transparent", sabotage.exempt)):
            if overlay in playable:
                wrong = copy.deepcopy(self.docs[overlay])
                change(wrong)
                (self.folder / f"{name}.yaml").write_text(yaml.safe_dump_all(wrong))
                playable.append(name)

        def one(name):
            folder = self.folder / f"play-{name}"
            folder.mkdir()
            return subprocess.run(["unshare", "--net", "--mount", sys.executable, HERE / "stage.py", self.folder / f"{name}.yaml", self.options.bin,
                                   folder], capture_output=True, text=True, timeout=150)

        with ThreadPoolExecutor(4) as pool:
            for name, done in zip(playable, pool.map(one, playable)):
                problems = [done.stderr[-1500:]] if done.returncode else list(played(name, json.loads(done.stdout), metrics_of(ROOT / "README.md")))
                if name in CONTROLS:
                    self.note(f"{name}, played: what is wrong is seen", sorted(CONTROLS[name] - set(problems)))
                    continue
                self.note(f"{name}, played: the agent works and has public files alone", problems)
        self.serves()
        return None

    def serves(self):
        """Compose's and systemd's configurations, served."""
        given = self.folder / "given"
        file = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
        stage.secret_values(given, self.options.bin)
        hands = {"compose": shlex.join(file["services"]["environment"]["command"]),
                 "systemd": "sh -c 'umask 022; cat /run/tokenward/agents/coder/env > /run/agent/env'"}
        for name, hand in hands.items():
            done = stage.serve(DEPLOY / name / "tokenward.yaml", self.options.bin, given / "tokenward", hand)
            lines = done.stdout.splitlines()
            host = "tokenward" if name == "compose" else "127.0.0.1"
            wanted = ["mode 755 /run/tokenward", "mode 644 /run/tokenward/bundle.pem", "mode 644 /run/tokenward/ca.pem", "mode 700 /run/tokenward/agents/coder",
                      "mode 600 /run/tokenward/agents/coder/env", "mode 644 /run/agent/env", f'env HTTPS_PROXY="http://coder:TOKEN@{host}:8080"',
                      'env SSL_CERT_FILE="/run/tokenward/bundle.pem"', "status protection not_dumpable: holds", "ended 0"]
            problems = [f"missing: {w}" for w in wanted if w not in lines] + ([done.stderr[-800:]] if done.returncode else [])
            if name == "compose":
                problems += [line for line in lines if line.startswith("env ") and "127.0.0.1" in line]
            self.note(f"{name}, served: as its own user, with its own folders, to the end", problems)


def monitor(doc):
    """Keys of a PodMonitor or ServiceMonitor that are used here, as the operator's documentation names them."""
    spec, key = doc["spec"], "podMetricsEndpoints" if doc["kind"] == "PodMonitor" else "endpoints"
    yield from (f"spec.{other}" for other in set(spec) - {"namespaceSelector", "selector", key, "jobLabel"})
    for endpoint in spec[key]:
        yield from (f"{key}.{other}" for other in set(endpoint) - {"port", "path", "interval", "scrapeTimeout", "scheme", "relabelings"})
        if {"targetLabel": "job", "replacement": "tokenward"} not in endpoint.get("relabelings", []):
            yield "the job is not called tokenward"


def checked(binary, folder, file, text):
    """`check` where every secret that the configuration names is there: under folders that only this process sees."""
    paths = sorted(set(re.findall(r"file: (/run/[^\s,}]+)", text)))
    stand = folder / "secrets"
    if not stand.exists():
        stage.secret_values(stand, binary)
    flat = {f.name: f for f in stand.rglob("*") if f.is_file()}
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs tmpfs /run"]
    for path in paths:
        kind = "tokenward-ca" if "/ca/" in path else "tokenward-tls"
        source = stand / kind / Path(path).name if Path(path).name.startswith("tls.") else flat[Path(path).name]
        lines += [f"mkdir -p {Path(path).parent}", f"install -m 0400 {source} {path}"]
    lines.append(f"exec {Path(binary).resolve()} --config {file} check")
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(["unshare", *root, "--mount", "sh", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)


def metrics_of(page):
    """Metrics and their labels, from the table of the README."""
    rows = re.findall(r"^\| `(tokenward_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", page.read_text(), re.M)
    return {name: (set(labels.split(",")) if labels else set(), kind) for name, labels, kind in rows}


def unknown(known, where, query, legend):
    """Metrics and labels of a query that tokenward does not have."""
    have = set()
    for name, braces in re.findall(r"\b(tokenward_\w+|up)\b\s*(\{[^}]*\})?", query):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name == "up":
            labels = set()
        elif name in known and known[name][1] != "histogram":
            labels = known[name][0]
        elif base in known and base != name and known[base][1] == "histogram":
            labels = known[base][0]
        else:
            yield f"{where}: {name} does not exist"
            continue
        have |= labels
        used = set(re.findall(r"(?:^|[{,])\s*(\w+)\s*(?:=~|!~|!=|=)", braces or ""))
        yield from (f"{where}: {name} has no label {label}" for label in sorted(used - labels - SCRAPED))
    grouped = {word.strip() for group in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query) for word in group.split(",")}
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", legend))
    yield from (f"{where}: no metric in it has a label {label}" for label in sorted((grouped | shown) - have - SCRAPED - {""}))


def wrapping_line():
    """The command by which docs/deploy/monitoring.md makes a PrometheusRule, without the part that applies it."""
    text = (ROOT / "docs" / "deploy" / "monitoring.md").read_text()
    line = re.search(r"^ {4}(\(.*alerts\.yaml\)) \| kubectl apply -f -$", text, re.M)
    return line[1] if line else "echo docs/deploy/monitoring.md has no such line >&2; false"


def composed(file):
    services, networks = file["services"], file.get("networks", {})
    for name, service in services.items():
        if service.get("privileged") or service.get("cap_add") or service.get("devices") or service.get("pid") or service.get("ipc"):
            yield f"{name}: privileges"
        if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []) or not service.get("read_only"):
            yield f"{name}: not hardened"
        if "ports" in service:
            yield f"{name}: shows ports to the host's network"
        if any("docker.sock" in str(v) for v in service.get("volumes", [])):
            yield f"{name}: Docker's socket"
    agent, house = services["agent"], services["tokenward"]
    if not agent.get("networks") or agent.get("network_mode") or any(not (networks.get(n) or {}).get("internal") for n in agent["networks"]):
        yield "agent: a network that leads out"
    if not set(agent.get("networks", [])) & set(house["networks"]):
        yield "agent: cannot reach tokenward"
    users = [agent.get("user", "0:0").split(":"), house.get("user", "0:0").split(":")]
    if "0" in users[0] + users[1] or set(users[0]) & set(users[1]):
        yield "agent and tokenward share a user or a group, or are root"
    if agent.get("secrets") or agent.get("extra_hosts") or agent.get("dns"):
        yield "agent: secrets, or names of its own"
    for volume in agent.get("volumes", []):
        source, _, mode = volume.split(":")
        if source not in ("public", "./environment") or mode != "ro":
            yield f"agent: mounts {volume}"
    if "healthcheck" not in house or agent["depends_on"]["tokenward"]["condition"] != "service_healthy":
        yield "the agent does not wait until tokenward is healthy"
    for secret in house.get("secrets", []):
        if "file" not in file["secrets"].get(secret, {}):
            yield f"the secret {secret} is no file"


def played(name, told, known):
    lines = told["agent"]
    wanted = ["who=10001 10001 10001", f"proxy={'http' if name.startswith('sidecar') else 'https'}", "token=there", "denied_path=200 403", "allowed=200 503"]
    yield from (f"missing: {w}" for w in wanted if w not in lines)
    if not any(line.startswith("denied_host=") and "403" in line for line in lines):
        yield "a host that no service has was not refused"
    public = {"/run/agent/env", *(f"/run/tokenward/{f}" for f in ("ca.pem", "bundle.pem", "trust.p12", "wgetrc")), "/run/bin/tokenward"}
    yield from (f"the agent {line}" for line in lines if line.startswith("reads=") and line[6:] not in public)
    yield from (f"the agent {line}" for line in lines if line.startswith("writes="))
    if told["error"] or told["code"]:
        yield f"the agent said {told['error']!r}, tokenward ended with {told['code']}"
    yield from (f"{secret} was in the agent's output, the log or the audit lines" for secret in told["leaked"])
    requests = [(line["agent"], line.get("code")) for line in told["audit"] if line["event"] == "request"]
    if told["redirected"]:
        # 7: curl could not connect.
        yield from (f"missing: {w}" for w in ("around=503", "elsewhere=7") if w not in lines)
    if requests != [("coder", "policy-denied"), ("coder", "as-unavailable"), ("coder", "destination-denied")] + [("coder", "as-unavailable")] * told["redirected"]:
        yield f"the audit lines are {requests}"
    yield from (f"{metric} is in /metrics and not in README.md" for metric in told["metrics"] if metric.startswith("tokenward_") and metric not in known)


def judge(options, cache):
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tokenward-deploy-"))
    folder.chmod(0o755)
    it = Judge(options, cache, folder)
    try:
        it.render()
        for part in ([it.schemas, it.manifests] if it.docs else []) + [it.configurations, it.queries, it.compose, it.systemd, it.plays]:
            part()
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{it.passed} passed, {it.failed} failed, {len(it.skipped)} not run{': ' + '; '.join(it.skipped) if it.skipped else ''},"
          f" in {time.monotonic() - begun:.0f} s", flush=True)
    return it.failed == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, help="the tokenward to ask [default: target/release/tokenward, where it is]")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folder with what was rendered and played")
    options = parser.parse_args()
    base = Path(os.environ.get("TOKENWARD_CI_CACHE") or Path.home() / ".cache" / "tokenward-ci")
    cache = (options.cache or base / "deploy").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    wanted = interpreter(cache, HERE / "requirements.txt")
    if Path(sys.executable) != wanted:
        os.execv(wanted, [str(wanted), *sys.argv])
    default = ROOT / "target" / "release" / "tokenward"
    options.bin = options.bin.resolve() if options.bin else default if default.exists() else None
    global pods, sabotage, stage, yaml
    import pods
    import sabotage
    import stage
    import yaml
    sys.exit(0 if judge(options, cache) else 1)


import tools  # noqa: E402

if __name__ == "__main__":
    main()

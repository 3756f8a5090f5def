"""Class S: what a configuration may not do to us."""

import os
import secrets
import signal
import subprocess
import threading
import time

from annex import Annex
from cases import case, expect
from house import MIB, fail_unless, wait_until

OK = "services: {ok: {hosts: [ok.example], rules: [{allow: GET /}]}}\n"
RULES = 'rules: [{allow: "GET /"}]'


def service(text):
    return f"services: {{a: {{{text}}}}}\n"


def refused(house, text, environment=None, verb="check", seconds=10):
    """What is said about a file that must not be loaded."""
    path = house.dir / f"broken-{secrets.token_hex(4)}.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = house.verb(verb, config=path, environment={**house.environment(), **(environment or {})}, timeout=seconds)
    fail_unless(done.returncode == 1, "exit", done.returncode, "for", text[:80], done.stderr[:300])
    fail_unless(done.stderr.strip() and "panicked" not in done.stderr, "said:", done.stderr[:300])
    return done.stderr


BROKEN = {
    "unknown key": "zebra: 1\n" + OK, "unknown key deep": service(f"hosts: [a.example], {RULES}, tls_verify: false"),
    "misspelt": "servcies: {}\n" + OK,
    "duplicate key": OK + OK, "duplicate service": "services:\n  a: {hosts: [a.example]}\n  a: {hosts: [b.example]}\n",
    "duplicate below": service(f"hosts: [a.example], {RULES}, port: 443, port: 80"),
    "wrong type": "services: []\n", "text for a number": service(f"hosts: [a.example], {RULES}, port: '443'"),
    "number for a list": service(f"hosts: 5, {RULES}"),
    "a list for a map": "- services\n", "a number": "42\n", "text": "allow everything\n", "null": "~\n",
    "services null": "services:\n", "services null in words": "services: null\n",
    "rules null": service("hosts: [a.example], rules: ~"), "rules of null": service("hosts: [a.example], rules: [~]"),
    "no hosts": service(RULES), "hosts empty": service(f"hosts: [], {RULES}"), "hosts null": service(f"hosts: [~], {RULES}"),
    "hosts of nothing": service(f"hosts: [''], {RULES}"), "a map for a host": service(f"hosts: [{{a: b}}], {RULES}"),
    "tab": "services:\n\ta: {hosts: [a.example]}\n",
    "empty": "", "spaces": "  \n\n", "a comment": "# nothing\n", "no section": "store: memory\n",
    "two documents": OK + "---\n" + OK, "end marker": OK + "...\nservices: {}\n",
    "not UTF-8": b"\xff\xfe" + OK.encode("utf-16-le"), "bytes": b"services: {\xe9: 1}\n", "NUL": OK.encode() + b"\0",
    "control": OK.encode() + b"# \x1b[2J\x07\n",
    "cut": OK[:-3], "unclosed": "services: {a: [\n", "rule empty": service('hosts: [a.example], rules: [{allow: ""}]'),
    "rule of two": service('hosts: [a.example], rules: [{allow: "GET /", deny: "GET /x"}]'),
    "rule of none": service("hosts: [a.example], rules: [{}]"),
    "a rule without path": service('hosts: [a.example], rules: [{allow: "GET"}]'),
    "a rule that climbs": service('hosts: [a.example], rules: [{allow: "GET /../x"}]'),
    "a rule with a query": service('hosts: [a.example], rules: [{allow: "GET /x?y"}]'),
    "TRACE": service('hosts: [a.example], rules: [{allow: "TRACE /"}]'),
    "CONNECT": service('hosts: [a.example], rules: [{allow: "CONNECT /"}]'), "everything": service(f'hosts: ["*"], {RULES}'),
    "every host": service(f'hosts: ["**"], {RULES}'),
    "everything with a credential": service(f'hosts: ["*.com"], credential: {{bearer: {{env: A_TOKEN}}}}, {RULES}'),
    "a public suffix": service(f'hosts: ["*.co.uk"], credential: {{bearer: {{env: A_TOKEN}}}}, {RULES}'),
    "a wildcard inside": service(f'hosts: ["a.*.example"], {RULES}'),
    "part of a label": service(f'hosts: ["a*.example"], {RULES}'),
    "a host with a port": service(f"hosts: ['a.example:443'], {RULES}"),
    "a URL": service(f"hosts: ['https://a.example'], {RULES}"),
    "an unknown service": "agents: {a: {auth: {token: {env: A_TOKEN}}, services: [zebra]}}\n" + OK,
    "no auth": "agents: {a: {services: [ok]}}\n" + OK,
    "an empty token": "agents: {a: {auth: {token: {env: EMPTY}}}}\n" + OK,
    "an unset token": "agents: {a: {auth: {token: {env: NOT_SET_AT_ALL}}}}\n" + OK,
    "a short hash": "agents: {a: {auth: {token_sha256: abc}}}\n" + OK,
    "a port of 0": service(f"hosts: [a.example], port: 0, {RULES}"),
    "a port of 70000": service(f"hosts: [a.example], port: 70000, {RULES}"),
    "a negative limit": "limits: {connections: -1}\n" + OK, "no limit": "limits: {connections: 0}\n" + OK,
    "infinite": "limits: {connections: .inf}\n" + OK,
    "verification off": service(f"hosts: [a.example], upstream: {{verify: false}}, {RULES}"),
    "insecure": service(f"hosts: [a.example], upstream: {{insecure_skip_verify: true}}, {RULES}"),
    "plain with a credential": service(
        f"hosts: [a.example], port: 80, credential: {{bearer: {{env: A_TOKEN}}}}, {RULES}"),
        "clear text to the world": "listen: {proxy: '0.0.0.0:8080'}\nagents: {a: {auth: {token: {env: A_TOKEN}}}}\n" + OK,
    "a tunnel wildcard": 'tunnel: ["*.example:443"]\n' + OK, "an http issuer": "issuers: {i: {url: 'http://as.example'}}\n" + OK,
}


@case("S01", "files that are not understood are not loaded")
def run(house, mark):
    wrong = []

    def one(names):
        for name in names:
            try:
                refused(house, BROKEN[name], {"EMPTY": ""})
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
    names = list(BROKEN)
    threads = [threading.Thread(target=one, args=(names[i::4],), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    fail_unless(not wrong, "; ".join(wrong))
    # `serve` is as strict as `check`, and does not begin to listen first.
    for name in ("unknown key", "duplicate key", "empty", "services null", "tab"):
        refused(house, f"health: 127.0.0.1:0\n{BROKEN[name]}" if name != "empty" else "", verb="serve")


@case("S01", "a mark for UTF-8 changes nothing or is refused")
def run(house, mark):
    path = house.dir / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + OK.encode())
    done = house.verb("check", config=path)
    fail_unless(done.returncode in (0, 1) and "panicked" not in done.stderr, done.returncode, done.stderr[:200])
    if done.returncode == 0:
        fail_unless("ok.example" in done.stdout, done.stdout)


@case("S01", "an empty list of rules denies", private=True)
def run(house, mark):
    services = {"none": "{hosts: [s01.wild.test], upstream: {<CA>}, rules: []}",
                "absent": "{hosts: [s01b.wild.test], upstream: {<CA>}}",
                "denies": '{hosts: [s01c.wild.test], upstream: {<CA>}, rules: [{deny: "* /x"}]}'}
    annex = Annex(house, services, who=("A", "B"), allowed={"B": []})
    for host in ("s01.wild.test", "s01b.wild.test", "s01c.wild.test"):
        expect(annex.agents["A"].get(host, "/"), (403, "policy-denied"))
        # No service is no service: an empty list is not the absent one.
        stream, answer = annex.agents["B"].connect(f"{host}:443")
        stream.close()
        expect(answer, (403, "destination-denied"))
    fail_unless(not mark.everywhere(), "it went out")


@case("S01", "a literal where a secret belongs is refused, and not repeated")
def run(house, mark):
    canary = "canary-" + secrets.token_hex(12)
    for text in (service(f"hosts: [a.example], credential: {{bearer: {canary}}}, {RULES}"),
                 f"agents: {{a: {{auth: {{token: {canary}}}}}}}\n" + OK,
                 service(f"hosts: [a.example], credential: {{bearer: {{env: {canary}, file: {canary}}}}}, {RULES}"),
                 service(f"hosts: [a.example], credential: {{header: {{name: x, value: {canary}}}}}, {RULES}"),
                 service(f"hosts: [a.example], credential: {{bearer: {{literal: {canary}}}}}, {RULES}"),
                 service(f"hosts: [a.example], credential: {canary}, {RULES}")):
        said = refused(house, text)
        fail_unless(canary not in said, "the secret is repeated:", said)
    # What a referenced file holds is not shown either.
    (house.dir / "secret.txt").write_text(f"{canary}\r\nX-Evil: 1\r\n")
    said = refused(house, service(f"hosts: [a.example], credential: {{bearer: {{file: secret.txt}}}}, {RULES}"))
    fail_unless(canary not in said, "a file's text is repeated:", said)


def measured(house, path, seconds):
    """`(exit code, seconds, most bytes resident)` of `check` on a file."""
    start = time.monotonic()
    process = subprocess.Popen([house.binary, "--config", path, "check"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL,
                               env=house.environment())
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, time.monotonic() - start, usage.ru_maxrss * 1024
        if time.monotonic() - start > seconds:
            process.kill()
            os.wait4(process.pid, 0)
            process.returncode = -9
            return None, seconds, 0
        time.sleep(0.01)


FAILURES = "tokenward_config_reload_failures_total"
GENERATION = "tokenward_config_generation"


def gauge(annex, name):
    return next(int(line.split()[1]) for line in annex.metrics().splitlines() if line.startswith(f"{name} "))


@case("S02", "a reload with a broken file under load", private=True)
def run(house, mark):
    annex = Annex(house, {"wild": '{hosts: ["*.wild.test"], upstream: {<CA>}, rules: [{allow: "* /**"}]}'}, who=("A",), log="error")
    agent, whole = annex.agents["A"], annex.config.read_text()
    odd, done, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            answer = agent.get("s02.wild.test", "/")
            done.append(answer.status)
            if answer.status != 200:
                odd.append((answer.status, answer.code))
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    broken = [BROKEN["unknown key"], "services: [", "", whole.replace("rules:", "rulez:"), whole + "services: {}\n"]
    for count, text in enumerate(broken, 1):
        annex.config.write_text(text)
        annex.process.send_signal(signal.SIGHUP)
        wait_until("the refusal is counted", lambda: gauge(annex, FAILURES) >= count, 10)
    # The file's own watch may have counted some of them once more.
    fail_unless(gauge(annex, GENERATION) == 1, "a broken file was taken")
    annex.config.write_text(whole)
    annex.process.send_signal(signal.SIGHUP)
    wait_until("the whole file is taken", lambda: gauge(annex, GENERATION) >= 2, 10)
    before = len(done)
    wait_until("requests go on", lambda: len(done) > before + 8, 10)
    stop.set()
    for thread in threads:
        thread.join(20)
    fail_unless(not odd, "requests failed:", odd[:5])
    fail_unless(len(annex.events("config.refused")) >= len(broken), annex.events("config.refused"))


@case("S03", "a reload that takes a rule away from a tunnel that is open", private=True)
def run(house, mark):
    host, other = "s03.wild.test", "s03b.wild.test"
    service = '{hosts: [%s], upstream: {<CA>}, rules: [{allow: "* /**"}]}'
    annex = Annex(house, {"rw": service % host, "ro": service % other}, who=("A", "B"), log="error")
    agent, request = annex.agents["A"], f"GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    with agent.tunnel(host) as tunnel, annex.agents["B"].tunnel(host) as others:
        for one in (tunnel, others):
            one.send(request)
            expect(one.answer(), 200)
        annex.config.write_text(annex.config.read_text().replace("services: [rw, ro]", "services: [ro]", 1))
        annex.process.send_signal(signal.SIGHUP)
        start, allowed = time.monotonic(), 0
        while True:
            tunnel.send(request)
            answer = tunnel.answer()
            if answer.status == 403:
                break
            allowed += 1
            fail_unless(time.monotonic() - start < 1, "still allowed after a second,", allowed, "requests")
        fail_unless(answer.code in ("policy-denied", "destination-denied"), answer.code)
        others.send(request)
        expect(others.answer(), 200)
    expect(agent.get(other, "/"), 200)


@case("S04", "bombs, giants and files that are none")
def run(house, mark):
    dir = house.dir / "s04"
    dir.mkdir(exist_ok=True)
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    files = {"anchors": bomb + OK, "merged": "x: &x {a: 1}\n" + "".join(f"k{i}: {{<<: *x}}\n" for i in range(1000)) + OK,
             "itself": "services: &s {a: *s}\n", "deep": "services: " + "[" * 200_000 + "]" * 200_000 + "\n",
             "deep maps": "services: " + "{a: " * 50_000 + "\n",
             "many keys": "services:\n" + "".join(f"  s{i}: 1\n" for i in range(100_000)),
             "a long line": "services: {a: {hosts: [" + "x" * 20_000_000 + "]}}\n",
             "many quotes": "services: " + '"' * 1_000_000 + "\n", "tags": "services: !!python/object/apply:os.system ['id']\n",
             "a tag bomb": "!a " * 100_000 + "x\n",
             "alias": "services: *nothing\n", "complex keys": "? " * 50_000 + "x\n"}
    paths = {}
    for name, text in files.items():
        paths[name] = dir / f"{name.replace(' ', '-')}.yaml"
        paths[name].write_text(text)
    paths["a gigabyte"] = dir / "giant.yaml"
    with paths["a gigabyte"].open("wb") as file:
        file.write(OK.encode())
        file.truncate(1 << 30)
    paths |= {"zeros": "/dev/zero", "a folder": dir, "a terminal that is none": "/dev/tty", "our own memory": "/proc/self/mem",
              "nothing": "/dev/null",
              "absent": dir / "absent.yaml"}
    wrong = []

    def one(names):
        for name in names:
            code, seconds, bytes = measured(house, paths[name], 8)
            if code != 1 or seconds > 5 or bytes > 512 * MIB:
                wrong.append(f"{name}: exit {code}, {seconds:.1f} s, {bytes // MIB} MiB")
    threads = [threading.Thread(target=one, args=(list(paths)[i::3],), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    paths["a gigabyte"].unlink()
    fail_unless(not wrong, "; ".join(wrong))


@case("S04", "nothing is expanded, included or templated")
def run(house, mark):
    canary = "canary-" + secrets.token_hex(8)
    planted = {"EVIL": f"{canary}.evil.test", "HOSTS": "evil.test"}
    (house.dir / "more.yaml").write_text(f"hosts: [{canary}.test]\n")
    shapes = ["${EVIL}", "$EVIL", "%EVIL%", "{{ EVIL }}", "{{env.EVIL}}", "$(EVIL)", "`echo $EVIL`", "$(cat /etc/shadow)",
              "#{EVIL}", "@EVIL", "env:EVIL",
              "${EVIL:-a.test}", "${file:/etc/shadow}", "file:///etc/shadow", "<%= ENV['EVIL'] %>", "~/a", "../../etc/shadow"]
    for shape in shapes:
        said = refused(house, service(f'hosts: ["{shape}"], {RULES}'), planted)
        fail_unless(canary not in said, "expanded:", said)
    for text in ("include: /etc/shadow\n" + OK, "services: !include more.yaml\n", "services: {a: !include /etc/shadow}\n",
                 f"services: !env EVIL\n", "!include /etc/shadow\n",
                 "services: {a: {<<: more.yaml, hosts: [a.example]}}\n", "%INCLUDE more.yaml\n---\n" + OK,
                 "services: {$ref: more.yaml}\n", "extends: more.yaml\n" + OK,
                 service("hosts: {env: EVIL}, " + RULES), service("hosts: [{env: HOSTS}], " + RULES),
                 service("hosts: [{file: more.yaml}], " + RULES),
                 "listen: {proxy: {env: EVIL}}\n" + OK, "listen: {proxy: '${EVIL}'}\n" + OK, "health: ${EVIL}\n" + OK,
                 'issuers: {i: {url: "https://${EVIL}"}}\n' + OK,
                 service(f'hosts: [a.example], upstream: {{connect: "${{EVIL}}"}}, {RULES}')):
        said = refused(house, text, planted)
        fail_unless(canary not in said and "root:" not in said, "read from elsewhere:", said)
    # In rules and paths such text is text.
    path = house.dir / "literal.yaml"
    path.write_text(service('hosts: [a.example], rules: [{allow: "GET /$EVIL/**"}]'))
    done = house.verb("check", config=path, environment={**house.environment(), **planted})
    fail_unless(canary not in done.stdout + done.stderr, "expanded in a rule")


@case("S05", "there is no mode that only looks on", private=True)
def run(house, mark):
    # Not built means refused, in every spelling that an operator might know from elsewhere.
    for text in ("enforcement: log_only_dangerous\n", "enforcement: log_only\n", "enforcement: audit\n", "enforce: false\n",
                 "mode: audit\n", "mode: monitor\n",
                 "audit_only: true\n", "dry_run: true\n", "audit: {only: true}\n", "audit: {enforcement: log_only_dangerous}\n",
                 "policy: {mode: permissive}\n",
                 "default: allow\n", "default_action: allow\n", "unmatched: pass\n", "on_error: allow\n", "fail_open: true\n"):
        refused(house, text + OK)
    for text in ("enforcement: log_only_dangerous", "mode: audit", "default: allow", "learn: true"):
        refused(house, service(f"hosts: [a.example], {RULES}, {text}"))
    for text in ('{warn: "GET /x"}', '{log: "GET /x"}', '{allow: "GET /x", audit: true}', '{deny: "GET /x", dry_run: true}'):
        refused(house, service(f"hosts: [a.example], rules: [{text}]"))
    for words in (["serve", "--audit-only"], ["serve", "--dry-run"], ["serve", "--permissive"], ["--no-enforce", "serve"],
                  ["serve", "--insecure"]):
        done = house.verb(*words)
        fail_unless(done.returncode == 2, words, "exit", done.returncode)
    # Nor by the environment: what is denied stays denied, and no credential goes out for it.
    token = "s05-" + secrets.token_urlsafe(24)
    names = ("TOKENWARD_ENFORCEMENT", "TOKENWARD_MODE", "TOKENWARD_AUDIT_ONLY", "TOKENWARD_DRY_RUN", "TOKENWARD_INSECURE",
             "TOKENWARD_DEBUG", "TOKENWARD_SKIP_VERIFY")
    environment = {name: value for name, value in zip(names, ("log_only_dangerous", "audit", "1", "true", "1", "1", "1"))}
    origin = house.open_origin("s05.test")
    house.credentialed.add(origin.name)
    annex = Annex(house,
                  {"s05": '{hosts: [s05.test], upstream: {<CA>}, credential: {bearer: {env: S05}}, rules: [{allow: "GET /yes"}]}'},
                  environment={**environment, "S05": token}, owners=[(token, origin.name)])
    expect(annex.agents["A"].get(origin.name, "/no"), (403, "policy-denied"))
    fail_unless(not mark.at(origin.name), "it went out")
    expect(annex.agents["A"].get(origin.name, "/yes"), 200)

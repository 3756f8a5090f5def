"""Class M: the certificates that tokenward makes for agents, and those that it takes from others."""

import base64
import datetime
import os
import re
import secrets
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent import Closed, Refused, Stream
from annex import Annex, annexed, oauth, realm
from cases import case, expect, head
from house import MIB, fail_unless, wait_until
from keys import DAY, NOW, Authority, name, pem, small_rsa
from origins import ordinary

RO, ECHO = "api.ro.test", "echo.test"


class Signer:
    """Somebody else's certificate and key, used as an authority."""

    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key


def crafted(by, subject, alternatives=(), extensions=(), start=NOW - DAY, end=NOW + 10 * DAY, key=None, digest=None):
    """A certificate with exactly these extensions: what `Authority.leaf` would not make."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (x509.CertificateBuilder().subject_name(name(subject)).issuer_name(by.certificate.subject).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end))
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(a) for a in alternatives]), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=not isinstance(extension, x509.ExtendedKeyUsage))
    return builder.sign(by.key, digest or hashes.SHA256()), key


def serving(dir, chain, key, ciphers=None, low=None, high=None):
    """A server's TLS settings for a chain. What it offers may be as weak as the library can be brought to."""
    stem = dir / f"crafted-{secrets.token_hex(6)}"
    stem.with_suffix(".pem").write_bytes(b"".join(pem(c) for c in chain))
    stem.with_suffix(".key").write_bytes(pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")
    if low:
        context.minimum_version = low
    if high:
        context.maximum_version = high
    context.load_cert_chain(stem.with_suffix(".pem"), stem.with_suffix(".key"))
    return context


def by_sha1(house, host):
    """Signed with SHA-1, which the library here does not do any more."""
    stem = house.dir / "sha1"
    files = {suffix: stem.with_suffix(suffix) for suffix in (".ca", ".ca-key", ".key", ".csr", ".ext", ".pem")}
    files[".ca"].write_bytes(pem(house.ca.certificate))
    files[".ca-key"].write_bytes(pem(house.ca.key))
    files[".ext"].write_text(f"subjectAltName=DNS:{host}\n")
    for command in (["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", files[".key"],
                     "-out", files[".csr"],
                     "-subj", "/CN=sha1"],
                    ["x509", "-req", "-sha1", "-days", "5", "-in", files[".csr"], "-CA", files[".ca"], "-CAkey",
                     files[".ca-key"], "-CAcreateserial",
                     "-extfile", files[".ext"], "-out", files[".pem"]]):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    certificate = x509.load_pem_x509_certificate(files[".pem"].read_bytes())
    fail_unless(certificate.signature_hash_algorithm.name == "sha1", "openssl did not sign with SHA-1")
    return [certificate], serialization.load_pem_private_key(files[".key"].read_bytes(), None)


CA_BASICS = x509.BasicConstraints(ca=True, path_length=None)


def bad_chains(house, base):
    """`{label: (chain, key)}` for hosts `<label>.<base>`: none of them may be believed."""
    ca = house.ca

    def leaf(label, **how):
        certificate, key = (how.pop("by", None) or ca).leaf(how.pop("names", [f"{label}.{base}"]), **how)
        return [certificate], key

    def through(label, extensions, end=NOW + 10 * DAY, send=True, **how):
        """A leaf of an intermediate."""
        between, its_key = crafted(ca, "between", extensions=extensions, end=end)
        certificate, key = crafted(Signer(between, its_key), label, [f"{label}.{base}"], **how)
        return [certificate, between][:2 if send else 1], key
    yesterday, hour = NOW - DAY, datetime.timedelta(hours=1)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    found = {
        "expired": leaf("expired", start=NOW - 5 * DAY, end=yesterday),
        "expired-now": leaf("expired-now", start=NOW - 5 * DAY, end=NOW - datetime.timedelta(minutes=1)),
        "not-yet": leaf("not-yet", start=NOW + hour),
        "self-signed": leaf("self-signed", signer=False),
        "other-name": leaf("other-name", names=[f"elsewhere.{base}"]),
        "parent-name": leaf("parent-name", names=[base]),
        "deep-wildcard": leaf("deep-wildcard", names=["*.test"]),
        "part-wildcard": leaf("part-wildcard", names=[f"part-*.{base}"]),
        "bare-wildcard": leaf("bare-wildcard", names=["*"]),
        "address-only": leaf("address-only", names=["45.33.32.20"]),
        "common-name-only": (lambda c: ([c[0]], c[1]))(crafted(ca, f"common-name-only.{base}", extensions=[server])),
        "unknown-root": leaf("unknown-root", by=Authority("somebody")),
        # The root's own name, but not its key.
        "same-name-root": leaf("same-name-root", by=Authority("corpus root")),
        "sha1": by_sha1(house, f"sha1.{base}"),
        "rsa-1024": leaf("rsa-1024", key=small_rsa()),
        "client-only": (lambda c: ([c[0]], c[1]))(crafted(ca, "x", [f"client-only.{base}"], [
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])),
        "unknown-critical": (lambda c: ([c[0]], c[1]))(crafted(ca, "x", [f"unknown-critical.{base}"], [
            server, x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")])),
        # Chains: a leaf that signs, one that is not sent, one that has ended, one that may not sign for this name.
        "leaf-as-root": through("leaf-as-root", [x509.BasicConstraints(ca=False, path_length=None)]),
        "not-sent": through("not-sent", [CA_BASICS], send=False),
        "old-between": through("old-between", [CA_BASICS], end=yesterday + hour),
        "constrained": through("constrained", [CA_BASICS, x509.NameConstraints([x509.DNSName("other.test")], None)]),
        "excluded": through("excluded", [CA_BASICS, x509.NameConstraints(None, [x509.DNSName(base)])]),
        "client-between": through("client-between", [CA_BASICS, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])]),
        # The certificate of a CA is nobody's server certificate.
        "root-itself": ([ca.certificate], ca.key),
    }
    return found


@case("M01", "upstream certificates that must not be believed", private=True, unheard=True, patience=1)
def run(house, mark):
    base, token = "m01.test", f"m01-{secrets.token_urlsafe(24)}"
    rows = {label: serving(house.dir, *what) for label, what in bad_chains(house, base).items()}
    good = house.ca.leaf([f"tls10.{base}", f"tls11.{base}", f"kx.{base}", f"cbc.{base}"],
                         key=rsa.generate_private_key(65537, 2048))
    old = ssl.TLSVersion
    rows |= {"tls10": serving(house.dir, [good[0]], good[1], low=old.TLSv1, high=old.TLSv1),
             "tls11": serving(house.dir, [good[0]], good[1], low=old.TLSv1, high=old.TLSv1_1),
             "kx": serving(house.dir, [good[0]], good[1], "AES128-GCM-SHA256:@SECLEVEL=0", high=old.TLSv1_2),
             "cbc": serving(house.dir, [good[0]], good[1], "ECDHE-RSA-AES128-SHA:@SECLEVEL=0", high=old.TLSv1_2)}
    for label, context in rows.items():
        house.open_origin(f"{label}.{base}", context=context)
    fine = house.open_origin(f"fine.{base}")
    # A service with a credential: what must not go out is worth something.
    annex = Annex(house,
                  {"m01": f'{{hosts: ["*.{base}"], upstream: {{<CA>}}, credential: {{bearer: {{env: M01}}}}, rules: [{{allow: "* /**"}}]}}'},
                  environment={"M01": token}, owners=[(token, fine.name)])
    house.credentialed.add(fine.name)
    agent, wrong = annex.agents["A"], []
    for label in rows:
        origin = house.origins[f"{label}.{base}"]
        answer = agent.get(origin.name, "/secret?path")
        if (answer.status, answer.code) != (502, "upstream-tls-error"):
            wrong.append(f"{label}: {answer.status} {answer.code}")
        heard = bytes(b"".join(c.raw for c in origin.conversations))
        if heard or mark.at(origin.name):
            wrong.append(f"{label}: {len(heard)} bytes went out")
    fail_unless(not wrong, "; ".join(wrong))
    expect(agent.get(fine.name, "/"), 200)


@case("M01", "upstreams that speak something else than TLS", private=True, unheard=True, patience=1)
def run(house, mark):
    heard = []

    def hearing(say):
        def greet(stream):
            stream.settimeout(0.3)
            heard.append(stream.recv(4096))
            stream.sendall(say)
            try:
                while data := stream.recv(4096):
                    heard.append(data)
            except TimeoutError:
                pass
        return greet
    origin = house.open_origin("m01-raw.wild.test")
    for say in (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n",
                b"\x15\x03\x03\x00\x02\x02\x28",
                b"\x15\x03\x03\x00\x02\x01\x00", b"\x16\x03\x03\xff\xff" + b"\0" * 70000, b"\x17\x03\x03\x00\x05hello",
                b"\0" * 100, b""):
        origin.greet = hearing(say) if say else (lambda stream: stream.close())
        answer = house.A.get("m01-raw.wild.test", "/secret?path")
        fail_unless(answer.status == 502 and answer.code in ("upstream-tls-error", "upstream-unreachable"), say[:10],
                    answer.status, answer.code)
    fail_unless(all(data.startswith((b"\x16", b"\x15")) and b"secret" not in data for data in heard), "heard", heard)


@case("M01", "an issuer's certificate is judged like an API's", private=True)
def run(house, mark):
    rows = {"expired": dict(start=NOW - 5 * DAY, end=NOW - DAY), "unknown": dict(by=Authority("somebody")),
            "name": dict(names=["as.test"])}
    issuer, api = realm(house, "m01good")
    services, issuers = {}, {}
    for label, how in rows.items():
        host = f"as-m01{label}.test"
        certificate, key = (how.pop("by", None) or house.ca).leaf(how.pop("names", [host]), **how)
        house.open_origin(host, context=serving(house.dir, [certificate], key))
        house.issuing.add(host)
        issuers[label], services[label] = f"https://{host}", oauth(label, api.host)
    annex = Annex(house, services, who=rows, allowed={label: [label] for label in rows}, issuers=issuers,
                  environment={"AS_SECRET": issuer.secret}, owners=[issuer])
    for label in rows:
        expect(annex.agents[label].get(api.host, "/x"), (502, "as-tls-error"))
        origin = house.origins[f"as-m01{label}.test"]
        fail_unless(not origin.records and not any(c.raw for c in origin.conversations), label, "was told something")
    fail_unless(not mark.at(api.host), "the API was asked")


def own_authority(house):
    """tokenward's interception CA, as somebody who stole its key would use it."""
    certificate = x509.load_pem_x509_certificate((house.dir / "public" / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((house.dir / "ca" / "ca.key").read_bytes(), None)
    return Signer(certificate, key)


@case("M02", "the interception CA vouches for no upstream", private=True, unheard=True)
def run(house, mark):
    own = own_authority(house)
    for host, sends_root in (("m02.wild.test", False), ("m02-root.wild.test", True)):
        certificate, key = house.ca.leaf([host], signer=own)
        origin = house.open_origin(host, context=serving(house.dir, [certificate, own.certificate][:2 if sends_root else 1], key))
        expect(house.A.get(host, "/"), (502, "upstream-tls-error"))
        fail_unless(not origin.records and not any(c.raw for c in origin.conversations), "something went out")


@case("M03", "roots planted through the environment", private=True, unheard=True)
def run(house, mark):
    rogue, dir = Authority("rogue root"), house.dir / "rogue"
    dir.mkdir(exist_ok=True)
    (dir / "rogue.pem").write_bytes(pem(rogue.certificate))
    subprocess.run(["openssl", "rehash", dir], check=False, capture_output=True)
    planted = {variable: str(dir / "rogue.pem") for variable in (
        "SSL_CERT_FILE", "NIX_SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "TOKENWARD_CA")}
    planted |= {"SSL_CERT_DIR": str(dir), "OPENSSL_CONF": str(dir / "openssl.cnf"), "SSL_CERT_DIR_": str(dir)}
    host, system = "m03.test", "m03-system.test"
    for h in (host, system):
        certificate, key = rogue.leaf([h])
        house.open_origin(h, context=serving(house.dir, [certificate], key))
    issuer, api = realm(house, "m03")
    certificate, key = rogue.leaf(["as-m03rogue.test"])
    house.open_origin("as-m03rogue.test", context=serving(house.dir, [certificate], key))
    house.issuing.add("as-m03rogue.test")
    rules = 'rules: [{allow: "* /**"}]'
    annex = Annex(house, {"own": f"{{hosts: [{host}], upstream: {{<CA>}}, {rules}}}", "system": f"{{hosts: [{system}], {rules}}}",
                          "oauth": oauth("rogue", api.host)}, issuers={"rogue": "https://as-m03rogue.test"},
                  environment={**planted, "AS_SECRET": issuer.secret}, owners=[issuer])
    for h, wanted in ((host, "upstream-tls-error"), (system, "upstream-tls-error"), (api.host, "as-tls-error")):
        expect(annex.agents["A"].get(h, "/"), (502, wanted))
    fail_unless(not mark.at(host) and not mark.at(system) and not mark.at("as-m03rogue.test"), "a planted root was believed")
    # Nor are they handed on: what agents are told to trust is what an operator would expect.
    bundle = (annex.dir / "public" / "bundle.pem").read_bytes()
    fail_unless(pem(rogue.certificate).strip() not in bundle, "the planted root stands in the agents' bundle")


def counted(metrics, family, **labels):
    """The sum over the series that have these labels."""
    total = 0.0
    for line in metrics.splitlines():
        if line.startswith(family) and not line.startswith("#") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def minted(source):
    return counted(source.metrics(), "tokenward_leaf_certificates_total", result="minted")


def alerted(agent, host, sni, alert):
    """A tunnel to `host` whose hello names `sni` ends with this alert."""
    try:
        agent.tunnel(host, sni=sni, verify=False)
    except ssl.SSLError as error:
        fail_unless(alert in str(error).lower(), sni, "ended with", error)
        return
    except (Closed, OSError) as error:
        raise AssertionError(f"{sni} ended without an alert: {error!r}") from error
    raise AssertionError(f"a handshake for {sni} inside a tunnel to {host} succeeded")


@case("M04", "no leaf for a name that policy has not admitted", silent=True)
def run(house, mark):
    before = minted(house)
    hosts = ["evil.test", "evil.wild.test.evil.test", "xwild.test", "api.ro.test.evil.test", "as.test", "wild.test",
             "a.b.wild.test"]
    for host in hosts:
        stream, answer = house.A.connect(f"{host}:443")
        stream.close()
        expect(answer, (403, "destination-denied"), (403, "issuer-not-for-agents"))
    for sni in ("evil.test", "mal.test", "y.wild.test", "x.wild.test.evil.test", "wild.test", "a.x.wild.test", "as.test",
                "api.rw.test"):
        alerted(house.A, "x.wild.test", sni, "unrecognized")
    alerted(house.B, RO, "api.rw.test", "unrecognized")
    fail_unless(minted(house) == before, minted(house) - before, "leaves were minted")
    fail_unless(len([e for e in mark.events() if e["event"] == "tls.name_mismatch"]) == 9, "events")


def hello(host, version=None):
    """The first bytes of a real client for this name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


@case("M05", "names without end below a wildcard", private=True, lines_wanted=None)
def run(house, mark):
    # Each agent may have some fifty made in a second: one alone gets no further, many together get to the cache's end.
    count, each = 26, 48
    annex = Annex(house, {"m05": '{hosts: ["*.m05.test", "*.wild.test"], upstream: {<CA>}, rules: [{allow: "* /**"}]}'},
                  who=[f"a{i}" for i in range(count)] + ["greedy", "calm"], log="error")
    expect(annex.agents["calm"].get("calm.wild.test", "/"), 200)
    before, memory = minted(annex), rss(annex.process.pid)

    def knock(agent, host):
        """A hello in a tunnel of its own; what came back first: the kind of TLS record, or 0."""
        stream = agent.plain(8)
        with stream:
            stream.send(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{agent.authorization}\r\n")
            if stream.answer("CONNECT").status != 200:
                return 0
            stream.send(hello(host))
            return stream.buffer[0] if stream.buffer or stream.more() else 0

    def greedy(until):
        n = 0
        while time.monotonic() < until:
            knock(annex.agents["greedy"], f"g{n}-{threading.get_ident()}.m05.test")
            n += 1
    # One agent, eight connections at a time.
    start = time.monotonic()
    threads = [threading.Thread(target=greedy, args=(start + 1.5,), daemon=True) for _ in range(8)]
    waits = []
    for thread in threads:
        thread.start()
    while time.monotonic() < start + 1.5:
        began = time.monotonic()
        expect(annex.agents["calm"].get("calm.wild.test", "/"), 200)
        waits.append(time.monotonic() - began)
    for thread in threads:
        thread.join(10)
    spent = time.monotonic() - start
    fail_unless(minted(annex) - before <= 60 + 55 * spent, minted(annex) - before, "leaves for one agent in", round(spent, 1),
                "s")
    fail_unless(sorted(waits)[len(waits) * 9 // 10] < 1, "others waited:", [round(w, 2) for w in waits])
    # Many agents: more names than the cache has places; whatever is asked for again beyond it is made again.
    names = {f"a{i}": [f"n{i}-{j}.m05.test" for j in range(each)] for i in range(count)}

    def all_of(agents):
        for agent in agents:
            for host in names[agent]:
                knock(annex.agents[agent], host)

    def everybody():
        parts = [list(names)[i::4] for i in range(4)]
        threads = [threading.Thread(target=all_of, args=(part,), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    everybody()
    everybody()
    held = counted(annex.metrics(), "tokenward_leaf_certificates_total", result="cached")
    fail_unless(minted(annex) - before >= count * each, "minted", minted(annex) - before)
    fail_unless(held <= 1024 + len(waits) + 1, held, "leaves were kept")
    grown = rss(annex.process.pid) - memory
    fail_unless(grown <= 24 * MIB, "memory grew by", grown // MIB, "MiB")


def rss(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leaf_of(agent, host):
    with agent.tunnel(host) as stream:
        return x509.load_der_x509_certificate(stream.stream.getpeercert(binary_form=True))


@case("M06", "a leaf says no more than it must")
def run(house, mark):
    ca = x509.load_pem_x509_certificate((house.dir / "public" / "ca.pem").read_bytes())
    now, serials = datetime.datetime.now(datetime.timezone.utc), set()
    for host in (RO, "x.wild.test", "xn--bcher-kva.test", ECHO):
        leaf = leaf_of(house.A, host)
        serials.add(leaf.serial_number)
        fail_unless(leaf.serial_number.bit_length() >= 64, "a short serial")
        fail_unless(leaf.not_valid_after_utc - now <= DAY, "valid until", leaf.not_valid_after_utc)
        fail_unless(leaf.not_valid_before_utc <= now and leaf.not_valid_after_utc <= ca.not_valid_after_utc, "validity")
        values = {e.value.__class__: e.value for e in leaf.extensions}
        fail_unless(list(values[x509.ExtendedKeyUsage]) == [ExtendedKeyUsageOID.SERVER_AUTH], "EKU")
        fail_unless(x509.BasicConstraints not in values or not values[x509.BasicConstraints].ca, "a CA bit")
        fail_unless([n.value for n in values[x509.SubjectAlternativeName]] == [host], "names",
                    values[x509.SubjectAlternativeName])
        fail_unless(isinstance(leaf.public_key(), ec.EllipticCurvePublicKey) and leaf.public_key().curve.name == "secp256r1",
                    "key")
        identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        fail_unless(values[x509.AuthorityKeyIdentifier].key_identifier == identifier, "AKI")
        fail_unless(x509.SubjectKeyIdentifier in values, "SKI")
        usage = values.get(x509.KeyUsage)
        fail_unless(usage is None or (usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign), "key usage")
        leaf.verify_directly_issued_by(ca)
        (house.dir / "leaf.pem").write_bytes(pem(leaf))
        done = subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", host, "-CAfile",
                               house.dir / "public" / "ca.pem", house.dir / "leaf.pem"], capture_output=True, text=True,
                               timeout=10)
        fail_unless(done.returncode == 0, "openssl verify:", done.stdout, done.stderr)
    fail_unless(len(serials) == 4, "a serial came twice")


NODE = """
const [host, port, auth, ca, name, path] = process.argv.slice(2);
require("http").request({host, port, method: "CONNECT", path: name + ":443",
  headers: {Host: name + ":443", "Proxy-Authorization": auth}}).on("connect", (r, socket) => {
  if (r.statusCode !== 200) { console.log(r.statusCode); process.exit(1); }
  require("https").get({host: name, port: 443, path, createConnection: () => require("tls").connect(
    {socket, servername: name, ca: require("fs").readFileSync(ca)})}, r => { console.log(r.statusCode); process.exit(0); });
}).on("error", e => { console.log(String(e)); process.exit(1); }).end();
"""


@case("M06", "clients with other TLS libraries take the leaf", lines_wanted=None)
def run(house, mark):
    host, port = house.proxy_address
    ca, auth = house.dir / "public" / "ca.pem", house.A.authorization.split(": ", 1)[1].strip()
    script = house.dir / "client.js"
    script.write_text(NODE)
    commands = {"curl": ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca, "-x", f"http://{host}:{port}",
                         "--proxy-header",
                         f"Proxy-Authorization: {auth}", f"https://{RO}/v1/items/1"],
                "node": ["node", script, host, str(port), auth, ca, RO, "/v1/items/1"]}
    for tool, command in commands.items():
        if not shutil.which(tool):
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={"PATH": os.environ["PATH"]})
        fail_unless(done.stdout.strip() == "200", tool, "got", done.stdout, done.stderr)


@case("M07", "what the interception CA may sign")
def run(house, mark):
    own = own_authority(house)
    values = {e.value.__class__: e for e in own.certificate.extensions}
    basic = values[x509.BasicConstraints]
    fail_unless(basic.critical and basic.value.ca and basic.value.path_length == 0, "basic constraints", basic.value)
    usage = values[x509.KeyUsage].value
    more = usage.digital_signature or usage.key_encipherment or usage.key_agreement or usage.crl_sign
    fail_unless(usage.key_cert_sign and not more, "key usage", usage)
    constraints = values.get(x509.NameConstraints)
    fail_unless(constraints and constraints.critical, "no (critical) name constraints")
    permitted = {getattr(n, "value", None) for n in constraints.value.permitted_subtrees}
    fail_unless({RO, "wild.test"} <= {str(p).lstrip(".") for p in permitted}, "permitted:", permitted)
    fail_unless(not {"evil.test", "test", ""} & permitted, "permitted:", permitted)

    def verified(chain, host=None, address=None):
        (house.dir / "m07.pem").write_bytes(pem(chain[0]))
        (house.dir / "m07-between.pem").write_bytes(b"".join(pem(c) for c in chain[1:]) or pem(own.certificate))
        wanted = ["-verify_hostname", host] if host else ["-verify_ip", address]
        done = subprocess.run(["openssl", "verify", "-purpose", "sslserver", *wanted, "-CAfile", house.dir / "public" / "ca.pem",
                               "-untrusted",
                               house.dir / "m07-between.pem", house.dir / "m07.pem"], capture_output=True, timeout=10)
        return done.returncode == 0
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

    def leaf(host, by=own):
        return crafted(by, host, [host], [server])[0]
    fail_unless(verified([leaf(RO)], RO) and verified([leaf("x.wild.test")], "x.wild.test"), "a name that policy has is refused")
    for host in ("evil.test", "bank.example", f"{RO}.evil.test", "test", "xapi.ro.test"):
        fail_unless(not verified([leaf(host)], host), "it may sign for", host)
    by_address, _ = house.ca.leaf(["45.33.32.10"], signer=own)
    fail_unless(not verified([by_address], address="45.33.32.10"), "it may sign for addresses")
    # Names in the subject alone, and a CA below it.
    fail_unless(not verified([crafted(own, "evil.test", extensions=[server])[0]], "evil.test"), "it may sign for a common name")
    between, key = crafted(own, "below", extensions=[x509.BasicConstraints(ca=True, path_length=None)])
    fail_unless(not verified([leaf(RO, Signer(between, key)), between], RO), "it may sign for a CA")


@case("M08", "the CA's key stays where it is", lines_wanted=None)
def run(house, mark):
    dir = house.dir / "ca"
    fail_unless(stat.S_IMODE(dir.stat().st_mode) == 0o700, "directory mode", oct(dir.stat().st_mode))
    files = {p.name: p for p in dir.iterdir()}
    for path in files.values():
        fail_unless(not path.is_symlink(), path.name, "is a link")
        if path.suffix == ".key":
            fail_unless(stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_uid == os.geteuid(), path.name,
                        oct(path.stat().st_mode))
    # The key in the forms in which it could get out.
    needles = [b"PRIVATE KEY"]
    for file in (p for p in files.values() if p.suffix == ".key"):
        text = file.read_bytes()
        inner = b"".join(line for line in text.splitlines() if b"-----" not in line)
        needles += [inner, text.strip()] if len(inner) >= 16 else []
        if b"PRIVATE KEY" in text:
            scalar = serialization.load_pem_private_key(text, None).private_numbers().private_value.to_bytes(32, "big")
            needles += [scalar, base64.b64encode(scalar), base64.urlsafe_b64encode(scalar).rstrip(b"="), scalar.hex().encode(),
                        scalar.hex().upper().encode(), str(int.from_bytes(scalar, "big")).encode()]
    said = {"log": house.log.read_bytes(), "stdout": house.out.read_bytes(), "audit": house.audit.read_bytes(),
            "metrics": house.metrics().encode(),
            "config": house.config.read_bytes()}
    for verb in (["ca", "show"], ["ca", "bundle"], ["ca", "show", "--json"], ["ca", "init"], ["check"], ["schema"],
                 ["env", "--agent", "A"],
                 ["env", "--agent", "A", "--format", "json"], ["--log", "trace", "check"], ["--help"], ["healthcheck"]):
        done = house.verb(*verb)
        said[" ".join(verb)] = (done.stdout + done.stderr).encode()
    for path in (house.dir / "public").rglob("*"):
        if path.is_file():
            said[f"public/{path.name}"] = path.read_bytes()
    for path in (f"/proc/{house.process.pid}/cmdline", f"/proc/{house.process.pid}/environ"):
        with open(path, "rb") as file:
            said[path] = file.read()
    for where, text in said.items():
        for needle in needles:
            fail_unless(needle not in text, "the key (or the word) stands in", where)
    fail_unless(b"BEGIN CERTIFICATE" in said["ca show"] or b"BEGIN CERTIFICATE" in said["ca bundle"], "no certificate is shown")
    # Read over the wire: nothing on either port tells it.
    for path in ("/ca.key", "/ca/ca.key", "/../ca/ca.key", "/metrics/../ca/ca.key", "/ca"):
        with socket.create_connection(house.health, timeout=5) as stream:
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            text = b"".join(iter(lambda: stream.recv(65536), b""))
            fail_unless(b"KEY" not in text and b" 200 " not in text.split(b"\r\n")[0], path, text[:200])


def record(kind, data, version=b"\x03\x01"):
    return bytes([kind]) + version + len(data).to_bytes(2, "big") + data


def handshake(body, kind=1):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def bare_hello(version=b"\x03\x03", ciphers=b"\x13\x01\x13\x02\xc0\x2b\xc0\x2f", extensions=b"", session=b""):
    return (version + secrets.token_bytes(32) + bytes([len(session)]) + session + len(ciphers).to_bytes(2,
            "big") + ciphers + b"\x01\x00"
            + (len(extensions).to_bytes(2, "big") + extensions if extensions else b""))


def sni(host):
    entry = b"\0" + len(host).to_bytes(2, "big") + host.encode()
    data = len(entry).to_bytes(2, "big") + entry
    return b"\0\0" + len(data).to_bytes(2, "big") + data


def split_records(message):
    return b"".join(record(22, message[i:i + 16000]) for i in range(0, len(message), 16000))


def hostile_hellos(host):
    """`(label, bytes, seconds between bytes or None)`."""
    real = hello(host)
    many = b"".join((40000 + i).to_bytes(2, "big") + b"\0\0" for i in range(10000))
    yield "larger than 16 kB", split_records(handshake(bare_hello(extensions=sni(host) + b"\0\x15\xea\x60" + b"\0" * 60000))), None
    yield "10,000 extensions", split_records(handshake(bare_hello(extensions=sni(host) + many))), None
    yield "garbage", secrets.token_bytes(4096), None
    yield "half a record", real[:len(real) // 2], None
    yield "half a record's head", real[:3], None
    yield "byte by byte", real, 0.2
    yield "a length of 16 MB", record(22, b"\x01\xff\xff\xff" + b"\0" * 100), None
    yield "a record of 65,535", b"\x16\x03\x01\xff\xff" + b"\0" * 1000, None
    yield "empty records", record(22, b"") * 2000, None
    yield "silence", b"", None
    yield "clear text", f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), None
    yield "SSH", b"SSH-2.0-OpenSSH_9.6\r\n", None
    yield "SMTP", b"EHLO x\r\n", None
    yield "alerts", record(21, b"\x01\x00") * 500, None
    yield "change cipher spec", record(20, b"\x01") * 500, None
    yield "application data", record(23, b"hello"), None
    yield "another message first", record(22, handshake(b"", 0) + handshake(b"\0" * 32, 20)), None
    yield "extensions that lie", record(22, handshake(bare_hello()[:-2] + b"\x01\0\xff\xff\0\0")), None
    yield "an empty name", record(22, handshake(bare_hello(extensions=b"\0\0\0\x05\0\x03\0\0\0"))), None
    yield "a name with NUL", record(22, handshake(bare_hello(extensions=sni(f"{host}\0.evil.test")))), None
    yield "two names", record(22, handshake(bare_hello(extensions=sni(host) + sni("evil.test")))), None
    yield "no cipher", record(22, handshake(bare_hello(ciphers=b"", extensions=sni(host)))), None
    yield "a heartbeat", record(24, b"\x01\x40\0"), None
    # Weak ones (M10) end the same way.
    yield "SSLv2", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10\x07\0\xc0\x05\0\x80\x03\0\x80\x01\0\x80\x08\0\x80\x06\0\x40\x04\0\x80\x02\0\x80" + b"\0" * 16, None


# A fragmented hello made rustls' acceptor panic once (RUSTSEC-2024-0399).
@case("M09", "hellos that are none end within the handshake's time", silent=True, lines_wanted=None, patience=1)
def run(house, mark):
    host, wrong = "x.wild.test", []

    def one(label, data, pause):
        stream, answer = house.A.connect(f"{host}:443")
        with stream:
            expect(answer, 200)
            start, ended = time.monotonic(), None
            stream.stream.settimeout(0.2)
            rest = data
            while time.monotonic() < start + 9:
                try:
                    if rest:
                        step = len(rest) if pause is None else 1
                        stream.stream.settimeout(5)
                        stream.stream.sendall(rest[:step])
                        rest = rest[step:]
                    stream.stream.settimeout(pause or 0.2)
                    if not stream.more():
                        ended = time.monotonic() - start
                        break
                except TimeoutError:
                    pass
                except OSError:
                    ended = time.monotonic() - start
                    break
            if ended is None or ended > 7:
                wrong.append(f"{label}: open for {ended or 9:.1f} s")
            if any(chunk in bytes(stream.buffer) for chunk in (b"\x16\x03\x03", b"HTTP/")):
                # A ServerHello (or an answer in clear) for what is no hello.
                wrong.append(f"{label}: {bytes(stream.buffer)[:40]!r}")
    threads = [threading.Thread(target=one, args=row, daemon=True) for row in hostile_hellos(host)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(14)
    fail_unless(not wrong, "; ".join(wrong))
    fail_unless(not any(t.is_alive() for t in threads), "still open")
    for line in mark.lines():
        fail_unless(line["status"] in (400, 408), "a line says", line["status"])


@case("M09", "a hello in small records is a hello", lines_wanted=None)
def run(house, mark):
    # Five bytes a record: the length of the message itself is cut. Accepted or refused, but no panic.
    host = "x.wild.test"
    message = hello(host)[5:]
    for size in (1, 5, 100):
        stream, answer = house.A.connect(f"{host}:443")
        with stream:
            stream.send(b"".join(record(22, message[i:i + size]) for i in range(0, len(message), size)))
            stream.stream.settimeout(7)
            fail_unless(stream.more() and stream.buffer[0] in (21, 22), "neither a ServerHello nor an alert in records of", size)


@case("M10", "agents get TLS 1.2 or better, and nothing weak in it", lines_wanted=None)
def run(house, mark):
    host = "x.wild.test"
    old = [("TLS 1.0", hello(host, ssl.TLSVersion.TLSv1)), ("TLS 1.1", hello(host, ssl.TLSVersion.TLSv1_1)),
           ("SSL 3", record(22, handshake(bare_hello(b"\x03\x00", b"\0\x05\0\x0a\0\x2f")), b"\x03\x00"))]
    groups = b"\0\x0a\0\x04\0\x02\0\x17" + b"\0\x0d\0\x06\0\x04\x04\x03\x04\x01"
    weak = {"RC4": b"\0\x04\0\x05\xc0\x11\xc0\x07", "3DES": b"\0\x0a\0\x16\xc0\x12\xc0\x08",
            "export": b"\0\x03\0\x06\0\x08\0\x14\0\x62", "NULL": b"\0\x01\0\x02\0\x3b\xc0\x06\xc0\x10",
            "anonymous": b"\0\x18\0\x34\xc0\x18\0\xa6", "RSA key exchange": b"\0\x2f\0\x35\0\x9c\0\x9d",
            "CBC": b"\xc0\x09\xc0\x0a\xc0\x13\xc0\x14\xc0\x23"}
    old += [(label, record(22, handshake(bare_hello(ciphers=suites, extensions=sni(host) + groups)))) for label,
            suites in weak.items()]
    for label, data in old:
        stream, answer = house.A.connect(f"{host}:443")
        with stream:
            stream.send(data)
            stream.stream.settimeout(7)
            while stream.more():
                pass
            told = bytes(stream.buffer)
            fail_unless(told == b"" or told[0] == 21, label, "was answered", told[:30])
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = house.A.context()
        context.minimum_version = context.maximum_version = version
        with house.A.tunnel(RO, context=context) as stream:
            stream.send(head(RO, "GET /v1/items/1 HTTP/1.1"))
            expect(stream.answer(), 200)
            fail_unless(stream.stream.compression() is None and "GCM" in stream.stream.cipher()[0] or "CHACHA20" in stream.stream.cipher()[0],
                        stream.stream.cipher())


def client(house, host, *arguments, text="", seconds=8):
    """`openssl s_client` through the proxy; what it printed."""
    address, port = house.proxy_address
    command = ["openssl", "s_client", "-proxy", f"{address}:{port}", "-proxy_user", "A", "-proxy_pass", "env:A_TOKEN",
               "-connect", f"{host}:443",
               "-servername", host, "-CAfile", house.dir / "public" / "ca.pem", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace",
                               env={"PATH": os.environ["PATH"], "A_TOKEN": house.secrets["A_TOKEN"]})
    try:
        for line in text if isinstance(text, list) else [text]:
            time.sleep(0.4)
            process.stdin.write(line)
            process.stdin.flush()
        return process.communicate(timeout=seconds)[0]
    except (subprocess.TimeoutExpired, BrokenPipeError):
        process.kill()
        return process.communicate()[0]


@case("M10", "nobody renegotiates", lines_wanted=None)
def run(house, mark):
    told = client(house, RO, "-tls1_2", text=["R\n",
                                              f"GET /v1/items/renegotiated HTTP/1.1\r\nHost: {RO}\r\nConnection: close\r\n\r\n"],
                                              seconds=3)
    fail_unless("RENEGOTIATING" in told, "the client did not try:", told[-300:])
    fail_unless("HTTP/1.1 200" not in told and not mark.at(RO), "it went on after a renegotiation:", told[-300:])


@case("M11", "HTTP/2 or 1.1 on either side: the same answers and the same policy", private=True)
def run(house, mark):
    for upstream in (("h2",), ("http/1.1",), ("h2", "http/1.1"), ()):
        title = "m11" + "".join(p[-1] for p in upstream)
        issuer, api = realm(house, title)
        issuer.secret = secrets.token_urlsafe(24)
        origin = house.origins[api.host]
        origin.context.set_alpn_protocols(list(upstream) or ["none"])
        if not upstream:
            origin.context = serving(house.dir, *(lambda c: ([c[0]], c[1]))(house.ca.leaf([api.host])))
            origin.context.sni_callback = origin.note_sni
        annex = Annex(house, {"api": oauth("own", api.host, rules='[{allow: "GET|POST /v1/items/**"}]')},
                      issuers={"own": issuer.url},
                      environment={"AS_SECRET": issuer.secret}, owners=[issuer])
        agent = annex.agents["A"]

        def over(path, method):
            """The same request over HTTP/1.1 and over HTTP/2."""
            body = b"x" * 100 if method == "POST" else None
            data = head(api.host, f"{method} {path} HTTP/1.1",
                        *(["Content-Length: 100"] if body else [])).encode() + (body or b"")
            yield agent.ask(api.host, data)
            with agent.h2(api.host) as connection:
                yield connection.wait(connection.request(connection.head(api.host, path, method), body=body))
        for path, method, wanted in (("/v1/items/1?q=1", "GET", 200), ("/v1/items/1", "POST", 200),
                                     ("/v1/admin", "GET", (403, "policy-denied")),
                                     ("/v1/items/1", "DELETE", (403, "policy-denied")), ("/v1/items/../admin", "GET", 403)):
            before = len(mark.at(api.host))
            for answer in over(path, method):
                if wanted == 403:
                    expect(answer, 400, 403)
                else:
                    expect(answer, wanted)
            seen = mark.at(api.host)[before:]
            fail_unless(len(seen) == (2 if wanted == 200 else 0), len(seen), "requests for", method, path)
            fail_unless(all(r.target == path and len(r.body) == (100 if method == "POST" else 0) for r in seen), "they differ")


@case("M12", "an upstream that wants a client certificate: ours or none, never the agent's", private=True, unheard=True)
def run(house, mark):
    strict = house.ca.server(house.dir, ["m12.wild.test"])
    strict.load_verify_locations(house.dir / "origins.pem")
    strict.verify_mode = ssl.CERT_REQUIRED
    asking = house.ca.server(house.dir, ["m12-asks.wild.test"])
    asking.load_verify_locations(house.dir / "origins.pem")
    asking.verify_mode = ssl.CERT_OPTIONAL
    certificates = []
    origin = house.open_origin("m12.wild.test", context=strict)
    other = house.open_origin("m12-asks.wild.test", context=asking)

    def note(record, conversation):
        certificates.append(conversation.stream.getpeercert())
        return ordinary(record, conversation)
    origin.behave = other.behave = note
    # The agent's certificate is a good one there: forwarding it would open the door.
    certificate, key = house.ca.leaf(["agent"])
    stem = house.dir / "m12-agent.pem"
    stem.write_bytes(pem(certificate) + pem(key))
    context = house.A.context()
    context.load_cert_chain(stem)

    def get(host):
        with house.A.tunnel(host, context=context) as stream:
            stream.send(head(host, "GET / HTTP/1.1"))
            return stream.answer()
    answer = get("m12.wild.test")
    fail_unless(answer.status == 502 and answer.code in ("upstream-tls-error", "upstream-unreachable"), answer.status,
                answer.code)
    expect(get("m12-asks.wild.test"), 200)
    fail_unless(certificates == [None] or certificates == [{}], certificates)


@case("M13", "sessions are of one host; nothing comes early", lines_wanted=None)
def run(house, mark):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = house.A.context()
        context.check_hostname = False
        context.minimum_version = context.maximum_version = version
        with house.A.tunnel(RO, context=context) as stream:
            stream.send(head(RO, "GET /v1/items/1 HTTP/1.1"))
            expect(stream.answer(), 200)
            session = stream.stream.session
        for host, path in ((ECHO, "/"), ("api.rw.test", "/v1/items")):
            stream, answer = house.A.connect(f"{host}:443")
            expect(answer, 200)
            inside = Stream(context.wrap_socket(stream.stream, server_hostname=host, session=session))
            house.A.opened.append(inside)
            with inside:
                fail_unless(not inside.stream.session_reused, "a session of", RO, "was resumed at", host)
                leaf = x509.load_der_x509_certificate(inside.stream.getpeercert(binary_form=True))
                names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                fail_unless([n.value for n in names] == [host], "names", names)
                inside.send(head(host, f"GET {path} HTTP/1.1"))
                expect(inside.answer(), 200)
    # Early data: not offered in a ticket, and not taken when it comes all the same.
    kept, early = house.dir / "m13.session", house.dir / "m13.early"
    early.write_text(f"GET /v1/items/early HTTP/1.1\r\nHost: {RO}\r\n\r\n")
    kept.unlink(missing_ok=True)
    told = client(house, RO, "-tls1_3", "-ign_eof", "-sess_out", kept,
                  text=f"GET /v1/items/1 HTTP/1.1\r\nHost: {RO}\r\nConnection: close\r\n\r\n")
    fail_unless("200 OK" in told, told[-500:])
    if kept.exists():
        fail_unless(not re.search(r"Max Early Data: [1-9]", told), "a ticket offers early data")
        told = client(house, RO, "-tls1_3", "-sess_in", kept, "-early_data", early, text="", seconds=3)
        fail_unless("Early data was accepted" not in told, "early data was taken")
    fail_unless(not [r for r in mark.at(RO) if "early" in r.target], "early data went out")


def extensions(data):
    """The kinds of extension in a ClientHello that fits into one record."""
    at = 5 + 4 + 2 + 32
    at += 1 + data[at]
    at += 2 + int.from_bytes(data[at:at + 2], "big")
    at += 1 + data[at]
    end = at + 2 + int.from_bytes(data[at:at + 2], "big")
    at += 2
    found = []
    while at < end:
        found.append(int.from_bytes(data[at:at + 2], "big"))
        at += 4 + int.from_bytes(data[at + 2:at + 4], "big")
    return found


@case("M13", "upstream: full handshakes, and no early data", private=True, unheard=True)
def run(house, mark):
    origin, hellos = house.open_origin("m13.wild.test"), []

    def greet(stream):
        stream.settimeout(5)
        hellos.append(stream.recv(16384, socket.MSG_PEEK))
        with origin.context.wrap_socket(stream, server_side=True) as inside:
            inside.recv(65536)
            inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    origin.greet = greet
    for _ in range(3):
        expect(house.A.get("m13.wild.test", "/"), 200)
    kinds = [extensions(h) for h in hellos]
    fail_unless(len(kinds) == 3 and all(0 in k for k in kinds), "hellos:", kinds)
    # pre_shared_key (41), early_data (42); heartbeat (15) and a renegotiated connection (a full one has no data in it).
    fail_unless(not any({41, 42, 15} & set(k) for k in kinds), "extensions:", kinds)
    fail_unless(origin.context.session_stats()["hits"] == 0, "a session was resumed")

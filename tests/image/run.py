#!/usr/bin/env python3
"""Builds the image without a daemon, from our Dockerfile and a local base, and judges it: what it is made of, what it says of itself,
what it may do where it runs, and that no secret stays in it.

    tests/image/run.py [--bin FILE] [--messages FILE] [--full ARCHIVE] [--cache DIR] [--keep]

--bin       the program that is put into it [default: target/release/tokenward]
--messages  what `cargo build --message-format=json` said of that program's build: the SBOM is then held against it, both ways
--full      the whole two-stage build instead, by the compiler of this archive, which tests/image/builder.sh makes. Takes its time

Needs root, buildah, mmdebstrap, iproute2, openssl, cargo and Python 3.11 with venv. The base is made anew when it is a week old; it and
the judge's packages are kept in the cache [default: $TOKENWARD_CI_CACHE/image].
"""

import argparse
import base64
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
from program import interpreter  # noqa: E402

WANTED = HERE / "requirements.txt"
USER, LIMIT, WEEK = 65532, 40_000_000, 7 * 86400
BOM = "usr/share/doc/tokenward/tokenward.cdx.json"
# Everything that may be executed. The loader is among the libraries.
PROGRAMS = re.compile(r"usr/local/bin/tokenward|(usr/)?lib(64)?/([a-z0-9_-]+/)?(lib[a-z_]+\.so\.\d+|ld-linux-[a-z0-9_-]+\.so\.\d)")
OWNED = {"run/tokenward": 0o755, "var/lib/tokenward": 0o700, "var/log/tokenward": 0o700}


def call(*words, **more):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=3600, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout.strip()


def debian(cache):
    """A small Debian 12 as an archive, with its security updates of this week."""
    archive = cache / "bookworm.tar"
    if not archive.exists() or time.time() - archive.stat().st_mtime > WEEK:
        part = archive.with_suffix(".part.tar")
        call("mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", part)
        part.rename(archive)
    return archive


def packed(made, archive):
    """What deploy/image/root.sh made, as the archive that the stage `prebuilt` unpacks: with owners."""
    with tarfile.open(archive, "w") as tar:
        for name, owner in (("root", 0), ("own", USER)):
            for path in sorted((made / name).rglob("*")):
                place = path.relative_to(made / name).as_posix()
                if owner and (place := re.sub("^(lib|log)/", r"var/\1/", place)) not in OWNED:
                    continue
                tar.add(path, place, recursive=False, filter=lambda m, owner=owner: m.replace(uid=owner, gid=owner, uname="", gname="", deep=False))


class Store:
    """buildah with a place of its own. Layers are laid over each other where the file system can (a container's often cannot), else copied."""

    def __init__(self, folder):
        lower, upper, work, at = (folder / name for name in ("lower", "upper", "work", "at"))
        for path in (lower, upper, work, at):
            path.mkdir()
        lay = ["unshare", "--mount", "mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", at]
        driver = "vfs" if subprocess.run(lay, capture_output=True).returncode else "overlay"
        self.options = ["--root", folder / "images", "--runroot", folder / "containers", "--storage-driver", driver]

    def __call__(self, *words):
        return call("buildah", *self.options, *words, env={**os.environ, "BUILDAH_ISOLATION": "chroot"})

    def clear(self):
        """Containers are mounted, and nothing mounted can be removed."""
        subprocess.run([str(w) for w in ("buildah", *self.options, "rm", "--all")], capture_output=True)

    def commit(self, container, name):
        self("commit", "-q", "--format", "docker", container, name)
        return name


class Judge:
    def __init__(self, options, cache, folder):
        self.options, self.cache, self.folder = options, cache, folder
        self.passed = self.failed = 0
        self.buildah, self.since = Store(folder), time.monotonic()
        self.bin = options.bin

    def note(self, what, problems, told=""):
        problems = list(problems)
        self.passed, self.failed = self.passed + (not problems), self.failed + bool(problems)
        now = time.monotonic()
        print(f"{'FAIL' if problems else 'ok  '} {what:66} {told:34} {now - self.since:5.1f} s", flush=True)
        self.since = now
        for problem in problems[:12]:
            print(f"       {problem}", flush=True)

    # Building

    def base(self):
        archive, folder = debian(self.cache), self.folder / "debian"
        folder.mkdir()
        call("tar", "-C", folder, "--exclude=./dev/*", "-xf", archive)
        self.taken(archive, "debian")
        self.note("the base", [], f"Debian {(folder / 'etc/debian_version').read_text().strip()}")

    def taken(self, archive, name):
        """An image of a root file system."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "-q", container, archive, "/")
        self.buildah("commit", "-q", "--rm", container, f"localhost/tokenward/{name}")

    def context(self):
        """What a build sees: the checkout's files, the program, and its file system as deploy/image/root.sh makes it in the base."""
        given, inside = self.folder / "context", self.folder / "debian" / "given"
        given.mkdir()
        inside.mkdir()
        (given / "tokenward.cdx.json").write_text(call(ROOT / "deploy" / "image" / "sbom.py", cwd=ROOT))
        for file in (ROOT / "LICENSE", self.bin, ROOT / "deploy" / "image" / "root.sh", given / "tokenward.cdx.json"):
            shutil.copy(file, inside / file.name)
        shutil.copy(ROOT / "LICENSE", given)
        call("chroot", self.folder / "debian", "/given/root.sh", "/given/" + self.bin.name, "/given/tokenward.cdx.json", "/given/LICENSE", "/given/out")
        packed(inside / "out", given / "root.tar")
        shutil.rmtree(self.folder / "debian")
        return given

    def build(self, context, target, *arguments):
        words = [w for a in ("DEBIAN_IMAGE=localhost/tokenward/debian", "REVISION=" + self.revision(), *arguments) for w in ("--build-arg", a)]
        stage = ["--target", target] if target else []
        name = f"localhost/tokenward/{target or 'image'}"
        self.buildah("bud", "--format", "docker", "-f", ROOT / "Dockerfile", *stage, *words, "-t", name, context)
        return name

    @staticmethod
    def revision():
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"

    # What it is

    def contents(self, name):
        """Its files, from a container of it, which stays for later."""
        self.container = self.buildah("from", name)
        self.root = Path(self.buildah("mount", self.container))
        files = [p for p in self.root.rglob("*") if p.is_file() and not p.is_symlink()]
        size = sum(p.stat().st_size for p in files)
        self.note("its files: root's or its user's, no shell, nothing set-id", strange(self.root), f"{len(files)} files")
        missed = []
        for place, mode in (("bin/sh", 0o755), ("usr/local/bin/x", 0o755), ("lib/libx.so.1", 0o4755), ("etc/x", 0o666), ("etc/x", 0o2644)):
            file = self.root / place
            new = not file.parent.exists()
            file.parent.mkdir(exist_ok=True)
            file.touch()
            file.chmod(mode)
            missed += [] if list(strange(self.root)) else [f"not found: {place} with {mode:o}"]
            file.unlink()
            if new:
                file.parent.rmdir()
        self.note("a shell, or what is open to others, would be seen", missed)
        known = {p.name for p in (self.root / "var/lib/dpkg/status.d").iterdir()}
        bare = [p for p in known if not (self.root / "usr/share/doc" / p / "copyright").exists()]
        self.note("Debian's packages in it are told, with their licences", bare or sorted(known ^ {"libc6", "libgcc-s1", "ca-certificates"}), ", ".join(sorted(known)))
        archive = self.export(name, "image")
        packed = archive.stat().st_size
        self.note(f"at most {LIMIT // 1_000_000} MB", [] if size <= LIMIT and packed <= LIMIT else ["larger"], f"{size / 1e6:.1f} MB, packed {packed / 1e6:.1f} MB")
        return archive

    def export(self, name, file):
        path = self.folder / f"{file}.tar"
        self.buildah("push", "-q", name, f"oci-archive:{path}:{file}")
        return path

    def says(self, name):
        told = json.loads(self.buildah("inspect", "--type", "image", name))
        config, version = told["Docker"]["config"], tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        labels = {"title": "tokenward", "description": version["description"], "version": version["version"], "licenses": version["license"],
                  "revision": self.revision()}
        wanted = {"User": "65532:65532", "Entrypoint": ["/usr/local/bin/tokenward"], "Cmd": ["serve"], "ExposedPorts": {"8080/tcp": {}, "9091/tcp": {}}}
        problems = [f"{key} is {config.get(key)!r}" for key, value in wanted.items() if config.get(key) != value]
        problems += [f"label {k}: {config['Labels'].get('org.opencontainers.image.' + k)!r}" for k, v in labels.items()
                     if config["Labels"].get("org.opencontainers.image." + k) != v]
        if config.get("Healthcheck", {}).get("Test") != ["CMD", "/usr/local/bin/tokenward", "healthcheck"]:
            problems.append(f"HEALTHCHECK is {config.get('Healthcheck')!r}")
        if [e for e in config.get("Env") or [] if not e.startswith("PATH=")]:
            problems.append(f"variables: {config['Env']}")
        self.note("what it says of itself: user, entry point, health, labels", problems)
        return config

    def parts(self):
        import bom
        document, binary = json.loads((self.root / BOM).read_text()), (self.root / "usr/local/bin/tokenward").read_bytes()
        messages = self.options.messages.read_text() if self.options.messages else None
        self.note("its SBOM: form, packages, checksums, licences", bom.judged(document, binary, messages), f"{len(document['components'])} packages")
        self.note("a wrong SBOM would be seen", bom.missed(document, binary, messages), f"{len(bom.SABOTAGE)} changes")
        again = call(ROOT / "deploy" / "image" / "sbom.py", cwd=ROOT)
        self.note("the same checkout gives the same SBOM", [] if json.loads(again) == document else ["it does not"])

    # What it does

    def secret_files(self, folder):
        (folder / "secrets").mkdir(parents=True)
        for name, value in self.secrets.items():
            (folder / "secrets" / name).write_text(value)
            os.chown(folder / "secrets" / name, USER, USER)
            (folder / "secrets" / name).chmod(0o400)
        return folder

    def played(self, script, *words):
        """What a script told that was started in namespaces of its own."""
        done = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, HERE / script, *words],
                              capture_output=True, text=True, timeout=180)
        if done.returncode:
            self.note(f"{script} comes to its end", [done.stderr[-1500:]])
            return None
        return json.loads(done.stdout)

    def runs(self, config):
        self.secrets = {"api-key": secrets.token_urlsafe(24), "client-secret": secrets.token_urlsafe(24), "coder-token": secrets.token_urlsafe(24),
                        "store.key": secrets.token_hex(32)}
        given = self.secret_files(self.folder / "given")
        told = self.played("box.py", self.root, json.dumps(config), given)
        if told is None:
            return None
        self.note("a container of it: 65532, no capability, no new privilege", ran(told))
        self.note("it does the main job, with secrets from files", worked(told, self.secrets))
        self.note("it writes to its volumes and nowhere else", stayed(told))
        return given

    def leaks(self, archive, given):
        """Secrets that were given at run time are in no layer; and one that was planted, even if it was taken out again, is found."""
        canaries = self.folder / "canaries"
        canaries.write_text("\n".join(self.secrets.values()) + "\n")
        search = lambda *paths: subprocess.run([self.bin, "leakcheck", "--canaries", canaries, *paths], capture_output=True, text=True, timeout=120)  # noqa: E731
        after = self.export(self.buildah.commit(self.container, "localhost/tokenward/after"), "after")
        done = search(archive, after, given / "log", given / "audit")
        self.note("leakcheck: no secret in its layers, before and after it ran, nor in its log", [done.stdout + done.stderr] if done.returncode else [])
        container = self.buildah("from", "localhost/tokenward/after")
        for plant, value in zip(PLANTED, self.secrets.values()):
            container = plant(self.buildah, container, self.folder, value)
        done = search("--json", self.export(self.buildah.commit(container, "localhost/tokenward/planted"), "planted"))
        found = {leak["canary"].rpartition(":")[2] for leak in json.loads(done.stdout)["leaks"]}
        missed = [plant.__doc__ for line, plant in enumerate(PLANTED, 1) if str(line) not in found]
        self.note("leakcheck: what is planted is found", missed if done.returncode == 1 else [done.stderr, *missed], f"{len(PLANTED)} ways")

    def init(self, context):
        """The image that writes a pod's rules, and then both images as that pod."""
        shutil.copy(self.root / "usr/local/bin/tokenward", context / "tokenward")
        name = self.build(context, "prebuilt-init", "BINARY=tokenward")
        config = json.loads(self.buildah("inspect", "--type", "image", name))["Docker"]["config"]
        container = self.buildah("from", name)
        self.buildah("run", container, "--", "nft", "--version")
        wanted = {"Entrypoint": ["/usr/local/bin/tokenward"], "User": "0:0", "Cmd": ["netfilter", "apply", "--shape", "sidecar", "--exempt-gid", "65532"]}
        problems = [f"{key} is {config.get(key)!r}" for key, value in wanted.items() if config.get(key) != value]
        root = self.buildah("mount", container)
        self.note("the image of the init container is built, with nft", problems, call("du", "-shx", root).split()[0])
        command = config["Entrypoint"] + config["Cmd"]
        told = self.played("pod.py", self.root, root, json.dumps(command), self.secret_files(self.folder / "pod"))
        if told is not None:
            self.note("a pod of both images: without rules the agent goes anywhere", went(told))
            self.note("rules: by NET_ADMIN alone, again without harm, not without it", wrote(told))
            self.note("behind them an agent without a proxy reaches APIs, and nothing else", walled(told, self.secrets))


def strange(root):
    """What has no business in the image."""
    for path in sorted(root.rglob("*")):
        place, stat = path.relative_to(root).as_posix(), path.lstat()
        owner, mode = (USER, OWNED[place]) if place in OWNED else (0, None)
        if (stat.st_uid, stat.st_gid) != (owner, owner) or mode not in (None, stat.st_mode & 0o7777):
            yield f"{place}: {stat.st_uid}:{stat.st_gid} {stat.st_mode & 0o7777:o}"
        if path.is_symlink():
            continue
        if stat.st_mode & 0o6022:
            yield f"{place}: set-id, or open to others"
        if path.is_file() and stat.st_mode & 0o111 and not PROGRAMS.fullmatch(place):
            yield f"{place}: a program, and not ours"


def ran(told):
    process = told["process"]
    wanted = {"Uid": [str(USER)] * 4, "Gid": [str(USER)] * 4, "Groups": [], "CapEff": ["0" * 16], "CapBnd": ["0" * 16], "NoNewPrivs": ["1"]}
    yield from (f"{key} is {process.get(key)}" for key, value in wanted.items() if process.get(key) != value)
    for what, expected in (("health", 0), ("unhealthy", 1), ("end", 0)):
        if told[what] != expected:
            yield f"{what}: {told[what]}"
    if told["version"][0] or not told["version"][1].startswith("tokenward "):
        yield f"--version: {told['version']}"


def worked(told, given):
    if told["answers"] != [200, 200, 403, 407]:
        yield f"the agent was answered {told['answers']}"
    if [f.get("authorization") for f in told["items"]] != ["DPoP at-1"] or not all("dpop" in f for f in told["items"]):
        yield f"the API with tokens saw {told['items']}"
    if [f.get("x-api-key") for f in told["keys"]] != [given["api-key"]]:
        yield "the API with a key did not see it"
    if not told["asked"] or not all(right and proof for right, proof in told["asked"]):
        yield f"the issuer was asked {told['asked']}"
    if "the-agents-own-guess" in json.dumps(told["items"] + told["keys"]):
        yield "what the agent sent as a credential got through"
    if told["status"][0] or told["audit"][0]:
        yield f"status: {told['status']}, audit verify: {told['audit']}"


def stayed(told):
    volumes, writable = tuple("/" + place for place in OWNED), told["writable"]
    if not {"/", "/etc", "/usr/local/bin/tokenward"} <= set(told["open"]):
        yield f"with a root file system to write to, only this was found: {told['open']}"
    yield from (f"{user} may write {where}" for user, found in writable.items() for where in found if not where.startswith(volumes))
    if not set(volumes) <= set(writable[str(USER)]):
        yield f"65532 cannot write its volumes: {writable[str(USER)]}"


FAMILIES = ("v4", "v6")
CLOSED = [f"{what} {family}" for what in ("elsewhere", "quic", "dns") for family in FAMILIES]


def went(told):
    """The control: what is refused later was open before."""
    yield from (f"{way}: {told['before'][way]}" for way in CLOSED if told["before"][way] != "reached")
    if told["without"][0] != 1 or "CAP_NET_ADMIN" not in told["without"][2] or told["still"] != "reached":
        yield f"without NET_ADMIN: {told['without']}, and then {told['still']}"


def wrote(told):
    yield from (f"{name}: {told[name]}" for name in ("writes", "again") if told[name][0] or "IPv4 and IPv6 are covered" not in told[name][1])


def walled(told, given):
    ways = told["ways"]
    for family in FAMILIES:
        answers = [ways[f"{what} {family}"] for what in ("api", "key", "denied")]
        if answers != [200, 200, 403]:
            yield f"over {family} the agent was answered {answers}"
    for when in ("early", "ways", "late"):
        yield from (f"{when}, {way}: {told[when][way]}" for way in CLOSED if told[when][way] == "reached")
        yield from (f"{when}, {way} socket: {told[when][way]}" for way in ("raw", "packet") if told[when][way] != "PermissionError")
        if when != "ways":
            yield from (f"{when}, {what}: {told[when][what]}" for what in ("api v4", "api v6", "key v4", "key v6") if told[when][what] != "ConnectionRefusedError")
    if [f.get("authorization") for f in told["items"]] != ["DPoP at-1"] * 2 or [f.get("x-api-key") for f in told["keys"]] != [given["api-key"]] * 2:
        yield f"the APIs saw {told['items']} and {told['keys']}"


def plain(buildah, container, folder, value, place="/etc/plant"):
    """a file"""
    (folder / "plant").write_text(f"key={value}\n")
    buildah("copy", "-q", container, folder / "plant", place)
    return container


def taken_out(buildah, container, folder, value):
    """a file that a later layer takes out"""
    below = plain(buildah, container, folder, value, "/etc/gone")
    above = buildah("from", buildah.commit(below, "localhost/tokenward/below"))
    (Path(buildah("mount", above)) / "etc/gone").unlink()
    return above


def encoded(buildah, container, folder, value):
    """base64 in an archive in a layer"""
    with tarfile.open(folder / "plant", "w:gz") as tar:
        data = base64.b64encode(f"user:{value}".encode())
        info = tarfile.TarInfo("inner")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    buildah("copy", "-q", container, folder / "plant", "/etc/plant.tgz")
    return container


def variable(buildah, container, folder, value):
    """a variable of the image"""
    buildah("config", "--env", f"API_KEY={value}", container)
    return container


PLANTED = (plain, taken_out, encoded, variable)


def judge(options, cache):
    # Whoever stops it leaves no mount behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="tokenward-image-", dir=options.work))
    folder.chmod(0o755)
    it = Judge(options, cache, folder)
    try:
        it.base()
        context = it.context()
        if options.full:
            it.taken(options.full, "builder")
            name = it.build(ROOT, None, "BUILDER_IMAGE=localhost/tokenward/builder")
        else:
            name = it.build(context, "prebuilt", "ROOT=root.tar")
        it.note("it is built from our Dockerfile, without a daemon", [], "two stages" if options.full else "around the program given")
        archive = it.contents(name)
        config = it.says(name)
        it.parts()
        if given := it.runs(config):
            it.leaks(archive, given)
        it.init(context)
    finally:
        it.buildah.clear()
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{it.passed} passed, {it.failed} failed, in {time.monotonic() - begun:.0f} s", flush=True)
    return it.failed == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "target" / "release" / "tokenward")
    parser.add_argument("--messages", type=Path)
    parser.add_argument("--full", type=Path, metavar="ARCHIVE")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--work", type=Path, help="where images are kept while it runs [default: the system's temporary folder]")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the images")
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    base = Path(os.environ.get("TOKENWARD_CI_CACHE") or Path.home() / ".cache" / "tokenward-ci")
    cache = (options.cache or base / "image").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    wanted = interpreter(cache, WANTED)
    if Path(sys.executable) != wanted:
        os.execv(wanted, [str(wanted), *sys.argv])
    sys.exit(0 if judge(options, cache) else 1)


if __name__ == "__main__":
    main()

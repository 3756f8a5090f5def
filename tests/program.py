"""The real program under a script: how it is called, started, watched and stopped, for tests/kills, tests/leaks and tests/live; and what
judges need of Python."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Wrong(Exception):
    pass


def interpreter(folder, wanted):
    """An interpreter with the packages of a requirements.txt, made in this folder once for each such file."""
    home, stamp = folder / "python", folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", wanted], check=True)
        shutil.copy(wanted, stamp)
    return home / "bin" / "python"


def apart(become, act):
    """What `act` returns, in a process of its own that `become` has made somebody else's."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            become()
            os.write(tell, json.dumps(act()).encode())
        except Exception as error:
            print(f"in a process apart: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(0)
    os.close(tell)
    text = b""
    while more := os.read(told, 65536):
        text += more
    os.waitpid(child, 0)
    return json.loads(text)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Program:
    """tokenward in a folder of its own, with a port for its proxy. Whoever extends it writes `tokenward.yaml` and begins with `new_ca`."""

    flags = ()

    def __init__(self, binary, name):
        self.dir, self.binary, self.process = Path(tempfile.mkdtemp(prefix=f"tokenward-{name}-")), binary, None
        self.port, self.config = free_port(), self.dir / "tokenward.yaml"

    def new_ca(self, *more):
        for path in ("ca", "run", *more):
            (self.dir / path).mkdir(mode=0o700)
        self.call("ca", "init", check=False)

    def environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.dir), "XDG_STATE_HOME": str(self.dir / "xdg")}

    def call(self, *words, check=True):
        done = subprocess.run([self.binary, "--config", self.config, *words], env=self.environment(), capture_output=True,
                              text=True, timeout=60)
        if check and done.returncode:
            raise Wrong(f"{words}: {done.stderr}")
        return done

    def start(self):
        log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen([self.binary, *self.flags, "--config", self.config, "serve"],
                                        env=self.environment(), stderr=log, stdout=log)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Wrong(f"serve ended with {self.process.returncode}: {(self.dir / 'log').read_text()[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise Wrong("serve does not listen")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(40):
            raise Wrong(f"serve ended with {self.process.returncode}")

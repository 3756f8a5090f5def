"""Looks for secrets in what came out, in the forms in which they get out."""

import base64
import os
import subprocess
import tempfile
import urllib.parse
from pathlib import Path

from stage import fail_unless


def forms(secret):
    """The secret as it is, and as base64 at each of its three alignments, base64url, hex and percent-escapes."""
    yield secret
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + secret).rstrip(b"=")
        # The first and last characters depend on what stands beside the secret.
        inner = coded[4 if shift else 0:-2]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield urllib.parse.quote_from_bytes(secret, safe="").encode()
    yield "".join(f"%{byte:02X}" for byte in secret).encode()


def of_pem(path):
    """A P-256 key: the file's text in one line, and the private number alone. The rest of the file is public."""
    text = "".join(line.strip() for line in Path(path).read_text().splitlines() if line and not line.startswith("-----"))
    # RFC 5915 §3: ECPrivateKey is version 1, then 32 bytes.
    number = base64.b64decode(text).split(b"\x02\x01\x01\x04\x20", 1)[1][:32]
    return [text, number]


def of_token(token):
    """A JWT, and its signature alone: it is what makes the rest worth something."""
    return [token, token.rsplit(".", 1)[-1]]


class Search:
    def __init__(self):
        self.patterns = {}  # form -> name of the canary

    def plant(self, name, *values):
        for value in values:
            for form in forms(value if isinstance(value, bytes) else value.encode()):
                # grep looks for lines: of bytes with a line end in them, the longest piece.
                form = max(form.split(b"\n"), key=len)
                if len(form) >= 16:
                    self.patterns[form] = name

    def hits(self, *paths):
        """`canary in file`, for every file below the paths that holds one. grep looks for all forms in one pass."""
        with tempfile.NamedTemporaryFile() as wanted:
            wanted.write(b"\n".join(self.patterns))
            wanted.flush()
            done = subprocess.run(["grep", "-rHaoFf", wanted.name, "--null", *map(str, paths)], capture_output=True,
                                  env={"LC_ALL": "C", "PATH": os.environ["PATH"]})
        fail_unless(done.returncode in (0, 1), "grep:", done.stderr.decode())
        found = (line.split(b"\0", 1) for line in done.stdout.splitlines())
        return sorted({f"{self.patterns[form]} in {Path(file.decode()).name}" for file, form in found})

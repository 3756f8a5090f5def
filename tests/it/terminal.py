"""A person at a terminal: runs a program on a pseudo-terminal of its own, waits for its questions and types answers.

terminal.py '{"command": [...], "answers": [...], "manner": "front|background|none", "interrupt": "key|term|", "until": PATH}'

Everything that the terminal showed goes to the file `screen` as it comes. At the end one line of JSON is printed:
how the program ended, whether the terminal echoed before, at each question and after, and what it showed.
"""

import fcntl
import json
import os
import select
import signal
import sys
import termios
import time

wish = json.loads(sys.argv[1])
manner = wish.get("manner", "front")
master, slave = os.openpty()
child = os.fork()
if child == 0:
    os.setsid()
    if manner != "none":
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    if manner == "background":
        inner = os.fork()
        if inner:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        os.setpgid(0, 0)
    os.execv(wish["command"][0], wish["command"])


def echoes():
    return bool(termios.tcgetattr(slave)[3] & termios.ECHO)


def wait(done):
    """Reads the screen until that is so, or the program has ended, or it lasts too long."""
    global shown, ended
    end = time.monotonic() + 30
    while ended is None and not done():
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        if select.select([master], [], [], 0.02)[0]:
            more = os.read(master, 65536)
            shown += more
            screen.write(more)
        elif (gone := os.waitpid(child, os.WNOHANG)) != (0, 0):
            ended = os.waitstatus_to_exitcode(gone[1])


screen = open("screen", "wb", buffering=0)
shown, ended, echo = b"", None, [echoes()]
answers = wish.get("answers", [])
# A question may come in one piece with the end of the line before it, so they are counted.
for number, answer in enumerate(answers):
    wait(lambda: shown.count(b"): ") > number)
    echo.append(echoes())
    os.write(master, answer.encode() + b"\n")
if wish.get("interrupt"):
    wait(lambda: shown.count(b"): ") > len(answers))
    echo.append(echoes())
    if wish["interrupt"] == "key":
        os.write(master, b"half-a-secret\x03")
    else:
        os.kill(child, signal.SIGTERM)
if wish.get("until"):
    wait(lambda: os.path.exists(wish["until"]))
    os.kill(child, signal.SIGTERM)
wait(lambda: False)
echo.append(echoes())
print(json.dumps({"code": ended, "echo": echo, "screen": shown.decode(errors="replace")}))

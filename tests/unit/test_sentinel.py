"""What the program beside the first process still says when that process is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

from interlace_cli.runtime.watch import SENTINEL

KILLED = f"""
import json, os, signal, socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
port, place = server.getsockname()[1], server.fileno()
setup = {{"addresses": ["127.0.0.1"], "port": port, "token": "t", "rank": 0, "size": 3, "host": "h"}}
setup |= {{"pid": os.getpid(), "listen": place}}
words = [sys.executable, "-I", "-S", {str(SENTINEL)!r}]
made = subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-3, pass_fds=[place], start_new_session=True)
made.stdin.write(json.dumps(setup).encode() + b"\\n")
made.stdin.flush()
print(port, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def join(port: int, rank: int, *said: dict[str, Any]) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    for line in ({"rank": rank, "host": f"h{rank}", "token": "t"}, *said):
        made.sendall(json.dumps(line).encode() + b"\n")
    return made


def test_one_that_comes_late_hears_who_was_gone_before() -> None:
    """The first process may be killed while the others' programs are still being started."""
    killed = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert killed.stdout is not None
    port = int(killed.stdout.readline())
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    time.sleep(0.5)
    with join(port, 1, {"signal": 11}) as second, second.makefile() as heard:
        assert json.loads(heard.readline()) == {"rank": 0, "host": "h", "signal": 9}
        with join(port, 2) as third, third.makefile() as also:
            found = [json.loads(also.readline()) for _ in range(2)]
    assert found == [{"rank": 0, "host": "h", "signal": 9}, {"rank": 1, "host": "h1", "signal": 11}]
    killed.communicate()

"""`python -m tauserve` as a program."""

import os
import subprocess
import sys

from server_process import PATIENCE


def words(server, *args):
    return [sys.executable, "-m", "tauserve", *map(str, args), f"--server={server.serving['grpc']}"]


def run(*args, server, environment=(), stdin=""):
    return subprocess.run(words(server, *args), input=stdin, env=dict(os.environ, **dict(environment)), capture_output=True,
                          text=True, timeout=PATIENCE)

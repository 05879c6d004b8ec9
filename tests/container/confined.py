"""The image's programs, started as a container runtime starts them: in the image's root, mounted read-only, with its user and
environment, without privileges, as process 1 of their own, on a network of their own that has nothing but loopback."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(os.environ["TAUSERVE_IMAGE_ROOT"])
CONFIG = json.loads(pathlib.Path(os.environ["TAUSERVE_IMAGE_JSON"]).read_text())["Docker"]["config"]
CUDA = os.environ["TAUSERVE_IMAGE_CUDA"] == "1"
# Where `model` is mounted.
MODEL_PLACE = "/models/mounted"
# A bound that only what is broken reaches, on a machine that others use as well.
PATIENCE = 60.0

# Arguments: the root, a model's folder or "", its place, the command.
_CONFINE = """
set -e
root=$1 model=$2 place=$3
shift 3
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys"
mount --rbind /dev "$root/dev"
if [ -n "$model" ]; then
  mkdir -p "$root$place"
  mount --bind "$model" "$root$place"
  mount -o remount,ro,bind "$root$place"
fi
mount -o remount,ro,bind "$root"
exec "$@"
"""


def _confined(command, model=None):
    """In mount and process namespaces of its own; killed with its parent."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _CONFINE, "confine", ROOT, model or "",
            MODEL_PLACE, *_as_image_user(command)]


def _as_image_user(command):
    """Nothing of this environment, and no way to a privilege."""
    user, group = CONFIG["User"].split(":")
    return ["env", "-i", *CONFIG["Env"], "/usr/bin/setpriv", "--no-new-privs",
            "/usr/sbin/chroot", f"--userspec={user}:{group}", "--groups=", ROOT, *command]


def run_alone(*command):
    """A container of `command` alone, until it ends."""
    return subprocess.run(["unshare", "--net", *_confined(command)], capture_output=True, text=True, timeout=PATIENCE)


class Server:
    """The image's entry point with `arguments`, or those of the image, and a folder that is mounted at MODEL_PLACE, if one is
    given."""

    def __init__(self, *arguments, model=None):
        self._log = tempfile.TemporaryFile()
        command = CONFIG["Entrypoint"] + (list(arguments) or CONFIG["Cmd"])
        begin = time.monotonic()
        self._runtime = subprocess.Popen(["unshare", "--net", *_confined(command, model)], stdout=subprocess.PIPE,
                                         stderr=self._log)
        self.serving = json.loads(self._runtime.stdout.readline() or "null")
        self.start_seconds = time.monotonic() - begin
        assert self.serving, f"the server did not start: {self.log()}"
        parent = self._runtime.pid
        self.pid = int(pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text())

    def log(self):
        self._log.seek(0)
        return self._log.read().decode()

    def status(self):
        """The fields of /proc/PID/status."""
        lines = pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}

    def write_error(self, path):
        """Why a file can't be made in the container, even by root; 0 if it can."""
        try:
            pathlib.Path(f"/proc/{self.pid}/root{path}").touch()
        except OSError as error:
            return error.errno
        return 0

    def execute(self, *command):
        """In the server's container, as health checks are."""
        return subprocess.run(["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", *_as_image_user(command)],
                              capture_output=True, text=True, timeout=PATIENCE)

    def neighbour(self, *command, **options):
        """A second container, whose network is this one's."""
        return subprocess.Popen([*self._on_network(), *_confined(command)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def scrape(self, port=9464):
        done = subprocess.run([*self._on_network(), "curl", "-sS", f"http://127.0.0.1:{port}/metrics"],
                              capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _on_network(self):
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def stop(self):
        """The exit code after the image's stop signal."""
        os.kill(self.pid, getattr(signal, CONFIG["StopSignal"]))
        return self._runtime.wait(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._runtime.poll() is None:
            self._runtime.kill()
            self._runtime.wait()
        self._runtime.stdout.close()
        self._log.close()

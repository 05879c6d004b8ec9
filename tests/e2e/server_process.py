"""Starts the server binary and speaks to it, as a stranger's process would."""

import json
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import time
import urllib.request

import grpc

from protos import ROOT, control, control_grpc, inference_grpc

MODEL = ROOT / "models" / "recall-9m"
# Sanitizers make everything slower; a bound is only there so that a broken server fails a test instead of hanging it.
PATIENCE = 120.0


def binary():
    folder = os.environ.get("TAUSERVE_BIN_DIR")
    if not folder:
        raise RuntimeError("TAUSERVE_BIN_DIR is not set: the folder of the built server")
    return str(pathlib.Path(folder) / "tauserve")


def wait_until(condition, what, patience=PATIENCE):
    """Polls until `condition` returns something true, and returns it."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {patience} s for {what}"
        select.select([], [], [], 0.01)


class Server:
    """A running server; flags override the defaults of `start`."""

    def __init__(self, *flags, model=MODEL):
        self.stderr = tempfile.TemporaryFile()
        self.expected_code = 0
        defaults = ["--listen=127.0.0.1:0", "--control_listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                    "--threads=2"]
        command = [binary(), f"--model={model}"] + defaults + list(flags)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr)
        self.channels = []
        line = self._first_line()
        self.serving = json.loads(line)
        assert self.serving["event"] == "serving"
        self.stub = inference_grpc.InferenceServiceStub(self.channel())
        self.control = control_grpc.ControlServiceStub(self.channel("control"))

    def _first_line(self):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not start: {self.log()}")
        return line

    def channel(self, which="grpc", options=(), credentials=None):
        # A subchannel pool of its own: channels of one address would otherwise share a connection.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)] + list(options)
        if credentials:
            channel = grpc.secure_channel(self.serving[which], credentials, options=options)
        else:
            channel = grpc.insecure_channel(self.serving[which], options=options)
        self.channels.append(channel)
        return channel

    def log(self):
        self.stderr.seek(0)
        return self.stderr.read().decode()

    def events(self, event):
        """The log's JSON lines of one kind."""
        lines = [json.loads(line) for line in self.log().splitlines()]
        return [line for line in lines if line["event"] == event]

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.serving['metrics']}/metrics", timeout=PATIENCE) as response:
            assert response.status == 200
            return response.read().decode()

    def metrics(self):
        return Samples(self.scrape())

    def load(self):
        return self.control.GetLoad(control.GetLoadRequest(), timeout=PATIENCE)

    def wait_idle(self):
        wait_until(lambda: self._is_idle(), "the server to be idle")

    def _is_idle(self):
        load = self.load()
        return load.running_requests == 0 and load.waiting_requests == 0

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, patience=PATIENCE):
        code = self.process.wait(timeout=patience)
        for channel in self.channels:
            channel.close()
        return code

    def stop(self):
        if self.process.poll() is None:
            self.signal()
        return self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] is not None and self.process.poll() is None:
            self.process.kill()
        code = self.stop()
        self.process.stdout.close()
        if exception[0] is None:
            assert code == self.expected_code, f"exit code {code}: {self.log()}"
        self.stderr.close()


class Samples:
    """A scrape: samples by name and labels."""

    _LINE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
    _LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.text = text
        self.samples = []
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = self._LINE.match(line)
            assert match, f"not a sample: {line}"
            labels = dict(self._LABEL.findall(match[2] or ""))
            self.samples.append((match[1], labels, float(match[3])))

    def sum(self, name, **labels):
        """Of all samples tauserve_`name` that have these labels; 0 if there is none."""
        return sum(value for n, have, value in self.samples
                   if n == f"tauserve_{name}" and all(have.get(k) == v for k, v in labels.items()))

    def has(self, name):
        return any(n == f"tauserve_{name}" for n, _, _ in self.samples)


def run_to_end(*flags):
    """Runs the server where it must not start: (exit code, stdout, stderr)."""
    done = subprocess.run([binary()] + list(flags), capture_output=True, timeout=PATIENCE, text=True)
    return done.returncode, done.stdout, done.stderr

"""Starts the real Prometheus beside a server, with the project's configuration, and asks it questions."""

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import yaml

from prometheus_rules import CONFIG, FOLDER
from server_process import PATIENCE, wait_until


def free_port():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def config_for(target):
    """The project's configuration, with a server on this machine and a second between scrapes and evaluations."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"].update(scrape_interval="1s", evaluation_interval="1s")
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    (static,) = job["static_configs"]
    static["targets"] = [target]
    return config


class Prometheus:
    """Scrapes `target`, an address, into `folder` until the end of the block."""

    def __init__(self, target, folder):
        program = shutil.which("prometheus")
        assert program, "prometheus is not installed: run deploy/setup.sh"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config_for(target)))
        # Another process may take the port first: then Prometheus exits, and the test fails with its log.
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(folder / "prometheus.log", "w+b")
        self.process = subprocess.Popen(
            [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={self.address}"], stdout=self.log, stderr=self.log)

    def __enter__(self):
        try:
            wait_until(self._is_ready, "Prometheus to be ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()

    def _is_ready(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            raise AssertionError(f"Prometheus ended: {self.log.read().decode()}")
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=PATIENCE) as response:
                return response.status == 200
        except (urllib.error.HTTPError, urllib.error.URLError):
            return False

    def api(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=PATIENCE) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}?{query}: {error.read().decode()}") from error

    def query(self, expr):
        """[(labels, value)] of an instant query."""
        data = self.api("query", query=expr)
        assert data["resultType"] == "vector", data
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def values(self, expr):
        return [value for _, value in self.query(expr)]

"""The rule files and the configuration of deploy/prometheus, as Python objects."""

import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
CONFIG = FOLDER / "prometheus.yml"
RECORDING = FOLDER / "recording_rules.yml"
ALERTS = FOLDER / "alert_rules.yml"


def rules(file):
    """The rules of all groups, in order."""
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]

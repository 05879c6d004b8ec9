"""Prometheus' configuration and rules by promtool; and that their tests notice each rule that is wrong."""

import re
import shutil
import subprocess

import pytest
import yaml

from prometheus_rules import ALERTS, CONFIG, RECORDING, ROOT, rules

RULES_TEST = ROOT / "tests" / "deploy" / "rules_test.yml"


def promtool(*arguments):
    program = shutil.which("promtool")
    assert program, "promtool is not installed: run deploy/setup.sh"
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_configuration():
    code, output = promtool("check", "config", CONFIG)
    assert code == 0 and f"{len([RECORDING, ALERTS])} rule files found" in output, output


@pytest.mark.parametrize("file", [RECORDING, ALERTS], ids=lambda file: file.stem)
def test_rules_are_well_formed(file):
    code, output = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert code == 0 and f"{len(rules(file))} rules found" in output, output


def test_rules_do_what_their_tests_say():
    code, output = promtool("test", "rules", RULES_TEST)
    assert code == 0, output


def test_alerts_say_what_to_do():
    for rule in rules(ALERTS):
        assert re.fullmatch(r"Tauserve[A-Z]\w+", rule["alert"])
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert len(rule["annotations"]["description"]) > len(rule["annotations"]["summary"]), rule["alert"]


def test_records_are_named_by_convention():
    for rule in rules(RECORDING):
        assert re.fullmatch(r"job:tauserve_[a-z_]+:(rate5m|ratio_rate5m|mean5m|p(50|95|99)_5m)", rule["record"])


def failures_with(folder, expr):
    """What fails in the rules' test, as [(expression, expected)], when the expression of every rule is `expr`."""
    for file in (RECORDING, ALERTS):
        document = yaml.safe_load(file.read_text())
        for group in document["groups"]:
            for rule in group["rules"]:
                rule["expr"] = expr
                rule.pop("for", None)
        (folder / file.name).write_text(yaml.safe_dump(document))
    tests = yaml.safe_load(RULES_TEST.read_text())
    tests["rule_files"] = [RECORDING.name, ALERTS.name]
    (folder / "test.yml").write_text(yaml.safe_dump(tests))
    code, output = promtool("test", "rules", folder / "test.yml")
    assert code != 0 and "FAILED" in output, output
    return re.findall(r'expr: "(.*)", time: .*\n *exp: (.*)', output)


def test_a_rule_without_value_is_noticed(tmp_path):
    """Each record, of each phase, and each alert is expected somewhere."""
    expected = " ".join(expectation for _, expectation in failures_with(tmp_path, "vector(1) > 2"))
    for rule in rules(RECORDING):
        phase = rule.get("labels", {}).get("phase")
        labels = f'[^}}]*phase="{phase}"' if phase else ""
        assert re.search(f'__name__="{rule["record"]}"{labels}', expected), (rule["record"], phase)
    for rule in rules(ALERTS):
        severity = rule["labels"]["severity"]
        assert re.search(rf'alertname="{rule["alert"]}", alertstate="firing"[^}}]*severity="{severity}"', expected), rule


def test_a_rule_with_another_value_is_noticed(tmp_path):
    """And each alert is expected to be silent somewhere."""
    failed = failures_with(tmp_path, "vector(42)")
    assert {re.sub(r"{.*", "", expr) for expr, _ in failed} == {rule["record"] for rule in rules(RECORDING)} | {"ALERTS"}
    assert [expectation for expr, expectation in failed if expr.startswith("ALERTS")].count("nil") >= len(rules(ALERTS))

"""Names that the documents use are those of the programs: tables, flags, metrics, alerts, log events, sizes."""

from __future__ import annotations

import os
import pathlib
import re

import pytest
import tables
import yaml
from markdown_files import ROOT, documents, read

PROGRAMS = tables.Programs(pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]))
OPERATING = ROOT / "docs" / "operating.md"


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables(name: str):
    assert tables.split(name)[1] == tables.TABLES[name][1](PROGRAMS), "run tests/docs/tables.py --write"


def first_cells(heading: str) -> list[str]:
    """The names in the first column of the tables under a heading of docs/operating.md."""
    section = OPERATING.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)]


def test_flags_that_are_named():
    """Those with an underscore are ours: other programs' have none."""
    written = "".join(tables.split(name)[1] for name in tables.TABLES if "flags" in name)
    known = set(re.findall(r"`--(\w+)", written))
    unknown = [f"{document.name}:{line}: --{flag}" for document in documents() for line, span in document.spans()
               for flag in re.findall(r"--([a-z]+(?:_[a-z]+)+)", span) if flag not in known]
    assert not unknown, "\n".join(unknown)


def test_metrics_that_are_named():
    families = tables.families_of(PROGRAMS.scrape())
    unknown = [f"{document.name}:{line}: {name}" for document in documents() for line, span in document.spans()
               for name in re.findall(r"^(tauserve_\w+)(?:\{.*\})?$", span)
               if name not in families and not is_build_name(name)]
    assert not unknown, "\n".join(unknown)


def is_build_name(name: str) -> bool:
    """A CMake function."""
    return any(name in path.read_text() for path in [*ROOT.glob("cmake/*"), *ROOT.glob("kernels/CMakeLists.txt")])


def test_log_events():
    source = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.[ch]*"))
    events = set(re.findall(r'Log(?:Debug|Info|Warning|Error)\(\s*"(\w+)"', source))
    for name in re.findall(r'Watched<\w+>::Start\("(\w+)"', source):
        events |= {f"{name}_reloaded", f"{name}_not_reloaded"}
    assert set(first_cells("Logs")) == events


def test_alerts():
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alert_rules.yml").read_text())
    alerts = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    section = OPERATING.read_text().split("\n## Alerts\n")[1]
    assert dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.M)) == alerts


def page_bytes(layers: int, kv_heads: int, head_dim: int, element: int, shadow: int) -> int:
    """As docs/operating.md says, on a CPU."""
    return layers * kv_heads * (64 * head_dim * (2 * element + shadow) + 20)


def test_sizing(server):
    """The formula gives the server's number of pages, and the table's numbers are the formula's."""
    labels = next(labels for name, labels, _ in server.metrics().samples if name == "tauserve_kv_cache_info")
    device = next(labels for name, labels, _ in server.metrics().samples if name == "tauserve_build_info")["device"]
    shadow = int("vnni" in device or "bf16" in device)
    if device.startswith("cpu"):
        assert int(labels["num_pages"]) == server.kv_cache_bytes // page_bytes(6, 4, 64, 4, shadow)
    text = OPERATING.read_text()
    for model, size in (("recall-9m", page_bytes(6, 4, 64, 4, 0)), ("", page_bytes(6, 4, 64, 4, 1)),
                        ("", 6 * 4 * (64 * (64 * 5 + 4) + 4)), ("Llama", page_bytes(32, 8, 128, 4, 1)),
                        ("", page_bytes(32, 8, 128, 2, 1)), ("", 32 * 8 * (64 * (128 * 5 + 4) + 4))):
        row = re.search(rf"^\| {model}.*\| {size:,} \| ([\d,]+) \| (\S+) ([MG])B \| (\S+) GB \|$", text, re.M)
        assert row, f"{size:,}"
        token, short, unit, long = row.groups()
        assert token == f"{size / 64 + 1e-9:,.0f}"
        assert float(short) == pytest.approx(128 * size / {"M": 1e6, "G": 1e9}[unit], rel=0.005)
        assert float(long) == pytest.approx(2048 * size / 1e9, rel=0.005)


def test_exit_codes_and_statuses_are_those_of_the_sources():
    main = (ROOT / "server" / "main.cc").read_text()
    codes = re.findall(r"constexpr int k\w+ = (\d+);", main)
    section = OPERATING.read_text().split("| exit code |")[1].split("\n\n")[0]
    assert codes == re.findall(r"^\| (\d) \|", section, re.M)[1:]
    proto = (ROOT / "proto" / "tauserve" / "inference" / "v1" / "inference.proto").read_text()
    told = set(re.findall(r"\b([A-Z]+(?:_[A-Z]+)*)\b", proto.split("service InferenceService")[0]))
    told &= {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAUTHENTICATED",
             "PERMISSION_DENIED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"}
    api = read(ROOT / "docs" / "api.md").path.read_text().split("\n## Statuses\n")[1]
    assert told <= set(re.findall(r"^\| `([A-Z_]+)` \|", api, re.M))

"""What the documents tell a reader to type is typed, and prints what they say it prints.

Blocks of the language sh and python are run, unless a comment above says why not; a text block behind one is its
output. Numbers stand for any number there, `…` for anything in a line, a line `...` for any lines.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest
from markdown_files import ROOT, Block, Document, documents
from server_process import PATIENCE

PROGRAMS = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"])
DOCUMENTS = [d for d in documents() if d.path.parent in (ROOT, ROOT / "docs")]
WITH_EXAMPLES = [d for d in DOCUMENTS if any(b.language in ("sh", "python") and not b.not_run for b in d.blocks)]
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def pattern(expected: str) -> re.Pattern[str]:
    lines = []
    for line in expected.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        parts = re.split(rf"(\s+|…|{_NUMBER})", line.strip())
        shown = {"…": ".*"}
        made = "".join(shown.get(p) or (r"\s+" if p.isspace() else _number_or_text(p)) for p in parts if p)
        lines.append(rf"\s*{made}\s*\n")
    return re.compile("".join(lines))


def _number_or_text(part: str) -> str:
    return _NUMBER if re.fullmatch(_NUMBER, part) else re.escape(part)


def test_outputs_are_compared():
    assert pattern("a 12 b…d\n...\nend\n").fullmatch("a 3.5e-7  b c d\nx\ny\n end\n")
    for other in ("a twelve bcd\nend\n", "a 12 bd\n", "a 12 bd\nend\nmore\n", "a 12 b\nend\n"):
        assert not pattern("a 12 b…d\n...\nend\n").fullmatch(other)


class Reader:
    """Someone with a shell in the project's folder, a server that runs, and Debian's tools."""

    def __init__(self, server, folder: pathlib.Path) -> None:
        packages, tools = folder / "packages", folder / "bin"
        for made in (packages, tools):
            made.mkdir()
        self._tool(tools / "grpcurl", f'exec {sys.executable} {pathlib.Path(__file__).parent / "grpcurl.py"} "$@"')
        # The programs that are tested are built already; building them anew under other tests' feet would be wrong.
        self._tool(tools / "cmake", 'echo "not built again: cmake $*" >&2')
        self.folder = folder
        self.texts = {
            "127.0.0.1:50051": server.serving["grpc"],
            "127.0.0.1:50052": server.serving["control"],
            "127.0.0.1:9464": server.serving["metrics"],
            "build/release/bin": str(PROGRAMS),
            "build/stubs": str(folder / "stubs"),
        }
        self.environment = dict(
            os.environ,
            TAUSERVE_SERVER=server.serving["grpc"],
            TAUSERVE_CONTROL=server.serving["control"],
            TAUSERVE_CUDA="0",
            PATH=f"{tools}:{os.environ['PATH']}",
            PYTHONPATH=str(packages),
            # Into a folder of this test, with what is there.
            PIP_TARGET=str(packages), PIP_NO_DEPS="1", PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0",
            PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore",
        )

    @staticmethod
    def _tool(path: pathlib.Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, block: Block) -> str:
        text = block.text
        for old, new in self.texts.items():
            text = text.replace(old, new)
        command = ["bash", "-euo", "pipefail", "-c", text]
        if block.language == "python":
            script = self.folder / "example.py"
            script.write_text(text)
            command = [sys.executable, str(script)]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=5 * PATIENCE)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode}: {done.stdout}")
        for old, new in self.texts.items():
            done.stdout = done.stdout.replace(new, old)
        return done.stdout

    def compare(self, block: Block) -> None:
        printed = self.run(block)
        if block.output:
            if not pattern(block.output.text).fullmatch(printed):
                raise AssertionError(f"printed:\n{printed}\nis not:\n{block.output.text}")


@pytest.fixture(scope="session")
def reader(server, tmp_path_factory):
    return Reader(server, tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("document", WITH_EXAMPLES, ids=lambda d: d.name)
def test_examples(reader, document: Document):
    failed = []
    for block in document.blocks:
        if block.language not in ("sh", "python") or block.not_run:
            continue
        if "quickstart.sh" in block.text and PROGRAMS != ROOT / "build" / "release" / "bin":
            continue  # it starts the programs of that folder
        try:
            reader.compare(block)
        except AssertionError as failure:
            failed.append(f"{document.name}:{block.line}: {failure}")
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


def test_programs_in_cpp():
    """They are parts of the example, which tests/clients/cpp/test_install.py builds and runs."""
    example = (ROOT / "clients" / "cpp" / "example" / "tell.cc").read_text()
    shown = [block for document in DOCUMENTS for block in document.blocks if block.language == "cpp"]
    assert shown and all(block.text in example for block in shown)

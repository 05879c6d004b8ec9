"""Links of all Markdown files lead somewhere, and what they name in the project is there."""

from __future__ import annotations

import re

import pytest
from markdown_files import ROOT, Document, documents, read

FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}


@pytest.mark.parametrize("document", documents(), ids=lambda d: d.name)
def test_links(document: Document):
    dead = []
    for line, link in document.links():
        if re.match(r"[a-z]+:", link):
            continue  # the network's
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        if not target.exists() or ROOT not in (target, *target.parents):
            dead.append(f"{document.name}:{line}: {link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in read(target).anchors():
            dead.append(f"{document.name}:{line}: {link}: no such heading")
    assert not dead, "\n".join(dead)


@pytest.mark.parametrize("document", documents(), ids=lambda d: d.name)
def test_paths_that_are_named(document: Document):
    """`server/rpc/outbox.h`, from the project's folder; `outbox.*` and `NAME` stand for several."""
    missing = []
    for line, span in document.spans():
        path = span.split(":")[0].rstrip("/")
        if not re.fullmatch(r"[\w.*-]+(/[\w.*-]+)+", path) or path.split("/")[0] not in FOLDERS - {"build"}:
            continue
        if not any(ROOT.glob(re.sub(r"\b[A-Z]{3,}\b", "*", path))):
            missing.append(f"{document.name}:{line}: {span}")
    assert not missing, "\n".join(missing)

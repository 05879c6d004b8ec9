"""The project's Markdown files as the tests of this folder read them: code blocks, spans, headings and links."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)(?:\s+\"[^\"]*\")?\)")
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block. `output` is the text block behind a block of commands or a program: what it prints."""

    language: str
    text: str
    line: int  # of its first line, from 1
    not_run: str = ""  # why, where a comment right above the block says so
    output: Block | None = None


@dataclasses.dataclass(frozen=True)
class Document:
    path: pathlib.Path
    blocks: tuple[Block, ...]
    prose: tuple[tuple[int, str], ...]  # line number and line, of all that is in no block

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    def anchors(self) -> set[str]:
        """Of its headings, as GitHub makes them."""
        found: set[str] = set()
        for _, line in self.prose:
            if match := _HEADING.match(line):
                slug = _slug(match[2])
                number = 0
                while (name := f"{slug}-{number}" if number else slug) in found:
                    number += 1
                found.add(name)
        return found

    def paragraphs(self) -> list[tuple[int, str]]:
        """Lines without an empty one, a block or a table's row between them, with the number of the first."""
        found: list[tuple[int, str]] = []
        last = 0
        for number, line in self.prose:
            if found and number == last + 1 and line.strip() and not line.startswith("|"):
                found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
            else:
                found.append((number, line))
            last = number
        return found

    def links(self) -> list[tuple[int, str]]:
        return [(number, link) for number, text in self.paragraphs() for link in _LINK.findall(_SPAN.sub("", text))]

    def spans(self) -> list[tuple[int, str]]:
        """What stands between backquotes, in one line."""
        found = [(number, span[1]) for number, text in self.paragraphs() for span in _SPAN.findall(text)]
        return [(number, re.sub(r"\s+", " ", span)) for number, span in found]


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@functools.cache
def read(path: pathlib.Path) -> Document:
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    opened: tuple[str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (fence[1], number + 1), []
        elif opened is not None and line == "```":
            above = prose[-1][1] if prose and prose[-1][0] == opened[1] - 2 else ""
            reason = _NOT_RUN.match(above)
            blocks.append(Block(opened[0], "\n".join(lines) + "\n", opened[1], reason[1] if reason else ""))
            opened = None
        elif opened is not None:
            lines.append(line)
        else:
            prose.append((number, line))
    assert opened is None, f"{path}:{opened}: the block has no end"
    return Document(path, tuple(_with_outputs(blocks)), tuple(prose))


def _with_outputs(blocks: list[Block]) -> list[Block]:
    out: list[Block] = []
    for block in blocks:
        if block.language == "text" and out and out[-1].language in ("sh", "python"):
            out[-1] = dataclasses.replace(out[-1], output=block)
        else:
            out.append(block)
    return out


@functools.cache
def documents() -> tuple[Document, ...]:
    """All that git knows, or would take."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z", "--", "*.md"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    return tuple(read(ROOT / name) for name in sorted(filter(None, names)) if (ROOT / name).exists())

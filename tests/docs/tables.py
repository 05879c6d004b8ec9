"""The tables of docs/ that the programs themselves know: flags from their --help, metrics from a server's scrape.

    .venv/bin/python tests/docs/tables.py --write [--bin build/release/bin]

writes each between its markers, `<!-- table: NAME -->` and `<!-- end of table -->`; without --write it says which
differ, and exits with 1 if one does. test_tables.py does the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 120.0
_FLAG = re.compile(r"^  --(\w+)(?:=(\S*))?(?:\s+(.*))?$")
_COMMAND = re.compile(r"^  ([a-z_]+)\s(?:.*?)\s{2,}(\S.*)$")


@dataclasses.dataclass(frozen=True)
class Flag:
    name: str
    value: str | None  # its default, or "..." where the program shows none; None: a switch
    help: str


class Programs:
    """The programs in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    @functools.cache
    def help(self, program: str, *command: str) -> str:
        command_line = [str(self.folder / program), *command, "--help"]
        done = subprocess.run(command_line, check=True, capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout

    @functools.cache
    def scrape(self) -> str:
        """Of a server that nobody has asked anything."""
        os.environ["TAUSERVE_BIN_DIR"] = str(self.folder)
        sys.path.insert(0, str(ROOT / "tests" / "e2e"))
        from server_process import Server

        with Server("--log_level=error") as server:
            return str(server.scrape())


def flags_of(text: str) -> list[Flag]:
    """Of a --help text: `  --name=default`, with what it means behind it or in the indented lines below."""
    flags: list[Flag] = []
    for line in text.splitlines():
        if match := _FLAG.match(line):
            flags.append(Flag(match[1], match[2], match[3] or ""))
        elif flags and line.startswith("      "):
            last = flags[-1]
            flags[-1] = dataclasses.replace(last, help=f"{last.help} {line.strip()}".strip())
    return flags


def rows(header: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Words that Markdown takes as they are."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def flag_table(text: str) -> str:
    flags = flags_of(text)
    if all(flag.value in (None, "...") for flag in flags):
        return rows(("flag", ""), ((code(written(flag)), plain(flag.help)) for flag in flags))
    cells = ((code(f"--{flag.name}"), code(default_of(flag)), plain(flag.help)) for flag in flags)
    return rows(("flag", "default", ""), cells)


def default_of(flag: Flag) -> str:
    """A value in capitals is no default: --config=FILE."""
    return "" if flag.value is None or flag.value.isupper() else flag.value


def written(flag: Flag) -> str:
    return f"--{flag.name}" if flag.value is None else f"--{flag.name}={flag.value}"


def commands_of(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for line in text.splitlines() if (match := _COMMAND.match(line))]


def own_flags(programs: Programs, program: str, command: str) -> list[Flag]:
    """Without those that every command has."""
    return flags_of(programs.help(program, command).split("\nEvery command:")[0])


def command_table(programs: Programs, program: str) -> str:
    return rows(("command", ""), ((code(name), plain(what)) for name, what in commands_of(programs.help(program))))


def command_flag_table(programs: Programs, program: str) -> str:
    commands: dict[Flag, list[str]] = {}
    for command, _ in commands_of(programs.help(program)):
        for flag in own_flags(programs, program, command):
            commands.setdefault(flag, []).append(command)
    shared = flags_of(programs.help(program).split("\nEvery command:")[1])
    cells = [(code(written(flag)), ", ".join(names), plain(flag.help)) for flag, names in commands.items()]
    cells += [(code(written(flag)), "all", plain(flag.help)) for flag in shared]
    return rows(("flag", "of", ""), cells)


@dataclasses.dataclass
class Family:
    help: str
    type: str = ""
    labels: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def families_of(scrape: str) -> dict[str, Family]:
    """By name, with the values of each label in the order in which they come."""
    families: dict[str, Family] = {}
    for line in scrape.splitlines():
        if match := re.match(r"# HELP (\w+) (.*)", line):
            families[match[1]] = Family(match[2])
        elif match := re.match(r"# TYPE (\w+) (\w+)", line):
            families[match[1]].type = match[2]
        elif match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            name = match[1]
            if name not in families:
                name = re.sub(r"_(bucket|sum|count)$", "", name)
            for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""):
                values = families[name].labels.setdefault(label, [])
                if value not in values:
                    values.append(value)
    return families


def metric_table(scrape: str) -> str:
    cells = []
    for name, family in sorted(families_of(scrape).items()):
        labels = []
        for label, values in family.labels.items():
            if label in ("model_name", "le"):
                continue
            # An info's values are the machine's and the model's.
            known = "" if name.endswith("_info") else ": " + ", ".join(value or '""' for value in sorted(values))
            labels.append(f"`{label}`{known}")
        cells.append((code(name), family.type, "; ".join(labels), plain(family.help)))
    return rows(("metric", "type", "labels", ""), cells)


# A table of another program is one more line here, and its markers in a document.
TABLES: dict[str, tuple[str, Callable[[Programs], str]]] = {
    "flags of tauserve": ("docs/operating.md", lambda p: flag_table(p.help("tauserve"))),
    "metrics": ("docs/metrics.md", lambda p: metric_table(p.scrape())),
    "commands of tauserve-cli": ("docs/command-line.md", lambda p: command_table(p, "tauserve-cli")),
    "flags of tauserve-cli": ("docs/command-line.md", lambda p: command_flag_table(p, "tauserve-cli")),
    "flags of tauserve-bench": ("docs/command-line.md", lambda p: flag_table(p.help("tauserve-bench"))),
}


def split(name: str) -> tuple[str, str, str]:
    """The document before the table, the table, and the document behind it."""
    text = (ROOT / TABLES[name][0]).read_text()
    begin, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
    if text.count(begin) != 1:
        raise ValueError(f"{TABLES[name][0]}: {begin.strip()} is there {text.count(begin)} times, must be once")
    before, rest = text.split(begin)
    table, behind = rest.split(end, 1)
    return before + begin, table, end + behind


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write what differs")
    folder = ROOT / "build" / "release" / "bin"
    parser.add_argument("--bin", type=pathlib.Path, default=folder, help="the programs' folder")
    args = parser.parse_args()
    programs = Programs(args.bin)
    differ = 0
    for name, (document, make) in TABLES.items():
        before, table, behind = split(name)
        made = make(programs)
        if made == table:
            continue
        print(f"{document}: table: {name}: {'written' if args.write else 'differs'}")
        if args.write:
            (ROOT / document).write_text(before + made + behind)
        else:
            differ = 1
    return differ


if __name__ == "__main__":
    sys.exit(main())

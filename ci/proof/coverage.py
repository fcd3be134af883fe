# SPDX-License-Identifier: GPL-2.0
"""Run the cases on a kernel with gcov: which lines of the series were executed?

A line of the series is one that it adds or changes in what is built for the architecture.
Each that has a counter must have been executed, in any mode, or have an excuse: a line of
kernel-patches/BASE/uncovered.  An excuse is for one line; another line of the same text wants
another.  An excuse of an architecture that no line needs is a failure as well.
"""
import collections
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from ci.boot import request as request_
from ci.build import files, images
from ci.build.git import git
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import base as base_
from ci.facts.text import ROOT, BadInput, rows
from ci.judge.results import Boot, Run

# "path\n", the size in hexadecimal, and the data; last "end\n" and how many there were
RECORD = re.compile(rb"([^\n]+)\n([0-9a-f]{8})\n")
HUNK = re.compile(r"@@ -\S+ \+(\d+)")
TEMPLATE = ROOT / "ci/proof/templates/coverage.txt.j2"

Lines = dict[str, dict[int, str]]             # {file: {number: text}}
Counts = dict[str, "collections.Counter[int]"]  # {file: {number: times executed}}
Excuse = list[str]                            # architecture or all, file, text, reason


def series_lines(tree: pathlib.Path) -> Lines:
    """The lines that the series adds to C code."""
    diff = git(tree, "diff", "-U0", "origin/base", "HEAD", "--", "*.c", "*.h", ":!tools",
               ":!Documentation")
    lines: Lines = collections.defaultdict(dict)
    path, number = "", 0
    for line in diff.splitlines():
        if hunk := HUNK.match(line):
            number = int(hunk[1])
        elif line.startswith("+++ "):
            path = line.removeprefix("+++ b/")
        elif line.startswith("+"):
            lines[path][number] = line[1:]
            number += 1
    return lines


def records(raw: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """(path of the .gcda, its bytes) as init.c's send_counters() wrote them."""
    data, at, count = raw.read_bytes(), 0, 0
    while match := RECORD.match(data, at):
        size, at = int(match[2], 16), match.end()
        if match[1] == b"end":
            if size != count:
                raise BadInput(f"{raw} has {count} of {size} files")
            if not count:
                raise BadInput(f"{raw} is empty: is the kernel one of CONFIG=gcov?")
            return
        if at + size > len(data):
            break
        yield match[1].decode(), data[at:at + size]
        at, count = at + size, count + 1
    raise BadInput(f"{raw} was cut off")


def count_lines(gcov: str, objects: pathlib.Path, path: str, data: bytes, counts: Counts) -> None:
    """Add what one .gcda says.  The kernel's tree is the parent directory of the objects."""
    notes = (objects / path.split(f"/{objects.name}/", 1)[1]).with_suffix(".gcno")
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(notes, directory)
        pathlib.Path(directory, f"{notes.stem}.gcda").write_bytes(data)
        text = subprocess.run([gcov, "--json-format", "--stdout", f"{notes.stem}.gcda"],
                              cwd=directory, capture_output=True, check=True).stdout
    for file in json.loads(text)["files"]:
        source = (objects / file["file"]).resolve()
        if source.is_relative_to(objects.parent):
            for line in file["lines"]:
                number = line["line_number"]
                counts[str(source.relative_to(objects.parent))][number] += line["count"]


def count_boots(config: Config, arch: arch_.Arch, boots: Sequence[Boot], lines: Lines) -> Counts:
    counts: Counts = collections.defaultdict(collections.Counter)
    objects = (config.out / "patched" / "linux").resolve() / f"out-{arch.name}-gcov"
    gcov = images.toolchain(config, arch).cross + "gcov"
    for boot in boots:
        for path, data in records(boot.directory / "gcov.raw"):
            count_lines(gcov, objects, path, data, counts)
    for file in lines:  # else its lines would be missing unnoticed
        if (objects / file).with_suffix(".o").exists() and file not in counts:
            raise BadInput(f"{file} is in the kernel of {arch.name}, but has no counters: "
                           "GCOV_PROFILE_ in guest-images/guest.mk?")
    return counts


def load_excuses(path: pathlib.Path) -> list[Excuse]:
    excuses = []
    for where, line in rows(path) if path.exists() else ():
        excuses.append(line.split(" | "))
        if len(excuses[-1]) != 4:
            raise BadInput(f"{where}: want architecture | file | line | reason")
    return excuses


def compare(arch: str, lines: Lines, counts: Counts, excuses: Sequence[Excuse]) -> dict[str, Any]:
    """The table of an architecture.  A line without code has None for its count."""
    left, table = [e for e in excuses if e[0] in ("all", arch)], []
    for file in sorted(set(lines) & set(counts)):
        for number, line in lines[file].items():
            text, count = line.strip(), counts[file].get(number)
            mine = [e for e in left if count == 0 and e[1:3] == [file, text]][:1]
            if mine:
                left.remove(mine[0])
            if text or count is not None:
                table.append({"file": file, "line": number, "text": text, "count": count,
                              "excuse": mine[0][3] if mine else ""})
    return {"arch": arch, "lines": table, "idle": [e[1:3] for e in left if e[0] == arch],
            "absent": [f for f in sorted(lines) if f not in counts and f.endswith(".c")]}


def missed(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in table["lines"] if line["count"] == 0 and not line["excuse"]]


def render(table: dict[str, Any]) -> str:
    return files.render(TEMPLATE, missed=missed(table), **table)


def good(table: dict[str, Any]) -> bool:
    coded = any(line["count"] is not None for line in table["lines"])
    return coded and not missed(table) and not table["idle"]


def coverage(config: Config) -> int:
    """As make check; 1 also for a line that was not executed and has no excuse."""
    config = dataclasses.replace(config, config="gcov")
    excuses = load_excuses(config.base_facts.directory / "uncovered")
    request_.show_plan(request_.plan(config, "tests"))
    images.build(config)
    run = Run(config, "coverage")
    try:
        with images.booting(config):
            for request in request_.requests(config, "tests"):
                run.boot(request)
    finally:
        status = run.summary()
    lines, tables = series_lines(config.out / "patched" / "linux"), []
    for arch in config.archs:
        mine = [boot for boot in run.boots if boot.request.arch == arch]
        counts = count_boots(config, arch, mine, lines)
        tables.append(compare(arch.name, lines, counts, excuses))
    text = "\n".join(map(render, tables))
    print(text, end="")
    whole = not config.cases and not config.mode and len(tables) == len(arch_.names())
    commit = not status and whole and config.base == base_.DEFAULT
    for directory in [run.directory, *([config.base_facts.results] if commit else [])]:
        files.write_json(directory / "coverage.json", tables)
        (directory / "coverage.txt").write_text(text)
    return status or int(not all(map(good, tables)))

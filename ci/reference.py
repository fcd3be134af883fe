#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Make the last run, of make bench or make scale, the one that the README quotes.

usage: reference.py RUN    (what make reference calls, with results/latest)

Writes results/reference.txt or results/scaling.txt, the README between the markers, and
what belongs to the table.
"""
import json
import pathlib
import sys

import run
import cases
from arch import ROOT, BadInput, names

# What the README has where, by the kind of run: the marker before it, and its file
TABLES = {"bench": "reference.txt", "scale": "scaling.txt"}
# What is copied to results/ with it
BESIDE = {"bench": ("stages.txt", "stages.svg", "latency.svg"), "scale": ("scaling.svg", "ratio.svg")}
# What the README shows of that, below the table
PICTURES = {"bench": "![What a fault of each mode consists of](results/stages.svg)\n\n",
            "scale": "![Pages per million instructions of critical path, by vCPUs](results/scaling.svg)\n\n"}
END = "<!-- end of table -->\n"


def begin(kind):
    return f"<!-- table: make {kind} reference -->\n"


def kind_of(directory):
    kind = directory.resolve().name.split("-")[2:3]
    if not kind or kind[0] not in TABLES:
        raise BadInput(f"{directory} is not a run of make bench or make scale")
    return kind[0]


def reference_text(directory, kind):
    metas = [json.loads(path.read_text()) for path in sorted(directory.glob("*/meta.json"))]
    table = directory / "table.txt"
    if not metas or not table.exists() or any(m["verdict"] != "pass" for m in metas):
        raise BadInput(f"{directory} is not a run of make {kind} that passed")
    if any("-local" in m["release"] for m in metas):
        raise BadInput(f"{directory} was built from a tree with changes that are not in kernel-patches/")
    wanted = {case.name for case in cases.load(cases.default_path(kind))}
    for name in names():
        mine = [m for m in metas if m["arch"] == name]
        if {r["name"] for m in mine for r in m["results"]} != wanted or any(
                m["config"] or m["series"] != "patched" for m in mine):
            raise BadInput(f"{directory} did not measure every mode of the series on {name}; make {kind} does")
    lines = [table.read_text().rstrip("\n"), ""]
    lines += dict.fromkeys(f"{m['arch']}/{m['mode']}: {m['release']}, {m['compiler']}, {m['qemu']}" for m in metas)
    return "\n".join(lines) + "\n"


def in_readme(readme, text, kind):
    """The README with the text between the markers of its kind, as preformatted text."""
    head, rest = readme.split(begin(kind))
    _, tail = rest.split(END, 1)
    indented = "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())
    picture = PICTURES[kind] if (ROOT / "results" / BESIDE[kind][-1]).exists() else ""
    return f"{head}{begin(kind)}\n{indented}\n{picture}{END}{tail}"


def reference(argv):
    directory = pathlib.Path(argv[0])
    kind = kind_of(directory)
    text = reference_text(directory, kind)
    (ROOT / "results" / TABLES[kind]).write_text(text)
    for name in BESIDE[kind]:
        (ROOT / "results" / name).write_text((directory / name).read_text())
    path = ROOT / "README.md"
    path.write_text(in_readme(path.read_text(), text, kind))
    return 0


if __name__ == "__main__":
    sys.exit(run.main(reference, sys.argv[1:]))

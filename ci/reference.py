#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Make the last run, of make bench, scale or profile, the one that the README quotes.

usage: reference.py RUN    (what make reference calls, with results/latest)

Writes the table and what belongs to it into results/, and the README between the markers.
"""
import json
import pathlib
import sys

import cases
import profile
import run
import scale
from arch import ROOT, BadInput, names

# By the kind of run: the table's file; what is copied to results/ with it; what the README
# shows below the table, or None if that is in results/ alone
TABLES = {"bench": "reference.txt", "scale": "scaling.txt", "profile": "profile.txt"}
BESIDE = {"bench": ("stages.txt", "stages.svg", "latency.svg"), "scale": ("scaling.svg", "ratio.svg"), "profile": ("flame-*.svg",)}
PICTURES = {"bench": "![What a fault of each mode consists of](results/stages.svg)\n\n",
            "scale": "![Pages per million instructions of critical path, by vCPUs](results/scaling.svg)\n\n",
            "profile": None}
# The kernel configuration that a kind of run has, if not the plain one
CONFIGS = {"profile": "profile"}
END = "<!-- end of table -->\n"


def begin(kind):
    return f"<!-- table: make {kind} reference -->\n"


def kind_of(directory):
    kind = directory.resolve().name.split("-")[2:3]
    if not kind or kind[0] not in TABLES:
        raise BadInput(f"{directory} is not a run of make {', '.join(TABLES)}")
    return kind[0]


def wanted_modes(kind):
    if kind == "profile":
        return set(profile.MODES)
    return {case.name for case in cases.load(cases.default_path(kind))}


def reference_text(directory, kind):
    metas = [json.loads(path.read_text()) for path in sorted(directory.glob("*/meta.json"))]
    table = directory / "table.txt"
    if not metas or not table.exists() or any(m["verdict"] != "pass" for m in metas):
        raise BadInput(f"{directory} is not a run of make {kind} that passed")
    if any("-local" in m["release"] for m in metas):
        raise BadInput(f"{directory} was built from a tree with changes that are not in kernel-patches/")
    wanted = wanted_modes(kind)
    for name in names():
        mine = [m for m in metas if m["arch"] == name]
        if {r["name"] for m in mine for r in m["results"]} != wanted or any(
                m["config"] != CONFIGS.get(kind, "") or m["series"] != "patched" for m in mine):
            raise BadInput(f"{directory} did not measure every mode of the series on {name}; "
                           f"make {kind}{' FULL=1' * (kind == 'scale')} does")
        if kind == "scale" and not scale.FULL_RUN <= {(m["lockstep"]["vcpus"], m["lockstep"]["boot"]) for m in mine}:
            raise BadInput(f"{directory} is not all of make scale FULL=1; to go on: make scale FULL=1 RESUME={directory}")
    lines = [table.read_text().rstrip("\n"), ""]
    lines += dict.fromkeys(f"{m['arch']}/{m['mode']}: {m['release']}, {m['compiler']}, {m['qemu']}" for m in metas)
    return "\n".join(lines) + "\n"


def in_readme(readme, text, kind):
    """The README with the text between the markers of its kind, as preformatted text."""
    head, rest = readme.split(begin(kind))
    _, tail = rest.split(END, 1)
    indented = "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())
    return f"{head}{begin(kind)}\n{indented}\n{PICTURES[kind]}{END}{tail}"


def reference(argv):
    directory = pathlib.Path(argv[0])
    kind = kind_of(directory)
    text = reference_text(directory, kind)
    (ROOT / "results" / TABLES[kind]).write_text(text)
    for pattern in BESIDE[kind]:
        found = sorted(directory.glob(pattern))
        if not found:
            raise BadInput(f"{directory} has no {pattern}: make {kind} again")
        for path in found:
            (ROOT / "results" / path.name).write_text(path.read_text())
    if PICTURES[kind]:
        path = ROOT / "README.md"
        path.write_text(in_readme(path.read_text(), text, kind))
    return 0


if __name__ == "__main__":
    sys.exit(run.main(reference, sys.argv[1:]))

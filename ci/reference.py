#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Make the last run of make bench the one that the README quotes.

usage: reference.py RUN    (what make reference calls, with results/latest)

Writes results/reference.txt, and the README between its two markers.
"""
import json
import pathlib
import sys

import run
import cases
from arch import ROOT, BadInput, names

BEGIN, END = "<!-- table: make bench reference -->\n", "<!-- end of table -->\n"


def reference_text(directory):
    metas = [json.loads(path.read_text()) for path in sorted(directory.glob("*/meta.json"))]
    table = directory / "table.txt"
    if not metas or not table.exists() or any(m["verdict"] != "pass" for m in metas):
        raise BadInput(f"{directory} is not a run of make bench that passed")
    if any("-local" in m["release"] for m in metas):
        raise BadInput(f"{directory} was built from a tree with changes that are not in kernel-patches/")
    wanted = [case.name for case in cases.load(cases.default_path("bench"))]
    if {m["arch"] for m in metas} != set(names()) or any(
            m["config"] or m["series"] != "patched" or [r["name"] for r in m["results"]] != wanted for m in metas):
        raise BadInput(f"{directory} did not measure every mode of the series on each architecture; make bench does")
    lines = [table.read_text().rstrip("\n"), ""]
    lines += [f"{m['arch']}/{m['mode']}: {m['release']}, {m['compiler']}, {m['qemu']}" for m in metas]
    return "\n".join(lines) + "\n"


def in_readme(readme, text):
    """The README with the text between its markers, as preformatted text."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    indented = "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())
    return f"{head}{BEGIN}\n{indented}\n{END}{tail}"


def reference(argv):
    text = reference_text(pathlib.Path(argv[0]))
    (ROOT / "results" / "reference.txt").write_text(text)
    path = ROOT / "README.md"
    path.write_text(in_readme(path.read_text(), text))
    return 0


if __name__ == "__main__":
    sys.exit(run.main(reference, sys.argv[1:]))

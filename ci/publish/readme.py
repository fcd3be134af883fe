# SPDX-License-Identifier: GPL-2.0
"""Make the last run, of make bench, scale, profile or revision, the one that the README quotes.

usage: reference.py RUN    (what make reference calls, with results/latest)

Writes the table and what belongs to it into results/, of another base than the default one
into results/BASE/, and the README between the markers.
"""
import dataclasses
import json
import pathlib
import re
import sys

from ci.facts import cases
from ci.measure import contention as profile
from ci.judge import results as run
from ci.measure import scaling as scale
from ci.facts.arch import ROOT, BadInput, names


@dataclasses.dataclass(frozen=True)
class Kind:
    table: str          # its file in results/
    beside: tuple       # what is copied to results/ with it
    picture: str = ""   # that the README shows below the table; without, it has neither
    config: str = ""    # of the kernel


KINDS = {"bench": Kind("reference.txt", ("stages.txt", "stages.svg", "latency.svg"),
                       "![What a fault of each mode consists of](results/stages.svg)"),
         "scale": Kind("scaling.txt", ("scaling.svg", "ratio.svg"),
                       "![Pages per million instructions of critical path, by vCPUs](results/scaling.svg)"),
         "profile": Kind("profile.txt", ("flame-*.svg",), config="profile")}
# Of make revision, as results/ has them
REPORT = {"mail.txt": "revision.txt", "report.html": "revision.html"}
END = "<!-- end of table -->\n"


# What the README shows of all bases together
BASES = "bases"


def begin(kind):
    return "<!-- table: of all bases -->\n" if kind == BASES else f"<!-- table: make {kind} reference -->\n"


def kind_of(directory):
    kind = directory.resolve().name.split("-")[2:3]
    if not kind or kind[0] not in KINDS:
        raise BadInput(f"{directory} is not a run of make {', '.join(KINDS)}")
    return kind[0]


def wanted_modes(kind):
    if kind == "profile":
        return set(profile.MODES)
    return {case.name for case in cases.load(cases.default_path(kind))}


def base_of(directory):
    metas = [json.loads(path.read_text()) for path in directory.glob("*/meta.json")]
    if any("kernel" in meta for meta in metas):
        raise BadInput(f"{directory} is of somebody's tree (KERNEL=), not of a base of kernel-patches/")
    base, = {meta["base"] for meta in metas}
    if base not in run.bases():
        raise BadInput(f"{directory} is of {base}, which is no base of kernel-patches/")
    return base


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
                m["config"] != KINDS[kind].config or m["series"] != "patched" for m in mine):
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
    picture = f"\n{KINDS[kind].picture}\n" if kind in KINDS else ""
    return f"{head}{begin(kind)}\n{indented}{picture}\n{END}{tail}"


def figures(text):
    """{mode: {column: instructions per fault}} of a table of make bench."""
    head, *lines = text[:text.index("\n\n")].splitlines()[1:]
    columns = [word for word in head.split() if "/" in word]
    ends = [head.index(word) + len(word) for word in columns]
    return {line.split()[0]: {word: line[:end].split()[-1] for word, end in zip(columns, ends)} for line in lines}


def bases_text():
    """The median row of each base beside each other: what make bench has counted on each."""
    found = {base: figures(place.read_text()) for base in run.bases()
             if (place := run.results_of(base) / KINDS["bench"].table).exists()}
    columns = [(column, base) for column in next(iter(next(iter(found.values())).values())) for base in found]
    head = f"{'':26}" + "".join(f"{column:>{10 * len(found)}}" for column in dict.fromkeys(column for column, _ in columns))
    lines = [head, f"{'':26}" + "".join(f"{base:>10}" for _, base in columns)]
    for mode in found[run.bases()[0]]:
        lines.append(f"{mode:26}" + "".join(f"{found[base].get(mode, {}).get(column, '-'):>10}" for column, base in columns))
    return "\n".join(lines) + "\n"


def copy_revision(directory):
    """The report of a revision that was judged as a whole, whatever came of it."""
    found = json.loads((directory / "revision.json").read_text())
    if not all(patch["judged"] for patch in found["patches"]) or set(found["archs"]) != set(names()) or "matrix" not in found:
        raise BadInput(f"{directory} did not judge all of the series on {' and '.join(names())}")
    for name, kept in REPORT.items():
        (ROOT / "results" / kept).write_text((directory / name).read_text())
    return 0


def reference(argv):
    directory = pathlib.Path(argv[0])
    if re.fullmatch(r"\d+-\d+-revision(-\d+)?", directory.resolve().name):
        return copy_revision(directory)
    kind = kind_of(directory)
    text = reference_text(directory, kind)
    base = base_of(directory)
    results = run.results_of(base)
    results.mkdir(exist_ok=True)
    (results / KINDS[kind].table).write_text(text)
    for pattern in KINDS[kind].beside:
        found = sorted(directory.glob(pattern))
        if not found:
            raise BadInput(f"{directory} has no {pattern}: make {kind} again")
        for path in found:
            (results / path.name).write_text(path.read_text())
    readme = ROOT / "README.md"
    if KINDS[kind].picture and base == run.bases()[0]:
        readme.write_text(in_readme(readme.read_text(), text, kind))
    if kind == "bench":
        readme.write_text(in_readme(readme.read_text(), bases_text(), BASES))
    return 0


if __name__ == "__main__":
    sys.exit(run.main(reference, sys.argv[1:]))

# SPDX-License-Identifier: GPL-2.0
"""Make the last run the one that results/ and the README quote.

A run of make bench, scale or profile becomes results/[BASE/]NAME.json, its text and pictures;
the README has a few rows of all bases.  A run of make revision leaves its report.
"""
import dataclasses
import pathlib
import re
import shutil
from typing import Any

from ci.build import files
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import base as base_
from ci.facts import cases as cases_
from ci.facts.text import ROOT, BadInput
from ci.measure import contention, scaling, tables
from ci.publish import template

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    table: str                 # its name in results/
    beside: tuple[str, ...]    # what is copied with it
    config: str = ""           # of the kernel


KINDS = {"bench": Kind("reference", ("stages.svg", "latency.svg")),
         "scale": Kind("scaling", ("scaling.svg", "ratio.svg")),
         "profile": Kind("profile", ("flame-*.svg",), config="profile")}
# Of make revision, as results/ has them
REPORT = {"revision.json": "revision.json", "mail.txt": "revision.txt",
          "report.html": "revision.html"}
# What the README shows of make bench
MODES = ("mapped", "empty_exit", "uffd_missing", "uffd_missing_sharded", "sigbus_missing",
         "fast_missing", "uffd_minor", "uffd_minor_sharded", "sigbus_minor", "fast_minor")
BEGIN, END = "<!-- table: make reference -->\n", "<!-- end of table -->\n"


# --- what may be quoted ---

def kind_of(directory: pathlib.Path) -> str:
    kind = directory.resolve().name.split("-")[2:3]
    if not kind or kind[0] not in KINDS:
        raise BadInput(f"{directory} is not a run of make {', '.join(KINDS)}")
    return kind[0]


def base_of(directory: pathlib.Path, metas: list[Row]) -> base_.Base:
    if any(meta.get("kernel") for meta in metas):
        raise BadInput(f"{directory} is of somebody's tree (KERNEL=), not of a base of "
                       "kernel-patches/")
    base, = {meta["base"] for meta in metas}
    if base not in base_.names():
        raise BadInput(f"{directory} is of {base}, which is no base of kernel-patches/")
    return base_.load(base)


def check(directory: pathlib.Path, kind: str, metas: list[Row]) -> None:
    """Refuse what is not all of the series, as it is in kernel-patches/, on all architectures."""
    if not (metas and (directory / "table.json").exists()
            and all(meta["verdict"] == "pass" for meta in metas)):
        raise BadInput(f"{directory} is not a run of make {kind} that passed")
    if any("-local" in meta["release"] for meta in metas):
        raise BadInput(f"{directory} was built from a tree with changes that are not in "
                       "kernel-patches/")
    wanted = (set(contention.MODES) if kind == "profile"
              else {case.name for case in cases_.load(cases_.FILES[kind])})
    for name in arch_.names():
        mine = [meta for meta in metas if meta["arch"] == name]
        modes = {result["name"] for meta in mine for result in meta["results"]}
        as_wanted = all((meta["config"], meta["series"]) == (KINDS[kind].config, "patched")
                        for meta in mine)
        if modes != wanted or not as_wanted:
            raise BadInput(f"{directory} did not measure every mode of the series on {name}; "
                           f"make {kind}{' FULL=1' * (kind == 'scale')} does")
        if kind == "scale" and not scaling.FULL_RUN <= {
                (meta["lockstep"]["vcpus"], meta["lockstep"]["boot"]) for meta in mine}:
            raise BadInput(f"{directory} is not all of make scale FULL=1; to go on: make scale "
                           f"FULL=1 RESUME={directory}")


# --- results/ ---

def committed(kind: str) -> dict[str, Row]:
    """{base: the table that results/ has of it}"""
    paths = {base: base_.load(base).results / f"{KINDS[kind].table}.json"
             for base in base_.names()}
    return {base: files.read_json(path) for base, path in paths.items() if path.exists()}


def write_table(place: pathlib.Path, kind: str, document: Row) -> None:
    """A table that has left its run says what it is of."""
    place.mkdir(exist_ok=True)
    files.write_json(place / f"{KINDS[kind].table}.json", document)
    lines = [tables.render(document), *tables.identity_lines(document)]
    (place / f"{KINDS[kind].table}.txt").write_text("\n".join(lines) + "\n")
    if kind == "bench":
        (place / "stages.txt").write_text(tables.stages(document))


def beside(directory: pathlib.Path, kind: str) -> list[pathlib.Path]:
    found = {pattern: sorted(directory.glob(pattern)) for pattern in KINDS[kind].beside}
    for pattern, paths in found.items():
        if not paths:
            raise BadInput(f"{directory} has no {pattern}: make {kind} again")
    return sum(found.values(), [])


def copy_revision(directory: pathlib.Path) -> None:
    """The report of a revision that was judged as a whole, whatever came of it."""
    document, archs = files.read_json(directory / "revision.json"), arch_.names()
    judged = all(patch["judged"] for patch in document["patches"])
    if not judged or set(document["archs"]) != set(archs) or "matrix" not in document:
        raise BadInput(f"{directory} did not judge all of the series on {' and '.join(archs)}")
    for name, kept in REPORT.items():
        shutil.copy(directory / name, ROOT / "results" / kept)


# --- the README ---

def readme_table(documents: dict[str, Row]) -> str:
    """Of make bench, {base: document}: for each machine, the bases side by side."""
    bases = {base: {machine["name"]: {row["mode"]: row for row in machine["prices"]}
                    for machine in document["machines"]} for base, document in documents.items()}
    return template.render("readme.txt", names=next(iter(bases.values())), bases=bases, modes=MODES)


def in_readme(readme: str, text: str) -> str:
    """The README with the text between its markers, as preformatted text."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END, 1)
    indented = "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())
    return f"{head}{BEGIN}{indented}{END}{tail}"


def reference(config: Config) -> int:
    directory = pathlib.Path(config.results, "latest")
    if re.fullmatch(r"\d+-\d+-revision(-\d+)?", directory.resolve().name):
        copy_revision(directory)
        return 0
    kind = kind_of(directory)
    metas = [files.read_json(path) for path in sorted(directory.glob("*/meta.json"))]
    check(directory, kind, metas)
    place, pictures = base_of(directory, metas).results, beside(directory, kind)
    write_table(place, kind, files.read_json(directory / "table.json"))
    for path in pictures:
        shutil.copy(path, place)
    if kind == "bench":
        readme = ROOT / "README.md"
        readme.write_text(in_readme(readme.read_text(), readme_table(committed(kind))))
    return 0

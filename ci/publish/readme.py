# SPDX-License-Identifier: GPL-2.0
"""make reference: the last run becomes what results/ and the README quote.

A run of make bench, scale or profile becomes results/[BASE/]NAME.json, its text and pictures;
the README has a few rows of all bases.  A run of make revision leaves its report.
"""
import pathlib
import re
import shutil
import textwrap
from collections.abc import Iterator
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

# As results/ has them
TABLES = {"bench": "reference", "scale": "scaling", "profile": "profile"}
PICTURES = {"bench": ("stages.svg", "latency.svg"), "scale": ("scaling.svg", "ratio.svg"),
            "profile": ("flame-*.svg",)}
BEGIN, END = "<!-- table: make reference -->\n", "<!-- end of table -->\n"


def refusals(directory: pathlib.Path, kind: str, metas: list[Row]) -> Iterator[str]:
    """Why a run is not all of the series, as it is in kernel-patches/, on all architectures."""
    if kind not in TABLES:
        yield f"is not a run of make {', '.join(TABLES)}"
    if not (metas and (directory / "table.json").exists()
            and all(meta["verdict"] == "pass" for meta in metas)):
        yield f"is not a run of make {kind} that passed"
    if any("-local" in meta["release"] for meta in metas):
        yield "was built from a tree with changes that are not in kernel-patches/"
    if any(meta.get("kernel") for meta in metas):
        yield "is of somebody's tree (KERNEL=), not of a base of kernel-patches/"
    if metas[0]["base"] not in base_.names():
        yield f"is of {metas[0]['base']}, which is no base of kernel-patches/"
    config, wanted = "", {case.name for case in cases_.load(cases_.FILES[kind])}
    if kind == "profile":
        config, wanted = "profile", set(contention.MODES)
    for name in arch_.names():
        mine = [meta for meta in metas if meta["arch"] == name]
        modes = {result["name"] for meta in mine for result in meta["results"]}
        kernels = {(meta["config"], meta["series"]) for meta in mine}
        if modes != wanted or kernels != {(config, "patched")}:
            yield (f"did not measure every mode of the series on {name}; "
                   f"make {kind}{' FULL=1' * (kind == 'scale')} does")
        if kind == "scale" and not scaling.FULL_RUN <= {
                (meta["lockstep"]["vcpus"], meta["lockstep"]["boot"]) for meta in mine}:
            yield f"is not all of make scale FULL=1; to go on: make scale FULL=1 RESUME={directory}"
    for pattern in PICTURES[kind]:
        if not list(directory.glob(pattern)):
            yield f"has no {pattern}: make {kind} again"


def committed(kind: str) -> dict[str, Row]:
    """{base: the table that results/ has of it}"""
    paths = ((base, base_.load(base).results / f"{TABLES[kind]}.json") for base in base_.names())
    return {base: files.read_json(path) for base, path in paths if path.exists()}


def write_table(place: pathlib.Path, kind: str, document: Row) -> None:
    """A table that has left its run says what it is of."""
    place.mkdir(exist_ok=True)
    files.write_json(place / f"{TABLES[kind]}.json", document)
    lines = [tables.render(document), *tables.identity_lines(document)]
    (place / f"{TABLES[kind]}.txt").write_text("\n".join(lines) + "\n")
    if kind == "bench":
        (place / "stages.txt").write_text(tables.stages(document))


def copy_revision(directory: pathlib.Path) -> None:
    """The report of a revision that was judged as a whole, whatever came of it."""
    document, archs = files.read_json(directory / "revision.json"), arch_.names()
    judged = all(patch["judged"] for patch in document["patches"])
    if not judged or set(document["archs"]) != set(archs) or "matrix" not in document:
        raise BadInput(f"{directory} did not judge all of the series on {' and '.join(archs)}")
    for name, kept in (("revision.json", "json"), ("mail.txt", "txt"), ("report.html", "html")):
        shutil.copy(directory / name, ROOT / "results" / f"revision.{kept}")


def in_readme(readme: str, documents: dict[str, Row]) -> str:
    """The README with the table of make bench, of {base: document}, between its markers."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END, 1)
    text = template.render("readme.txt", documents=documents)
    return f"{head}{BEGIN}{textwrap.indent(text, '    ')}{END}{tail}"


def reference(config: Config) -> int:
    directory = pathlib.Path(config.results, "latest")
    kind = re.sub(r"\d+-\d+-(\w+)(-\d+)?", r"\1", directory.resolve().name)
    if kind == "revision":
        copy_revision(directory)
        return 0
    metas = [files.read_json(path) for path in sorted(directory.glob("*/meta.json"))]
    reason = next(refusals(directory, kind, metas), "")
    if reason:
        raise BadInput(f"{directory} {reason}")
    place = base_.load(metas[0]["base"]).results
    write_table(place, kind, files.read_json(directory / "table.json"))
    for pattern in PICTURES[kind]:
        for path in directory.glob(pattern):
            shutil.copy(path, place)
    if kind == "bench":
        readme = ROOT / "README.md"
        readme.write_text(in_readme(readme.read_text(), committed(kind)))
    return 0

# SPDX-License-Identifier: GPL-2.0
"""make revision: judge a series, and write what came of it for people and their tools.

Everything is made of revision.json: mail.txt (a reply to the cover letter, in 72 columns, which
nobody sends), report.html (one file without scripts), kcidb.json and b4.json.
"""
import pathlib
from collections.abc import Sequence
from typing import Any

import jsonschema

from ci.build import files
from ci.config import Config
from ci.facts.text import ROOT, BadInput
from ci.judge import check as check_
from ci.judge import results
from ci.judge.check import Check, Status
from ci.publish import b4, kcidb, template
from ci.revision import judge as judge_

Document = dict[str, Any]

MARKS = {"": " ", "same": "=", "changed": "!", "new": "+"}
# Of each patch and architecture; warnings belong to the build
COLUMNS = ("build", "boot", "cost")


def checks_of(document: Document) -> list[Check]:
    return [Check(Status.of(row["status"]), row["summary"], where=row["log"], patch=row["patch"],
                  arch=row["arch"], tool=row["tool"], repeat=row["repeat"])
            for row in document["checks"]]


def cell(checks: Sequence[Check]) -> str:
    """What the table of patches has for these checks."""
    if not checks:
        return "-"
    bad = check_.findings(checks)
    if bad:
        return bad[0].status.word
    if checks[0].tool == "boot":
        passed = [check.summary.split()[0] for check in checks if check.status == Status.PASS]
        return passed[0] + "*" * (len(checks) > 1) if passed else "="
    return "ok*" if any(check.status in b4.LEFT_OUT for check in checks) else "ok"


def cells(mine: Sequence[Check], archs: Sequence[str]) -> list[str]:
    """A patch's row: its own checks, then COLUMNS of each architecture."""
    def at(arch: str, column: str) -> list[Check]:
        return [check for check in mine if check.arch == arch
                and (check.tool if check.tool in COLUMNS else "build") == column]
    own = [check for check in mine if not check.arch]
    return [cell(own), *(cell(at(arch, column)) for arch in archs for column in COLUMNS)]


def picture(name: str) -> str:
    """One of the committed ones, without its XML header, to stand in a page."""
    path = ROOT / "results" / name
    return "<svg" + path.read_text().partition("<svg")[2] if path.exists() else ""


def render(name: str, document: Document, **more: str) -> str:
    checks, patches = checks_of(document), document["patches"]
    rows = [(patch, cells([check for check in checks if check.patch == patch["number"]],
                          document["archs"])) for patch in patches if patch["judged"]]
    return template.render(
        name, **document, **more, bad=check_.findings(checks), rows=rows,
        limits=[check for check in checks if check.status in b4.LEFT_OUT],
        place=lambda check: check_.place(check, len(patches)),
        marks=MARKS, columns=COLUMNS, excerpt=results.excerpt, picture=picture)


def validate(document: Document, name: str = "revision") -> None:
    """Refuse what ci/NAME.schema.json does not allow."""
    try:
        jsonschema.validate(document, files.read_json(ROOT / "ci" / f"{name}.schema.json"))
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path))
        raise BadInput(f"{name}.json: {where}: {error.message[:200]}") from None


def write(directory: pathlib.Path, document: Document) -> None:
    """revision.json, and what is made of it."""
    validate(document)
    files.write_json(directory / "revision.json", document)
    for name in ("mail.txt", "report.html"):
        (directory / name).write_text(render(name, document))
    checks = checks_of(document)
    for_kcidb = kcidb.report(document, checks)
    validate(for_kcidb, "kcidb")
    files.write_json(directory / "kcidb.json", for_kcidb)
    files.write_json(directory / "b4.json", b4.answers(document, checks))


def revision(config: Config) -> int:
    directory, document = judge_.revision(config)
    write(directory, document)
    print(render("screen.txt", document, directory=str(directory)), end="")
    return Status.of(document["verdict"]).exit_status

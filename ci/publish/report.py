# SPDX-License-Identifier: GPL-2.0
"""A judged revision, as people and their tools read it: all of it is made of revision.json.

	mail.txt      plain text, 72 columns, a reply to the cover letter; nobody sends it
	report.html   the same with pictures, in one file without scripts
	kcidb.json    for KernelCI's database
	b4.json       what b4 review's check commands answer; ci/b4-check reads it
"""
import pathlib
import re
from collections.abc import Iterator, Sequence
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
LEFT_OUT = (Status.NOT_CHECKED, Status.KNOWN)
PICTURES = {"From the repository's results/, not of this run: instructions of a fault (make bench)":
            "stages.svg",
            "Likewise: scaling in the lockstep model (make scale FULL=1)": "scaling.svg"}


def checks_of(document: Document) -> list[Check]:
    return [Check(Status.of(row["status"]), row["summary"], where=row["log"], patch=row["patch"],
                  arch=row["arch"], tool=row["tool"], repeat=row["repeat"])
            for row in document["checks"]]


# --- mail and page ---

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
    return "ok*" if any(check.status in LEFT_OUT for check in checks) else "ok"


def cells(mine: Sequence[Check], archs: Sequence[str]) -> list[str]:
    """A patch's row: its own checks, then COLUMNS of each architecture."""
    def at(arch: str, column: str) -> list[Check]:
        return [check for check in mine if check.arch == arch
                and (check.tool if check.tool in COLUMNS else "build") == column]
    own = [check for check in mine if not check.arch]
    return [cell(own), *(cell(at(arch, column)) for arch in archs for column in COLUMNS)]


def repeat_lines(bad: Sequence[Check], command: str) -> Iterator[str]:
    """Each command once, with the logs that it is about."""
    seen = set()
    for check in bad:
        if check.repeat and check.repeat not in seen:
            seen.add(check.repeat)
            yield f"  {check.repeat}"
        if check.where:
            yield f"      {check.where}"
            yield from (f"      | {line[:template.WIDTH - 8]}"
                        for line in results.excerpt(check.where))
    if not seen:
        yield f"  {command}"


def render(name: str, document: Document, **more: Any) -> str:
    checks, patches = checks_of(document), document["patches"]
    bad = check_.findings(checks)
    rows = [(patch, cells([check for check in checks if check.patch == patch["number"]],
                          document["archs"])) for patch in patches if patch["judged"]]
    return template.render(
        name, **document, **more, bad=bad, rows=rows, marks=MARKS, columns=COLUMNS,
        limits=[check for check in checks if check.status in LEFT_OUT],
        repeat=repeat_lines(bad, document["command"]),
        place=lambda check: check_.place(check, len(patches)))


def picture(name: str) -> str:
    """One of the committed ones, to stand in a page."""
    path = ROOT / "results" / name
    text = path.read_text() if path.exists() else ""
    return re.sub(r"^<\?xml.*?\?>|<!DOCTYPE.*?>", "", text, flags=re.DOTALL).strip()


# --- files ---

def validate(document: Document, name: str = "revision") -> None:
    """Refuse what ci/NAME.schema.json does not allow."""
    try:
        jsonschema.validate(document, files.read_json(ROOT / "ci" / f"{name}.schema.json"))
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path))
        raise BadInput(f"{name}.json: {where}: {error.message[:200]}") from None


def faces(directory: pathlib.Path, document: Document) -> None:
    """What is made of revision.json."""
    checks = checks_of(document)
    pictures = {title: picture(name) for title, name in PICTURES.items()}
    (directory / "mail.txt").write_text(render("mail.txt", document))
    (directory / "report.html").write_text(render("report.html", document, pictures=pictures))
    for_kcidb = kcidb.report(document, checks)
    validate(for_kcidb, "kcidb")
    files.write_json(directory / "kcidb.json", for_kcidb)
    files.write_json(directory / "b4.json", b4.answers(document, checks))


def write(directory: pathlib.Path, document: Document) -> int:
    """All files, and the mail's text on the screen; the exit status is the verdict's."""
    validate(document)
    files.write_json(directory / "revision.json", document)
    faces(directory, document)
    print("\n" + render("body.txt", document))
    print(f"{directory}/mail.txt, report.html, kcidb.json, b4.json")
    words = [check.status for check in checks_of(document)]
    passed = sum(status in (Status.PASS, Status.SAME) for status in words)
    skipped = sum(status in LEFT_OUT for status in words)
    print(f"{passed} passed, {len(words) - passed - skipped} failed, {skipped} skipped")
    return Status.of(document["verdict"]).exit_status


def revision(config: Config) -> int:
    return write(*judge_.revision(config))

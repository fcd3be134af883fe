# SPDX-License-Identifier: GPL-2.0
"""Spoil one patch of the series in a known way, and see whether make revision says so first.

usage: spoil.py [--plan] ARCH...    (what make check-revision calls; MUTANTS= picks some)

A spoiled patch is kernel-patches/spoiled/BASE/NAME.patch.  What stands before its diff says
what is wrong, and
	Patch:  which one gets the diff as well
	Before: in front of which other one it is put, if it is only moved
	Arch:   where it is tried
	Of:     "the whole", if what is wrong shows in rates, which are of the whole series alone
	Finds:  what has to be the first finding: tool, status, and words of it
The series is judged with PATCHES= that one and its neighbours, or as a whole; if it is about
costs, against the one that is not spoiled.  Writes results/RUN/spoiled.txt, and
results/spoiled.txt if it tried all.

Exit status: 0, or 1 if one was not found, 2 if one could not be tried.
"""
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys

from ci.facts import arch as arch_
from ci.proof import mutants
from ci.publish import report
from ci.judge import results as run
from ci.revision import series as series_
from ci.build import progress as step
from ci.facts.arch import ROOT, BadInput
from ci.build.git import git

# Where the whole series is, in the tree
WHOLE = "refs/kept/whole"
HEADER = re.compile(r"(Patch|Before|Arch|Of|Finds): (.*)")


@dataclasses.dataclass(frozen=True)
class Spoiled:
    name: str
    why: str
    patch: int
    before: int     # 0: where it is
    arch: str
    whole: bool
    tool: str       # of what has to be found
    status: str
    words: str
    path: pathlib.Path


def load(path):
    head, marker, _ = path.read_text().partition("\ndiff --git ")
    words = dict(match.groups() for match in map(HEADER.fullmatch, head.splitlines()) if match)
    try:
        tool, status, text = words["Finds"].split(" | ")
        found = Spoiled(path.stem, head.splitlines()[0], int(words["Patch"]), int(words.get("Before", 0)), words["Arch"],
                        {"": False, "the whole": True}[words.get("Of", "")], tool, status, text, path)
    except (KeyError, ValueError):
        raise BadInput(f"{path}: want what is wrong, Patch:, Arch:, Finds: tool | status | words; Of:, if given, is "
                       "\"the whole\"") from None
    if bool(marker) == bool(found.before):
        raise BadInput(f"{path}: want a diff, or Before:")
    return found


def load_all(base, patterns=()):
    return mutants.load_all(base, patterns, "spoiled", load)


def amended(patch, spoiled, tree):
    """The text of the patch with the diff folded in; the tree is where it applies."""
    git(tree, "-c", "user.name=a", "-c", "user.email=a@localhost", "am", "--quiet", str(patch.path.resolve()))
    git(tree, "apply", "--whitespace=nowarn", str(spoiled.path))
    git(tree, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-aq", "--amend", "--no-edit", "--allow-empty")
    text = git(tree, "format-patch", "-1", "--stdout", "--signature=2.39", f"--start-number={patch.number}")
    return re.sub(r"^Subject: \[PATCH[^\]]*\]", f"Subject: {re.match(r'.[^]]*.', patch.message['subject'])[0]}", text, count=1, flags=re.MULTILINE) + "\n"


def make_series(spoiled, series, tree, place):
    """A directory with the spoiled series."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    order = list(series.patches)
    if spoiled.before:
        order.insert(spoiled.before - 1, order.pop(spoiled.patch - 1))
    for number, patch in enumerate(order, 1):
        text = patch.text
        if spoiled.before:
            text = re.sub(r"^Subject: \[PATCH \d+/", f"Subject: [PATCH {number:02}/", text, count=1, flags=re.MULTILINE)
        elif number == spoiled.patch:
            go_to_patch(tree, series, number - 1)
            text = amended(patch, spoiled, tree)
        (place / f"{number:04}-{patch.path.name[5:]}").write_text(text)
    shutil.copy(series.cover.path, place)


@contextlib.contextmanager
def kept(tree):
    """The tree is check-mutants' too: in the end it has the whole series again."""
    git(tree, "update-ref", WHOLE, "HEAD")
    try:
        yield
    finally:
        git(tree, "checkout", "-q", "-f", "--detach", WHOLE)


def go_to_patch(tree, series, number):
    commits = git(tree, "rev-list", "--reverse", f"origin/base..{WHOLE}").split()
    if len(commits) != len(series.patches):
        raise BadInput(f"{tree} has {len(commits)} commits, not {len(series.patches)} patches; remove it")
    git(tree, "checkout", "-q", "-f", "--detach", ([git(tree, "rev-parse", "origin/base")] + commits)[number])


def judge(spoiled, place):
    """(whether it was the first finding, what was)"""
    where = 0 if spoiled.whole else spoiled.before or spoiled.patch
    command = ["make", "revision", f"OF={place}", f"ARCH={spoiled.arch}"]
    if where:
        command.append(f"PATCHES={where}-{where + bool(spoiled.before)}")
    if spoiled.tool == "cost":
        command.append(f"AGAINST={ROOT / 'kernel-patches' / run.knob('BASE')}")
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MUTANTS", "ARCH")}
    environment["RESULTS"] = str(place.with_suffix(".results"))  # none of them is a verdict on the series
    with open(place.with_suffix(".log"), "wb") as log:
        status = step.call(command, log, cwd=ROOT, env=environment)
    last = [line for line in place.with_suffix(".log").read_text(errors="replace").splitlines() if "/mail.txt, " in line]
    if not last:
        raise BadInput(f"{spoiled.name}: make revision has not come to an end, see {place.with_suffix('.log')}")
    found = json.loads(pathlib.Path(last[-1].partition("/mail.txt, ")[0], "revision.json").read_text())
    findings = report.findings(found)
    first = findings[0] if findings else {"patch": 0, "arch": "", "tool": "", "status": "", "summary": "nothing"}
    text = f"{first['status'].upper()} {report.place(first, found)}: {first['summary'].splitlines()[0]}"
    seen = (status != 0 and first["patch"] == where and first["arch"] in ("", spoiled.arch) and first["tool"].startswith(spoiled.tool)
            and first["status"] == spoiled.status and spoiled.words in first["summary"])
    return seen, text


def main(argv):
    wanted = [s for s in load_all(run.knob("BASE"), run.knob("MUTANTS").replace(",", " ").split()) if s.arch in argv]
    if not wanted:
        raise BadInput(f"MUTANTS={run.knob('MUTANTS')}: none of these spoiled patches is for {' '.join(a for a in argv if a != '--plan')}")
    if "--plan" in argv:
        print(f"  {len(wanted)} spoiled patches")
        return 0
    this = run.Run("spoiled")
    base = ROOT / "kernel-patches" / run.knob("BASE")
    series, tree = series_.read(base, str(base)), pathlib.Path(run.knob("TREE")).resolve()
    lines, missed = [], 0
    for spoiled in wanted:
        place = this.directory.resolve() / spoiled.name
        with kept(tree):
            make_series(spoiled, series, tree, place)
        seen, text = judge(spoiled, place)
        missed += not seen
        lines.append(f"{spoiled.name:<16} {spoiled.arch:<6} {'found' if seen else 'NOT FOUND':<10} {text}")
        print(f"  {lines[-1]}", flush=True)
    head = f"spoiled patches in {mutants.release_of(arch_.load(wanted[0].arch))}, and the first finding of make revision"
    text = "\n".join([head, "", *lines]) + "\n"
    (this.directory / "spoiled.txt").write_text(text)
    if len(wanted) == len(load_all(run.knob("BASE"))):
        (ROOT / "results" / "spoiled.txt").write_text(text)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))

# SPDX-License-Identifier: GPL-2.0
"""ci/b4-check [RUN] < MESSAGE: what b4 review's check commands ask, from a run of make revision.

RUN is a directory in results/; without it, the last run that judged a whole series.  A patch is
known by its patch-id; a cover letter, by its subject, gets the checks of the whole.
"""
import json
import pathlib
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ci.build import files
from ci.config import Config
from ci.facts.text import BadInput
from ci.judge import check as check_
from ci.judge.check import Check, Status
from ci.revision import series as series_

Row = dict[str, Any]

LEFT_OUT = (Status.NOT_CHECKED, Status.KNOWN)


def answers(document: Row, checks: Sequence[Check]) -> dict[str, list[Row]]:
    """{patch-id: the answer}; that of the series as a whole is under ""."""
    found = {}
    for patch in [{"patch_id": "", "number": 0}, *document["patches"]]:
        groups = defaultdict(list)
        for check in (check for check in checks if check.patch == patch["number"]):
            groups[check.tool.replace(" ", "-"), check.arch].append(check)
        found[patch["patch_id"]] = [answer("-".join(filter(None, name)), group)
                                    for name, group in groups.items()]
    return found


def answer(name: str, checks: Sequence[Check]) -> Row:
    bad = check_.findings(checks)
    first = bad[0] if bad else checks[0]
    doubtful = any(check.status in LEFT_OUT for check in checks)
    return {"tool": f"kvm-fast-only:{name}",
            "status": "fail" if bad else "warn" if doubtful else "pass",
            "summary": first.summary.partition("\n")[0] or first.status.word,
            "details": "\n".join(check.summary for check in checks if check.summary)}


def b4_check(config: Config, words: Sequence[str] = ()) -> int:
    directory = pathlib.Path(words[0]) if words else last_run(pathlib.Path(config.results))
    if not (directory / "b4.json").exists():
        raise BadInput(f"{directory}: no b4.json there: make revision")
    known = files.read_json(directory / "b4.json")
    ident, title = read(sys.stdin.buffer.read())
    subject = files.read_json(directory / "revision.json")["subject"]
    # By its subject: the cover letter that was judged may have had no Message-Id.
    judged = ident or title == " ".join(subject.split())
    print(json.dumps(known.get(ident, []) if judged else [], indent=1))
    return 0


def last_run(place: pathlib.Path) -> pathlib.Path:
    """Of a whole series: a run of a few patches repeats a finding."""
    for path in sorted(place.glob("*-revision*/b4.json"), reverse=True):
        patches = files.read_json(path.with_name("revision.json"))["patches"]
        if all(patch["judged"] for patch in patches):
            return path.parent
    raise BadInput(f"{place}: no b4.json there of a whole series: make revision")


def read(mail: bytes) -> tuple[str, str]:
    """(patch-id, subject) of a mail, in whatever character set and encoding it comes."""
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, "mail")
        path.write_bytes(mail)
        patch = series_.parse(path)
        path.write_bytes(patch.plain)
        return patch.ident, patch.title

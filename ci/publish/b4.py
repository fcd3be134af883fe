# SPDX-License-Identifier: GPL-2.0
"""What b4 review's check commands answer, from a run of make revision.

	git config b4.review-perpatch-check-cmd /path/to/ci/b4-check
	git config b4.review-series-check-cmd   /path/to/ci/b4-check

ci/b4-check [RUN] < MESSAGE prints a JSON array, empty if nothing is known of the message.  RUN
is a directory in results/; without it, the last revision that was judged as a whole.  The
message is known by its patch-id; a cover letter, by its subject, gets what is said of the whole.
"""
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ci.build import files
from ci.config import Config
from ci.facts.text import BadInput
from ci.judge import check as check_
from ci.judge.check import Check, Status
from ci.revision import series as series_

Row = dict[str, Any]


def answers(document: Row, checks: Sequence[Check]) -> dict[str, list[Row]]:
    """{patch-id: the answer}; that of the series as a whole is under ""."""
    found = {}
    for patch in [{"patch_id": "", "number": 0}, *document["patches"]]:
        groups: dict[str, list[Check]] = {}
        for check in (check for check in checks if check.patch == patch["number"]):
            name = "-".join(filter(None, (check.tool.replace(" ", "-"), check.arch)))
            groups.setdefault(name, []).append(check)
        found[patch["patch_id"]] = [answer(name, group) for name, group in groups.items()]
    return found


def answer(name: str, checks: Sequence[Check]) -> Row:
    bad = check_.findings(checks)
    first = bad[0] if bad else checks[0]
    doubtful = any(check.status in (Status.NOT_CHECKED, Status.KNOWN) for check in checks)
    return {"tool": f"kvm-fast-only:{name}",
            "status": "fail" if bad else "warn" if doubtful else "pass",
            "summary": first.summary.partition("\n")[0] or first.status.word,
            "details": "\n".join(check.summary for check in checks if check.summary)}


def b4_check(config: Config, words: Sequence[str] = ()) -> int:
    directory = pathlib.Path(words[0]) if words else last_run(pathlib.Path(config.results))
    if not (directory / "b4.json").exists():
        raise BadInput(f"{directory}: no b4.json there: make revision")
    ident, title = read(sys.stdin.buffer.read())
    subject = files.read_json(directory / "revision.json")["subject"]
    # By its subject: the cover letter that was judged may have had no Message-Id.
    judged = ident or title == " ".join(subject.split())
    known = files.read_json(directory / "b4.json")
    print(json.dumps(known.get(ident, []) if judged else [], indent=1))
    return 0


def last_run(place: pathlib.Path) -> pathlib.Path:
    """Not of a few patches, to repeat a finding."""
    for path in sorted(place.glob("*-revision*"), reverse=True):
        if (path / "b4.json").exists():
            patches = files.read_json(path / "revision.json")["patches"]
            if all(patch["judged"] for patch in patches):
                return path
    raise BadInput(f"{place}: no b4.json there of a whole series: make revision")


def read(mail: bytes) -> tuple[str, str]:
    """(patch-id, subject) of a mail, in whatever character set and encoding it comes."""
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, "mail")
        path.write_bytes(mail)
        patch = series_.parse(path)
        path.write_bytes(patch.plain)
        return patch.ident, patch.title

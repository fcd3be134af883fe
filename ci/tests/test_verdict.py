# SPDX-License-Identifier: GPL-2.0
"""What a result and a machine have to be; one status of many findings."""
import re

import pytest

from ci.boot import ktap
from ci.facts.arch import KernelConfig, Mode
from ci.facts.cases import Case, KnownFailure
from ci.judge import check, verdict
from ci.judge.check import Check, Status
from ci.tests.conftest import make_request


@pytest.mark.parametrize("why, status, wanted", [
    # A known failure that comes and goes is none when it stays away.
    ("sometimes: it is so", "fail", Status.KNOWN),
    ("sometimes: it is so", "pass", Status.PASS),
    ("it is so", "fail", Status.KNOWN), ("it is so", "pass", Status.FAIL)])
def test_known_failures(why: str, status: str, wanted: Status) -> None:
    case = Case("a", ("all",), "-", 10, ("a",))
    line = KnownFailure("a", "arm64", "tcg", re.compile("too early"), why)
    failed = status == "fail"
    result = ktap.Result("a", status, "exit=254" if failed else "", 1,
                         "too early" if failed else "")
    assert verdict.judge_result(case, result, "patched", [line])[0] == wanted


@pytest.mark.parametrize("console, facts, wanted", [
    ("is m checked init: end", {"ops": "7"}, []),
    ("is m checked init: end", {}, [Status.HARNESS]),
    ("is m init: end", {"ops": "7"}, [Status.HARNESS]),
    ("checked init: end", {"ops": "7"}, [Status.HARNESS])])
def test_knobs_of_cases_and_the_checkers_are_read_back(console: str, facts: dict[str, str],
                                                       wanted: list[Status]) -> None:
    request = make_request(release="r", mode=Mode("m", "", "is m"), environment=("ops=7",),
                           config=KernelConfig(proof="checked"))
    stream = ktap.Stream()
    stream.ended = True
    stream.facts = {"release": "r", "cpus": "2", "page_size": "4096", "vm": "held", **facts}
    found = [*verdict.judge_machine(request, stream, console),
             *verdict.judge_console(request, stream, console)]
    assert [finding.status for finding in found] == wanted


def test_the_gravest_counts() -> None:
    assert check.worst([]) == Status.PASS
    assert check.worst(map(Check, (Status.KNOWN, Status.SAME))) == Status.KNOWN
    assert check.worst(map(Check, (Status.LOST, Status.SPLAT, Status.FAIL))) == Status.LOST


def test_what_the_kernel_did_comes_first() -> None:
    found = [Check(Status.HARNESS), Check(Status.FAIL), Check(Status.FAIL, patch=2),
             Check(Status.SAME), Check(Status.SPLAT, patch=3)]
    assert [(finding.status, finding.patch) for finding in check.findings(found)] == [
        (Status.SPLAT, 3), (Status.FAIL, 2), (Status.FAIL, 0), (Status.HARNESS, 0)]


def test_words() -> None:
    assert Status.NOT_CHECKED.word == "not-checked"
    assert all(Status.of(status.word) == status for status in Status)
    assert [status.word for status in Status if status.good] == [
        "pass", "same", "not-checked", "known"]


def test_places() -> None:
    assert check.place(Check(Status.FAIL, patch=3, arch="x86", tool="boot"), 15) == (
        "patch 3/15 x86 boot")
    assert check.place(Check(Status.FAIL, arch="x86", tool="base"), 15) == "base x86 base"
    assert check.place(Check(Status.FAIL, tool="cost"), 15) == "series cost"

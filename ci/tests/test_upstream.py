# SPDX-License-Identifier: GPL-2.0
"""What upstream's tests do on the base, and what a run of the series makes of it."""
import re
from collections.abc import Callable

import pytest

from ci.boot import ktap
from ci.boot import request as request_
from ci.build import images
from ci.config import Config
from ci.facts.arch import Arch
from ci.facts.cases import KnownFailure
from ci.judge import suite, upstream
from ci.judge.check import Check, Status
from ci.tests.conftest import UPSTREAM, Machines

FAILURE = ("==== Test Assertion Failure ====\n  a.c:1: x == y\n  pid=7 tid=7 errno=9\n"
           "  0x2 != 0x1")
OTHER_PROCESS = FAILURE.replace("pid=7 tid=7", "pid=8 tid=9")
FIRST, SECOND = f"Test: one\n{FAILURE}", f"Test: one\nTest: two\n{FAILURE}"


def result(status: str, output: str = "") -> ktap.Result:
    return ktap.Result("a", status, "", 1, output)


@pytest.mark.parametrize("ours, base, word", [
    (result("pass"), result("pass"), ""),
    (result("fail", FAILURE), result("pass"), "new"),
    (result("pass"), result("fail", FAILURE), "fixed"),
    (result("fail", FAILURE), result("fail", OTHER_PROCESS), "same"),
    (result("fail", FAILURE), result("fail", FAILURE.replace("x == y", "x")), "different"),
    (result("timeout", FAILURE), result("fail", FAILURE), "different"),
    # The same assertion, in another of the test's parts
    (result("fail", SECOND), result("fail", SECOND), "same"),
    (result("fail", FIRST), result("fail", SECOND), "different"),
])
def test_words(ours: ktap.Result, base: ktap.Result, word: str) -> None:
    assert upstream.compare(ours, upstream.result_of(base)) == word


def known(why: str) -> list[KnownFailure]:
    return [KnownFailure("a", "arm64", "tcg", re.compile("too early"), why)]


@pytest.mark.parametrize("status, where", [(Status.SPLAT, "console.log:3"),
                                           (Status.SKIP, "tests.ktap:9"),
                                           (Status.TIMEOUT, "tests.ktap:9"),
                                           (Status.FAIL, "console.log:3")])
def test_only_a_failure_of_the_test_is_excused(status: Status, where: str) -> None:
    finding = Check(status, "what", "a", where)
    assert upstream.judged(finding, "same", []) == finding


def test_a_failure_of_the_base_is_excused() -> None:
    finding = Check(Status.FAIL, "exit=254", "a", "tests.ktap:9")
    assert upstream.judged(finding, "same", []).status == Status.KNOWN
    for word in ("new", "different"):
        assert upstream.judged(finding, word, []) == finding


def test_what_the_base_passes_is_no_known_failure() -> None:
    finding = Check(Status.KNOWN, "QEMU", "a", "tests.ktap:9")
    for word in ("new", "different"):
        assert upstream.judged(finding, word, known("it is so")).status == Status.FAIL
    assert upstream.judged(finding, "same", known("it is so")) == finding


def test_what_comes_and_goes_needs_no_failure_of_the_base() -> None:
    finding = Check(Status.KNOWN, "QEMU", "a", "tests.ktap:9")
    assert upstream.judged(finding, "new", known("sometimes: it is so")) == finding


# --- a whole run ---

Check_ = Callable[..., int]


@pytest.fixture(name="check")
def fixture_check(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Check_:
    """make check with upstream's tests; @base: how the machine with the base fares."""
    machines.cases(UPSTREAM)

    def check(fate: str, base: str = "killed_boot", cases: tuple[str, ...] = ()) -> int:
        monkeypatch.setenv("FAKE_QEMU", fate)
        monkeypatch.setenv("FAKE_QEMU_BASE", base)
        return suite.check(machines.config(cases=cases))
    return check


def base_boots(machines: Machines) -> int:
    return len(list(machines.root.glob("results/2*/x86-npt-base/command")))


def test_the_base_is_not_asked_if_all_pass(machines: Machines, check: Check_) -> None:
    assert (check("pass"), base_boots(machines)) == (0, 0)


@pytest.mark.parametrize("base, status, says", [
    ("base_fail", Status.KNOWN, "KNOWN x86/npt second: exit=254 (on the base as well)"),
    ("base_pass", Status.FAIL, "against the base: second new"),
    ("base_hangs", Status.FAIL, "against the base: second different"),
    ("killed_boot", Status.HARNESS, "no results of the base to compare with")])
def test_the_base_is_asked_for_what_fails(machines: Machines, check: Check_, base: str,
                                          status: Status, says: str,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    assert (check("fail", base), base_boots(machines)) == (status.exit_status, 1)
    assert says in capsys.readouterr().out
    assert machines.meta()["verdict"] == status.word


def test_some_cases_are_not_compared(machines: Machines, check: Check_) -> None:
    assert check("fail", cases=("first", "second")) == Status.FAIL.exit_status
    assert base_boots(machines) == 0


@pytest.mark.parametrize("base, boots", [("base_pass", 1), ("base_fail", 2), ("base_hangs", 2)])
def test_only_a_pass_is_kept(machines: Machines, check: Check_, base: str, boots: int) -> None:
    check("fail", base)
    check("fail", base)
    assert base_boots(machines) == boots


def test_a_pass_of_another_kernel_is_none(machines: Machines, check: Check_) -> None:
    check("fail", "base_pass")
    (machines.root / "out" / "base" / "x86.kernel").write_text("other")
    check("fail", "base_pass")
    assert base_boots(machines) == 2


def test_only_kernels_of_the_base_are_built(machines: Machines, check: Check_,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the series is built and booted, and for its architecture alone."""
    built: list[tuple[str, list[str], bool]] = []

    def build(config: Config, archs: list[Arch] | None = None, programs: bool = True) -> None:
        built.append((config.series_name, [arch.name for arch in archs or config.archs], programs))
        with images.building(config):   # waits for ever while guests run
            pass
    monkeypatch.setattr(images, "build", build)
    monkeypatch.setattr(request_, "check_release", lambda image, wanted: None)
    monkeypatch.setenv("FAKE_QEMU", "fail")
    monkeypatch.setenv("FAKE_QEMU_BASE", "base_fail")
    config = machines.config(images="", o=str(machines.root / "o"))
    config.out.parent.mkdir()
    config.out.symlink_to(machines.root / "out")
    assert suite.check(config) == 0
    assert built == [("patched", ["x86"], True), ("base", ["x86"], False)]

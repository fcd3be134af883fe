# SPDX-License-Identifier: GPL-2.0
"""From what boots give to what is said of a patch, and to revision.json."""
import contextlib
import dataclasses
import json
import pathlib
import types
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from ci.boot.ktap import Result
from ci.build import images
from ci.build.cache import Cache
from ci.config import Config
from ci.facts.text import ROOT, BadInput
from ci.judge.check import Check, Status
from ci.judge.verdict import SERIES_IS_MISSING
from ci.revision import judge, patchcheck, series
from ci.revision.judge import Document, Judge
from ci.revision.series import Series
from ci.revision.states import NotApplied, NotBuilt, State
from ci.tests.test_series import COVER, patch_text, write

FAILS = Check(Status.FAIL, "exit=254", "a", "tests.ktap:1")
MISSING = Check(Status.SKIP, f"must not skip here: SKIP {SERIES_IS_MISSING}", "a", "tests.ktap:1")
SPLAT = Check(Status.SPLAT, "WARNING", "a", "console.log:1")


def make_boot(results: dict[str, str], *findings: Check) -> Any:
    """Of {case: status}; what failed says so."""
    found = [Result(name, status, "reason" if status != "pass" else "", n, "")
             for n, (name, status) in enumerate(results.items())]
    case = types.SimpleNamespace(name="a", needs="-", ours=False)
    return types.SimpleNamespace(
        outcome=types.SimpleNamespace(stream=types.SimpleNamespace(results=found)),
        findings=list(findings), directory="d", count=lambda word: len(found),
        request=types.SimpleNamespace(cases=[case], kernel=pathlib.Path("kernel")))


# --- what may be different after a patch, and what may not ---

@pytest.mark.parametrize("before, now, finding, status", [
    ("pass", "fail", FAILS, Status.FAIL),
    ("fail", "fail", FAILS, None),        # in the same way, which is none of the patch
    ("skip", "skip", MISSING, None),      # The series does not reach it yet.
    ("pass", "skip", MISSING, Status.SKIP),
    ("skip", "fail", FAILS, Status.FAIL),
    ("fail", "fail", SPLAT, Status.SPLAT)])   # always the patch
def test_bisection(before: str, now: str, finding: Check, status: Status | None) -> None:
    found = judge.broken(make_boot({"a": before}), make_boot({"a": now}, finding))
    assert [check.status for check in found] == [status] * bool(status)
    if status and before == "pass":
        assert "passed before this patch" in found[0].summary


@pytest.mark.parametrize("status, again, theirs, said", [
    (Status.FAIL, True, True, Status.FAIL),
    (Status.FAIL, False, True, Status.NOT_CHECKED),
    (Status.FAIL, False, False, Status.FAIL),   # Ours may not.
    (Status.SPLAT, False, True, Status.SPLAT)])
def test_what_only_one_boot_shows(status: Status, again: bool, theirs: bool, said: Status) -> None:
    check = judge.with_second_boot(Check(status, "a"), again, theirs)
    assert check.status == said
    assert f"in {'both' if again else 'one'} of two boots" in check.summary
    assert ("not blamed on this patch" in check.summary) == (said == Status.NOT_CHECKED)


def make_judge(config: Config = Config(), **states: Any) -> Judge:
    tree = types.SimpleNamespace(base="0" * 40, moved=lambda: [])
    made = types.SimpleNamespace(tree=tree, cache=None, prepare=lambda wanted: None, **states)
    patches = tuple(types.SimpleNamespace(number=n, subject="a", files=[]) for n in (1, 2))
    found = Judge(config, Series("", pathlib.Path(), patches),  # type: ignore[arg-type]
                  made)  # type: ignore[arg-type]
    found.static = types.SimpleNamespace(  # type: ignore[assignment]
        of_patch=lambda patch: [("subject", [])], warnings=lambda *_: [])
    return found


def judged(before: Any, now: Any, again: Any = None) -> list[tuple[str, str, Status]]:
    """Of patch 2, by x86."""
    made = make_judge(Config(arch=("x86",)), before=lambda arch, n: before,
                      state=lambda arch, n: now, once_more=lambda arch, n: again)
    made.patch(made.series.patches[1])
    assert {check.patch for check in made.checks} == {2}
    return [(check.tool, check.arch, check.status) for check in made.checks[1:]]


def make_state(boot: Any, *hashes: str) -> State:
    return State("", "", boot.request, hashes, boot)


GOOD, BAD = make_boot({"a": "pass"}), make_boot({"a": "fail"}, FAILS)


def test_a_patch_is_built_and_booted(capsys: pytest.CaptureFixture[str]) -> None:
    before = make_state(GOOD, "1")
    build = ("build", "x86", Status.PASS)
    assert judged(before, make_state(GOOD, "2")) == [build, ("boot", "x86", Status.PASS)]
    assert judged(before, make_state(BAD, "1")) == [build, ("boot", "x86", Status.SAME)]
    assert judged(before, make_state(BAD, "2"), BAD) == [build, ("boot", "x86", Status.FAIL)]
    out = capsys.readouterr().out
    assert "FAIL patch 2 x86 boot: a: exit=254 (passed before this patch)" in out
    assert judged(before, make_state(BAD, "2"), GOOD) == [
        build, ("boot", "x86", Status.NOT_CHECKED), ("boot", "x86", Status.PASS)]
    assert judged(before, State("the kernel does not build", "log")) == [
        ("build", "x86", Status.FAIL)]


def test_the_base_has_to_boot() -> None:
    config = Config(arch=("x86",))
    for state, statuses in ((make_state(GOOD), []), (make_state(make_boot({}, MISSING)), []),
                            (make_state(make_boot({}, SPLAT)), [Status.SPLAT])):
        made = make_judge(config, state=lambda arch, n, state=state: state)
        made.base()
        assert [check.status for check in made.checks] == statuses
    with pytest.raises(BadInput, match="the base: no, see log"):
        make_judge(config, state=lambda arch, n: State("no", "log")).base()


# --- revision.json ---

@pytest.mark.parametrize("text, wanted", [("", [1, 2, 3, 4]), ("2", [2]), ("1,3-4", [1, 3, 4])])
def test_patches_are_chosen(text: str, wanted: list[int]) -> None:
    assert judge.chosen(text, 4) == wanted


@pytest.mark.parametrize("text", ["5", "x", "3-1"])
def test_patches_that_there_are_not(text: str) -> None:
    with pytest.raises(BadInput, match="PATCHES="):
        judge.chosen(text, 4)


def test_a_command_repeats_what_was_given() -> None:
    config = Config(revision="a b", patches="1-3", matrix="all", cpus=4)
    assert judge.repeat(config, 0, "") == (
        "make revision CPUS=4 'REVISION=a b' PATCHES=1-3 MATRIX=all")
    assert judge.repeat(config, 2, "x86") == (
        "make revision ARCH=x86 PATCHES=2 CPUS=4 'REVISION=a b'")


class Revised:
    """A revision of two patches; what builds and boots is replaced."""

    def __init__(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        self.patch, self.root = monkeypatch.setattr, tmp_path
        where = write(tmp_path / "in", **{"0000_cover": COVER}, **{
            f"{n:04}_do_{n}": patch_text(n) for n in (1, 2)})
        self.config = Config(o=str(tmp_path / "o"), results=str(tmp_path / "results"),
                             revision=where, arch=("x86",))
        for name in ("build", "booting"):
            self.patch(images, name, lambda config: contextlib.nullcontext())
        self.patch(images, "toolchain", lambda *_: types.SimpleNamespace(version="cc 1"))
        tree = types.SimpleNamespace(moved=lambda: [(1, "changed", "a"), (None, "dropped", "b")])
        self.patch(judge, "Tree", lambda *_: tree)
        self.patch(judge, "States", lambda *_: types.SimpleNamespace(tree=tree, cache=None))

    def revision(self, function: Any) -> Document:
        self.patch(Judge, "judge", function)
        directory, document = judge.revision(self.config)
        assert directory.is_dir()
        schema = json.loads((ROOT / "ci" / "revision.schema.json").read_text())
        jsonschema.validate(json.loads(json.dumps(document)), schema)
        return document


@pytest.fixture
def revised(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Revised:
    return Revised(tmp_path, monkeypatch)


def test_the_document(revised: Revised) -> None:
    def say(self: Judge, numbers: Sequence[int], more: Document) -> None:
        assert numbers == [1, 2]
        more["matrix"] = [{"arch": "x86", "mode": "npt", "config": "", "status": "not-checked"}]
        self.say("subject", [], 1)
        self.say("boot", [Check(Status.NOT_CHECKED, "once", "a", "d/tests.ktap:1")], 1, "x86")
    document = revised.revision(say)
    assert (document["verdict"], document["revision"]) == ("pass", 3)
    assert document["subject"] == "[PATCH v3 0/2] KVM: Do both"
    assert document["checks"][1] == {
        "patch": 1, "arch": "x86", "tool": "boot", "status": "not-checked", "summary": "a: once",
        "log": "d/tests.ktap:1", "repeat": judge.repeat(revised.config, 1, "x86")}
    assert [(p["since"], p["judged"]) for p in document["patches"]] == [
        ("changed", True), ("", False)]
    assert (document["dropped"], document["compilers"]) == (["b"], {"x86": "cc 1"})


@pytest.mark.parametrize("error, verdict", [(KeyboardInterrupt(), "interrupted"),
                                            (BadInput("a"), "harness"), (OSError("a"), "harness")])
def test_what_is_not_finished_says_so(revised: Revised, error: BaseException,
                                      verdict: str) -> None:
    def fail(*_: Any) -> None:
        raise error
    document = revised.revision(fail)
    assert (document["verdict"], document["checks"][0]["tool"]) == (verdict, "make revision")


def test_the_gravest_is_the_verdict(revised: Revised) -> None:
    def say(self: Judge, *_: Any) -> None:
        for status in (Status.PASS, Status.FAIL, Status.HARNESS, Status.SPLAT, Status.SKIP):
            self.say("boot", [Check(status)], 1, "x86")
    assert revised.revision(say)["verdict"] == "splat"


def test_a_series_that_does_not_apply_is_a_result(revised: Revised) -> None:
    def refuse(config: Config, mine: Series, against: Series | None) -> None:
        raise NotApplied("AGAINST" if against else "REVISION", "of/0002-b.patch does not apply")
    revised.patch(judge, "Tree", refuse)
    check, = revised.revision(None)["checks"]
    assert (check["patch"], check["tool"], check["status"]) == (2, "apply", "fail")
    revised.config = dataclasses.replace(revised.config, against=revised.config.revision)
    with pytest.raises(BadInput, match="AGAINST=.* does not apply: of/0002-b.patch"):
        revised.revision(None)


def test_what_is_refused_before_anything_is_built(revised: Revised) -> None:
    def build(config: Config) -> None:
        raise AssertionError("built")
    revised.patch(images, "build", build)
    for knobs, says in (({"patches": "7"}, "patches 1 to 2"),
                        ({"revision": "no/such"}, "neither a directory"),
                        ({"against": "no/such"}, "neither a directory")):
        revised.config = dataclasses.replace(revised.config, **knobs)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=says):
            revised.revision(None)
        revised.config = dataclasses.replace(revised.config, patches="", against="")
    revised.patch(judge.cost, "load_metrics", lambda: ([], []))
    with pytest.raises(BadInput, match="ci/metrics"):
        revised.revision(None)


# --- make check-series ---

class Strict:
    """A series of two patches, of which the second has to do with upstream's tests."""

    def __init__(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        self.tested: list[tuple[int, str]] = []
        self.goals: list[tuple[str, ...]] = []
        self.said: dict[str, tuple[int, str]] = {}   # by architecture
        self.tests_fail = False
        patches = []
        for number, name in ((1, "kernel/irq/manage.c"), (2, "include/uapi/linux/kvm.h")):
            path = tmp_path / f"{number:04}-a.patch"
            path.write_text(patch_text(number).replace("b/file", f"b/{name}"))
            patches.append(series.parse(path, number))
        self.series, self.config = Series("", tmp_path, tuple(patches)), Config(o=str(tmp_path))
        (tmp_path / "tree" / "linux").mkdir(parents=True)
        (tmp_path / "kernel.config").write_text("CONFIG_KVM=y\n")
        self.tree = types.SimpleNamespace(path=tmp_path / "tree" / "linux", go_to=lambda n: None)
        monkeypatch.setattr(images, "image",
                            lambda *_: images.Image(tmp_path / "kernel.kernel"))
        monkeypatch.setattr(images, "kernel_make", self.kernel_make)

    def kernel_make(self, config: Config, arch: Any, tree: Any, objects: str,
                    *arguments: str) -> tuple[int, str]:
        self.goals.append(arguments)
        assert (tree / objects / ".config").read_text() == "CONFIG_KVM=y\n"
        return self.said.get(arch.name, (0, ""))

    def tests(self, arch: Any, number: int, log: pathlib.Path, target: str,
              USERCFLAGS: str) -> None:
        self.tested.append((number, arch.name))
        assert (target, USERCFLAGS) == ("upstream", "-Werror")
        if self.tests_fail:
            raise NotBuilt("a.c:1: error: b")

    def check(self) -> int:
        return judge.check_builds(self.config, self.series, self)  # type: ignore[arg-type]


@pytest.fixture
def strict(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Strict:
    return Strict(tmp_path, monkeypatch)


def test_each_patch_builds(strict: Strict, capsys: pytest.CaptureFixture[str]) -> None:
    assert strict.check() == 0
    assert strict.goals == [
        ("KCFLAGS=-Werror", "arch/arm64/kvm/", "kernel/irq/"),
        ("KCFLAGS=-Werror", "arch/x86/kvm/", "kernel/irq/"),
        ("KCFLAGS=-Werror", "arch/arm64/kvm/"), ("KCFLAGS=-Werror", "arch/x86/kvm/")]
    assert strict.tested == [(2, "arm64"), (2, "x86")]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["KVM: x86: Do 1", "KVM: x86: Do 2"]


def test_one_that_does_not_build_is_named(strict: Strict,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    strict.said = {"x86": (2, "  CC a.o\na.c:1: error: unused [-Werror]\nmake: *** no\n")}
    assert strict.check() == 1
    said, = capsys.readouterr().out.splitlines()
    assert said.startswith("  1/2 KVM: x86: Do 1: does not build for x86: a.c:1: error: unused")
    log = pathlib.Path(said.rpartition(" ")[2])
    assert log.read_text() == strict.said["x86"][1]
    strict.said, strict.tests_fail = {}, True
    assert strict.check() == 1
    assert "2/2 KVM: x86: Do 2: does not build for arm64: a.c:1: error: b" in (
        capsys.readouterr().out)


def test_what_checkpatch_says_is_shown(strict: Strict, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("build", "alone"):
        monkeypatch.setattr(images, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(series, "load", lambda *_: strict.series)
    monkeypatch.setattr(judge, "Tree", lambda *_: strict.tree)
    monkeypatch.setattr(judge, "check_builds", lambda *_: 0)
    for complaints, status in (([], 0), (["WARNING: long line"], 1)):
        monkeypatch.setattr(patchcheck, "checkpatch", lambda tree, patch, c=complaints: c)
        assert judge.check_series(strict.config) == status
        said = capsys.readouterr().out
        assert ("0002-a.patch: WARNING: long line" in said) == bool(complaints)
        assert ("clean but for UNKNOWN_COMMIT_ID" in said) != bool(complaints)

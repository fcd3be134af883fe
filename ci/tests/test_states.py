# SPDX-License-Identifier: GPL-2.0
"""States of a revision under fault: what is kept of a build and a boot, and what is not."""
import dataclasses
import os
import pathlib
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ci.boot import request as request_
from ci.boot import watch
from ci.build import images, progress
from ci.build.cache import Cache
from ci.build.git import git
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run
from ci.revision import states
from ci.revision.series import Series
from ci.revision.states import Builder, NotApplied, NotBuilt, State, States, Tree
from ci.tests.conftest import Machines, make_request

X86 = arch_.load("x86")

# --- boots, by the stand-in for QEMU ---


class Booting:
    """Runs of their own, with the cache that all of a test share."""

    def __init__(self, machines: Machines, monkeypatch: pytest.MonkeyPatch):
        self.machines, self.monkeypatch = machines, monkeypatch
        self.config = machines.config(cache=str(machines.root / "kept"))

    def boot(self, fate: str, again: int = 0, policy: Any = None) -> Boot:
        self.monkeypatch.setenv("FAKE_QEMU", fate)
        run = Run(self.config, "revision")
        run.policy = policy or run.policy
        request, = request_.requests(self.config, "tests")
        states = States(self.config, run, None)  # type: ignore[arg-type]
        return states.boot(request, "label", again)

    def kept(self) -> list[pathlib.Path]:
        boots = pathlib.Path(self.config.cache, "revision", "boots")
        return [path for path in boots.glob("*") if path.is_dir()]


@pytest.fixture
def booting(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Booting:
    return Booting(machines, monkeypatch)


def test_what_went_well_is_kept(booting: Booting) -> None:
    """It is not booted again: the machine would be killed."""
    assert booting.boot("pass").verdict == Status.PASS
    assert booting.boot("killed").verdict == Status.PASS
    assert booting.boot("killed", again=1).verdict == Status.LOST


@pytest.mark.parametrize("fate, status", [("fail", Status.FAIL), ("splat", Status.SPLAT),
                                          ("killed", Status.LOST), ("stale", Status.HARNESS)])
def test_what_did_not_is_not(booting: Booting, fate: str, status: Status) -> None:
    assert booting.boot(fate).verdict == status
    assert booting.kept() == []


def test_a_damaged_boot_is_none(booting: Booting) -> None:
    booting.boot("pass")
    path, = booting.kept()
    text = (path / "tests.ktap").read_text()
    (path / "tests.ktap").write_text(text.replace("ok 2 second", "not ok 2 second"))
    assert booting.boot("killed").verdict == Status.LOST


def test_a_kept_boot_is_judged_again(booting: Booting) -> None:
    """A rule that came later holds for it as well."""
    booting.boot("pass")
    policy: Any = ([re.compile("init: case second")], [], [])
    assert booting.boot("pass", policy=policy).verdict == Status.SPLAT


def test_another_image_is_booted(booting: Booting) -> None:
    booting.boot("pass")
    (booting.machines.root / "out" / "patched" / "x86.kernel").write_text("other")
    assert booting.boot("killed").verdict == Status.LOST


def test_whoever_has_guests_in_threads_ends_them_all(booting: Booting) -> None:
    watch.STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            booting.boot("hang")
    finally:
        watch.STOP.clear()
    assert booting.kept() == []
    booting.machines.assert_no_qemu()


def test_all_at_once_and_in_order() -> None:
    assert states.at_once(lambda n: n * n, [3, 1, 2], 2) == [9, 1, 4]


def test_one_that_is_interrupted_ends_the_others() -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt
    try:
        with pytest.raises(KeyboardInterrupt):
            states.at_once(fail, [1, 2], 2)
        assert watch.STOP.is_set()
    finally:
        watch.STOP.clear()


@pytest.mark.parametrize("check, settled", [
    (Check(Status.KNOWN), True), (Check(Status.FAIL), False), (Check(Status.SKIP, "no KVM"), False),
    (Check(Status.SKIP, "SKIP KVM_CAP_MEMORY_FAULT_NOWAIT"), True)])
def test_what_says_nothing_against_a_part_of_the_series(check: Check, settled: bool) -> None:
    assert states.settled(check) == settled


# --- the tree ---

def commit(tree: pathlib.Path, text: str) -> None:
    (tree / "file").write_text(text)
    (tree / "tools").mkdir(exist_ok=True)
    (tree / "tools" / "constant").write_text("1\n")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", f"KVM: Say {text}")


def make_series(where: str, *texts: str) -> Series:
    return Series(where, pathlib.Path(where), texts)  # type: ignore[arg-type]


@pytest.fixture
def make_tree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tree]:
    """kernel-patches/apply has tests of its own: here a patch is the text of one file."""
    all_of: dict[pathlib.Path, Sequence[str]] = {}

    def apply(config: Config, directory: pathlib.Path, series: str, tree: pathlib.Path) -> None:
        if not tree.exists():
            tree.mkdir(parents=True)
            git(tree, "init", "-q")
            commit(tree, "base")
            git(tree, "update-ref", "refs/remotes/origin/base", "HEAD")
        for text in all_of[directory]:
            if text == "bad":
                raise BadInput("apply: of/0007-KVM-x86.patch does not apply to linux (reason ...)")
            commit(tree, text)

    def make(*series: Series) -> Tree:
        all_of.update({one.directory: one.patches for one in series})  # type: ignore[misc]
        return Tree(Config(o=str(tmp_path / "o")), *series)
    monkeypatch.setattr(images, "apply", apply)
    return make


def test_places_of_a_tree(make_tree: Callable[..., Tree]) -> None:
    tree = make_tree(make_series("of", "a", "b"), make_series("against", "a", "c"))
    assert list(tree.places) == [0, 1, 2, "against"]
    texts: dict[states.Place, str] = {0: "base", 2: "b", "against": "c", 1: "a"}
    for place, text in texts.items():
        tree.go_to(place)
        assert (tree.path / "file").read_text() == text
        assert (tree.path / ".git" / "applied.head").read_text() == f"{tree.places[place]}\n"
    identities = [tree.identity(place) for place in tree.places]
    assert len(set(identities)) == 4
    assert tree.identity(0, "tools/") == tree.identity("against", "tools/") != ""
    moves = [(number, word) for number, word, _ in tree.moved()]
    assert moves in ([(1, "same"), (2, "changed")], [(1, "same"), (None, "dropped"), (2, "new")])


def test_the_tree_is_used_again(make_tree: Callable[..., Tree]) -> None:
    first = make_tree(make_series("of", "a", "b"))
    (first.path / "left").write_text("by a run that was cut off")
    second = make_tree(make_series("of", "c"))
    assert (len(second.commits), second.base, second.moved()) == (1, first.base, [])
    assert not (second.path / "left").exists()


def test_what_did_not_apply_is_named(make_tree: Callable[..., Tree]) -> None:
    for series, knob in (((make_series("of", "bad"),), "REVISION"),
                         ((make_series("of", "a"), make_series("against", "bad")), "AGAINST")):
        with pytest.raises(NotApplied) as raised:
            make_tree(*series)
        assert (raised.value.knob, raised.value.number) == (knob, 7)


@pytest.mark.parametrize("said, of_the_series", [
    ("apply: of/0003-a.patch does not apply to linux (reason above)", True),
    ("apply: of/0003-a.patch has CRLF line ends", True),
    ("apply: of holds 2 patches, but the last one says that the series has 3", True),
    ("apply: /usr/src/linux.tar.xz is missing: install linux-source", False),
    ("apply: cannot unpack x: is it whole, and is the disk full?", False)])
def test_faults_of_the_machine_are_none_of_the_series(said: str, of_the_series: bool) -> None:
    assert bool(states.OF_THE_SERIES.search(said)) == of_the_series


# --- builds ---

TOOLS = images.Toolchain("", "cc 1", "ld 1", ("CC=cc",), (), ())


class Making:
    """A guest.mk that copies the tree's file into what it is to make."""

    def __init__(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tree: Tree):
        self.root, self.tree, self.tools, self.made = tmp_path, tree, TOOLS, 0
        self.config = dataclasses.replace(tree.config, cache=str(tmp_path / "cache"))
        ours = images.initramfs(self.config, X86)
        ours.parent.mkdir(parents=True)
        ours.write_text("ours")
        monkeypatch.setattr(images, "toolchain", lambda config, arch: self.tools)
        monkeypatch.setattr(images, "guest_make", self.guest_make)
        monkeypatch.setattr(progress, "call", self.call)

    def guest_make(self, config: Config, arch: Any, target: Any, **variables: str) -> list[str]:
        return [str(target), config.config]

    def call(self, argv: list[str], log: Any, env: dict[str, str]) -> int:
        target, name = argv
        text = (self.tree.path / "file").read_text()
        if text == f"no {target}":
            log.write(b"  CC a.o\na.c:1:1: error: no\n")
            return 2
        self.made += target != "configuration"
        stem = self.config.out / "revision" / "-".join(filter(None, ("x86", name)))
        path = pathlib.Path(target) if "/" in target else stem.with_suffix(".kernel")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for suffix in (".config", ".release", ".map", ".compiler") if "/" not in target else ():
            stem.with_suffix(suffix).write_text("")
        return 0

    def builder(self) -> Builder:
        return Builder(self.config, self.tree, Cache(self.config.cache))

    def kernel(self, place: states.Place, name: str = "") -> str:
        return self.builder().kernel(X86, place, name, self.root / "log").read_text()


@pytest.fixture
def making(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
           make_tree: Callable[..., Tree]) -> Making:
    tree = make_tree(make_series("of", "a", "no kernel", "b"))
    return Making(tmp_path, monkeypatch, tree)


def test_what_is_built_is_kept_by_content(making: Making) -> None:
    assert [making.kernel(place) for place in (0, 1, 3, 0, 1)] == ["base", "a", "b", "base", "a"]
    assert making.made == 3
    kept = making.builder().kernel(X86, 0, "", making.root / "log")
    assert images.Image(kept).release == ""   # and what is beside it
    making.kernel(0, "debug")
    assert making.made == 4


def test_another_compiler_or_fragment_is_another_kernel(making: Making) -> None:
    fragment = making.root / "fragment"
    fragment.write_text("")
    for tools in (TOOLS, dataclasses.replace(TOOLS, version="clang 2"),
                  dataclasses.replace(TOOLS, linker="ld 2"),
                  dataclasses.replace(TOOLS, fragments=(fragment,))):
        making.tools, making.made = tools, 0
        assert (making.kernel(0), making.kernel(0), making.made) == ("base", "base", 1)
    fragment.write_text("CONFIG_LOST=y\n")
    with pytest.raises(NotBuilt, match="1 lines of the configuration are lost"):
        making.kernel(0)


def test_a_base_has_fragments_of_its_own() -> None:
    """kernel-patches/mainline/debug.config is part of what a debug kernel is known by."""
    rules = []
    for base in ("mainline", "v6.12"):
        config = Config(base=base, config="debug")
        builder = Builder(config, None, Cache(""))  # type: ignore[arg-type]
        rules.append(builder.rules(config, X86))
    assert rules[0] != rules[1]


def test_programs_are_of_the_tests_alone(making: Making) -> None:
    def programs(place: int) -> str:
        return making.builder().programs(X86, place, making.root / "log").read_text()
    # The tests are the same at each place.
    assert [programs(0), programs(1), making.made] == ["base", "base", 1]
    images.initramfs(making.config, X86).write_text("other programs of ours")
    assert (programs(1), making.made) == ("a", 2)


def test_an_error_that_a_parallel_build_has_left_behind_is_found(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    log.write_text("  CC      lib/error.o\nmmu.c:7:9: error: 'a' undeclared\n"
                   + "  CC      mm/slub.o\n" * 100 + "make[3]: *** [Makefile:2008: .] Error 2\n")
    assert states.first_error(log) == "mmu.c:7:9: error: 'a' undeclared"


# --- states ---

class Booted(States):
    """Boots that pass, of which the kernels are counted."""
    labels: list[str]

    def boot(self, request: Any, label: str, again: int = 0, keep: bool = True) -> Any:
        self.labels.append(label)
        return types.SimpleNamespace(request=request, findings=[])


@pytest.fixture
def all_states(making: Making, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Booted:
    (tmp_path / "run").mkdir()
    run = types.SimpleNamespace(directory=tmp_path / "run")
    found = Booted(making.config, run, making.tree)  # type: ignore[arg-type]
    found.labels = []

    def requests(config: Config, kind: str, icount: bool, images: pathlib.Path) -> list[Any]:
        name = f"x86{'-' * bool(config.config)}{config.config}.kernel"
        return [make_request(kernel=images / name, mode=X86.mode(config.mode[0]), kind=kind,
                             cases=config.cases, icount=icount)]
    monkeypatch.setattr(request_, "requests", requests)
    return found


def test_the_same_images_are_booted_once(all_states: Booted) -> None:
    labels = all_states.labels
    all_states.prepare([(X86, place, "", "") for place in (0, 1, 2, 3)])
    assert sorted(labels) == ["0000-x86", "0001-x86", "0003-x86"]
    first = all_states.state(X86, 1).request
    assert first and "dirty_log" not in str(first.cases) and len(first.cases) > 9
    all_states.prepare([(X86, place, "", "") for place in (3, 0)])
    assert len(labels) == 3
    whole = all_states.state(X86, 3, "shadow").request
    assert whole and (whole.cases, whole.mode.name, labels[3:]) == ((), "shadow",
                                                                   ["0003-x86-shadow"])


def test_what_does_not_build_has_a_problem(all_states: Booted) -> None:
    state = all_states.state(X86, 2)
    assert state.boot is None
    assert state.problem == "the kernel does not build: a.c:1:1: error: no"
    assert pathlib.Path(state.log).name == "0002-x86.build.log"
    assert all_states.before(X86, 3) == all_states.state(X86, 1)
    with pytest.raises(BadInput, match="2: the kernel does not build"):
        all_states.measured(X86, 2, "bench", ["mapped"])


def test_what_is_measured(all_states: Booted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states.faults, "with_timeline", lambda request: request)
    modes = ["mapped", "fast_minor"]
    on_base, bench = (all_states.measured(X86, place, "bench", modes, again=1) for place in (0, 1))
    assert (on_base.cases, bench.cases) == (("mapped",), ("mapped", "fast_minor"))
    assert (bench.icount, bench.seed) == (True, 2)
    scale = all_states.measured(X86, 3, "scale", modes, vcpus=4, again=5)
    assert scale.lockstep and (scale.lockstep.vcpus, scale.lockstep.boot) == (4, 5)
    assert len(set(scale.lockstep.quanta)) == 1

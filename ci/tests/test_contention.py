# SPDX-License-Identifier: GPL-2.0
"""make profile: ci/measure/contention.py."""
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import pytest

from ci.boot.request import Lockstep, Request
from ci.config import Config
from ci.facts import arch
from ci.facts.text import BadInput
from ci.judge.check import Status
from ci.measure import contention, scaling, tables
from ci.measure.symbols import Symbols
from ci.tests.fake_run import FakeRun, fake_boot, install
from ci.tests.test_flame import STACKS

# 200 faults of two vCPUs, with two timed parts
COUNTS = """Random seed: 0x1
{"mode": "fast_minor", "vcpus": 2, "pages": 80, "warm": 20, "ns": 5}
{"mode": "fast_minor", "vcpus": 2, "pages": 100, "warm": 0, "ns": 5}
212 kvm:kvm_userspace_exit 900 100.00
400 kvm:kvm_exit 900 100.00
""".splitlines()
MAP = ("ffff800000000100 T one\nffff800000000200 t two\nffff800000000300 d __lock_text_start\n"
       "ffff800000000400 d __lock_text_end\n")
LOCKSTEP = ("mark 0 0 quantum=250 timeouts=0\nmark 0 9 quantum=250 timeouts=0\n"
            "sample ffff800000000104 1\nmark 0 10 quantum=500 timeouts=0\n"
            "mark 0 20 quantum=500 timeouts=0\nend 20 quanta=1 timeouts=0 idle=0\n")


# --- what perf says ---

def output(counts: Sequence[str] = COUNTS) -> str:
    return "\n".join(["== counts", *counts, "== exits", "x ", "", "== locks", "y", "== stacks",
                      *STACKS])


def test_events_are_told_by_fault() -> None:
    assert contention.read_perf(output()).row("fast_minor", []) == {
        "mode": "fast_minor", "hot": [], "exits": ["x"],
        "locks": ["y"], "events": [{"event": "kvm:kvm_userspace_exit", "per_fault": 1},
                                   {"event": "kvm:kvm_exit", "per_fault": 2}]}


def test_no_record_no_fault() -> None:
    with pytest.raises(BadInput, match="no record"):
        contention.read_perf(output(COUNTS[-2:]))


def replaced(new: str) -> list[str]:
    return [line.replace("212", new) for line in COUNTS]


@pytest.mark.parametrize("mode, lines, problem", (
    ("fast_minor", COUNTS, ""), ("uffd_minor", COUNTS, "212 exits to userspace, expected 12"),
    ("fast_minor", COUNTS[:3], ": 0 exits to userspace, expected 212"),
    ("fast_minor", replaced("213"), ": 213 exits to userspace, expected 212"),
    ("fast_minor_overlap", replaced("412"), ""),
    ("fast_minor_overlap", replaced("413"), "expected 212 to 412")))
def test_exits_are_as_many_as_faults_or_none(mode: str, lines: list[str], problem: str) -> None:
    said = contention.read_perf(output(lines)).problem(mode)
    assert problem in said
    assert bool(said) == bool(problem)


def test_sections() -> None:
    found = contention.read_perf("x\n" + output())
    assert (found.faults, found.vcpus, found.stacks) == (200, 2, STACKS)
    with pytest.raises(BadInput, match="nothing under exits, locks, stacks from"):
        contention.read_perf("== counts\n1\n== exits\n\n== locks\n")


def test_functions_by_share(tmp_path: pathlib.Path) -> None:
    (tmp_path / "map").write_text(MAP)
    samples = {("sample", 0xffff800000000104): 200, ("sample", 0xffff8000000001fc): 100,
               ("sample", 0x1000): 99, ("spin", 0xffff800000000200): 600, ("spin", 0x1000): 1}
    assert contention.hot(samples, Symbols(tmp_path / "map")) == [
        {"function": "spinlock code, called from two", "share": 60},
        {"function": "one", "share": 30},
        {"function": "userspace, or the guest", "share": 9.9}]


# --- two boots ---

OUTPUT = output()


def boots(directory: pathlib.Path, printed: str = OUTPUT, lockstep: str = LOCKSTEP) -> list[Any]:
    (directory / "x86.map").write_text(MAP)
    found = [fake_boot(directory, {"lockstep": lockstep}, ["fast_minor"], arch=arch.load("x86"),
                       release="6.12", kernel=directory / "x86.kernel",
                       lockstep=Lockstep(scaling.QUANTA, 2)) for _ in range(2)]
    found[1].outcome.stream.results[0].output = printed
    return found


def test_a_profile(tmp_path: pathlib.Path) -> None:
    sampled, perf = boots(tmp_path)
    ((row, stacks),) = contention.profiles_of(sampled, perf)
    assert (row["mode"], row["hot"]) == ("fast_minor", [{"function": "one", "share": 100}])
    assert stacks.count == 10
    assert sampled.findings + perf.findings == []


@pytest.mark.parametrize("printed, lockstep, place, words", (
    (OUTPUT, LOCKSTEP.replace("sample", "other"), 0, "1 modes passed, 1 were sampled"),
    (OUTPUT, LOCKSTEP.replace("end", "cut"), 0, "no profile: .* has no end"),
    (OUTPUT.replace("== locks", "== lock"), LOCKSTEP, 1, "no profile: nothing under locks"),
    (OUTPUT.replace("212", "211"), LOCKSTEP, 1, "211 exits to userspace, expected 212 to 212"),
    (OUTPUT + "\na;b", LOCKSTEP, 1, "no profile: not a folded stack")))
def test_no_profile(tmp_path: pathlib.Path, printed: str, lockstep: str, place: int,
                    words: str) -> None:
    pair = boots(tmp_path, printed, lockstep)
    assert contention.profiles_of(*pair) == []
    (finding,) = pair[place].findings
    assert pair[1 - place].findings == []
    assert finding.status == Status.HARNESS
    assert re.search(words, finding.summary)


def test_a_mode_that_perf_did_not_see(tmp_path: pathlib.Path) -> None:
    sampled, perf = boots(tmp_path)
    perf.outcome.stream.results.clear()
    assert contention.profiles_of(sampled, perf) == []
    assert [f.summary for f in perf.findings] == ["not profiled"]


# --- the command ---

def test_what_knobs_leave_open() -> None:
    full = contention.settled(Config())
    assert (full.config, full.cases, full.vcpus) == ("profile", contention.MODES, (16,))
    full = contention.settled(Config(cases=("a",), vcpus=(2, 4)))
    assert (full.cases, full.vcpus) == (("a",), (2, 4))
    with pytest.raises(BadInput, match="VCPUS=33: want numbers from 1 to 32"):
        contention.settled(Config(vcpus=(33,)))


def test_profile(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [boot.request for boot in boots(tmp_path)]
    install(monkeypatch, "contention", [])
    monkeypatch.setattr("ci.measure.contention.requests", lambda config: [pair])
    config = Config(results=str(tmp_path), images="elsewhere")
    assert contention.profile(config) == 0
    assert FakeRun.made.config.config == ""  # the command to repeat a boot takes no CONFIG=
    document = json.loads((tmp_path / "table.json").read_text())
    assert FakeRun.made.table == tables.render(document)
    assert document["machines"][0]["vcpus"] == 2
    assert (tmp_path / "flame-x86-fast_minor-2.svg").exists()


def test_two_boots_of_a_number_of_vcpus(tmp_path: pathlib.Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    x86 = arch.load("x86")
    (tmp_path / "x86-profile.map").write_text(MAP)
    place = tmp_path / "x86-profile.kernel"
    source: Any = None
    monkeypatch.setattr("ci.boot.request.requests", lambda config, kind, default_mode: [
        Request(x86, x86.modes[0], kind, (), place, tmp_path / "initramfs.cpio", place, "",
                source)])
    pairs = list(contention.requests(contention.settled(Config(vcpus=(2, 16)))))
    assert [(a.directory, b.directory) for a, b in pairs] == [
        (f"x86-npt-{n}vcpus-1", f"x86-npt-{n}vcpus-2") for n in (2, 16)]
    (sampled, perf), _ = pairs
    assert (sampled.kind, perf.kind) == ("scale", "profile")
    assert sampled.initramfs.name == "initramfs.cpio"
    assert perf.initramfs.name == "initramfs-profile.cpio"
    assert scaling.lockstep_of(sampled).spin == ((0xffff800000000300, 0xffff800000000400),)
    assert scaling.lockstep_of(perf).spin == ()

# SPDX-License-Identifier: GPL-2.0
"""make scale: ci/measure/scaling.py."""
import json
import pathlib
import types
from typing import Any

import pytest

from ci.boot.request import Lockstep
from ci.config import Config
from ci.facts import arch, cases
from ci.facts.text import ROOT, BadInput
from ci.judge.check import Status
from ci.measure import scaling, tables
from ci.measure.scaling import Part, Point, Rates
from ci.tests.fake_run import FakeRun, fake_boot, install

RECORD = '{"mode": "a", "vcpus": 2, "pages": 2048}\n' * 2
MARKS = ("mark 0 1000000 quantum=250 timeouts=0\nmark 0 9000000 quantum=250 timeouts=2\n"
         "mark 0 20000000 quantum=500 timeouts=2\nmark 0 36000000 quantum=500 timeouts=3\n")
END = "end 90000000 quanta=1000 timeouts=10 idle=2000\n"
BUSY = MARKS.replace("timeouts=2\nmark", "timeouts=641\nmark", 1)


def boot(directory: pathlib.Path, lockstep: str, bench: str, **more: Any) -> Any:
    return fake_boot(directory, {"lockstep": lockstep, "bench.jsonl": bench}, ["a"], cpus=4,
                     cases=(1,), lockstep=Lockstep(scaling.QUANTA, 2), **more)


# --- what a boot has left ---

def test_a_point(tmp_path: pathlib.Path) -> None:
    measured = boot(tmp_path, MARKS + END, RECORD)
    assert scaling.points_of(measured) == [Point("a", 2, 250, 256.0), Point("a", 2, 500, 128.0)]
    assert measured.meta["lockstep"] == {"vcpus": 2, "boot": 1, "timeouts": 0.0025, "idle": 0.5}
    assert measured.findings == []


@pytest.mark.parametrize("why, lockstep, bench", (
    ("has no end", MARKS, RECORD),
    ("does not end", "mark 0 1 quantum=250 timeouts=0\n" + END, RECORD),
    ("bench.jsonl has 0", MARKS + END, ""),
    ("Expecting", MARKS + END, "{"),
    ("with 4 vCPUs, expected", MARKS + END, RECORD.replace("2,", "4,")),
    ("bench.jsonl has b with", MARKS + END, RECORD.replace("a", "b")),
    ("a: -11000000 instructions", MARKS.replace("36000000", "9000000") + END, RECORD),
    ("quantum of 250, not 500", MARKS.replace("500", "250") + END, RECORD),
    ("4 CPUs left lockstep 641 times", BUSY + END, RECORD),
    ("does not end", MARKS + "mark 0 40000000 quantum=250 timeouts=0\n" + END, RECORD)))
def test_no_measurement(tmp_path: pathlib.Path, why: str, lockstep: str, bench: str) -> None:
    measured = boot(tmp_path, lockstep, bench)
    assert scaling.points_of(measured) == []
    (finding,) = measured.findings
    assert finding.status == Status.HARNESS
    assert why in finding.summary


def test_samples_are_of_the_part_that_ends(tmp_path: pathlib.Path) -> None:
    first, second = MARKS.split("mark 0 20")
    samples = f"{first}sample ffff 3\nspin ff 1\nmark 0 20{second}{END}"
    measured = boot(tmp_path, samples, "")
    parts, _ = scaling.read_lockstep(measured.directory / "lockstep")
    assert [part.samples for part in parts] == [{("sample", 0xffff): 3, ("spin", 0xff): 1}, {}]


@pytest.mark.parametrize("timeouts, problem", ((2, False), (3, True)))
def test_time_outs_are_told_by_cpu(timeouts: int, problem: bool) -> None:
    part = Part(100000, 250, timeouts, {})
    assert bool(part.problem(250, 1)) == problem


# --- figures ---

POINTS = [Point("a", 1, 250, 100.0), Point("a", 1, 500, 99.0), Point("a", 4, 250, 305.0),
          Point("a", 4, 250, 295.0), Point("a", 4, 500, 270.0)]


def rows(points: list[Point]) -> dict[tuple[str, int], tables.Row]:
    return {(row["mode"], row["vcpus"]): row for row in Rates(points).machine("x86/npt")["rates"]}


def test_figures_of_a_point() -> None:
    single, several = rows(POINTS)["a", 1], rows(POINTS)["a", 4]
    assert [several[name] for name in ("rate", "efficiency", "error")] == [300, 75, 10]
    assert several["spread"] == pytest.approx(10 / 3)
    assert (single["efficiency"], single["spread"]) == (100, None)


def test_a_point_of_one_quantum_has_no_error() -> None:
    assert rows(POINTS[:3])["a", 4]["error"] is None


def test_every_mode_has_a_row_for_every_number() -> None:
    found = rows([*POINTS, Point("b", 2, 250, 1.0)])
    assert list(found) == [(mode, n) for mode in "ab" for n in (1, 2, 4)]
    assert found["b", 4]["rate"] is None


def test_pages_that_all_share_are_counted_once() -> None:
    points = [Point("a_overlap", n, 250, 100.0) for n in (1, 8)]
    assert rows(points)["a_overlap", 8]["efficiency"] == 100


def test_columns_of_the_published_table() -> None:
    points = [Point("uffd_minor", 8, 250, 50.0), Point("fast_minor", 8, 250, 400.0)]
    assert Rates(points).machine("x86/npt")["ratios"] == [
        {"vcpus": 8, "without": 50, "with": 400, "ratio": 8, "sharded": None, "per_vcpu": 50,
         "published": scaling.load_published()[8]}]
    assert scaling.load_published()[256] == 4012 / 36
    assert Rates(POINTS).machine("x86/npt")["ratios"] == []


def test_curves_have_what_was_measured() -> None:
    points = [Point(mode, n, 250, 10.0 * n) for mode in ("fast_minor", "a") for n in (1, 4)]
    curves = scaling.curves(Rates(points).machine("x86/npt"))
    assert {name: curve for name, curve in curves.items() if curve} == {
        "fast_minor": [(1, 10), (4, 40)], "fast_minor, ideal": [(1, 10), (4, 40)]}


# --- knobs ---

@pytest.mark.parametrize("config, vcpus, boots, modes", (
    (Config(), (1, 2, 4, 8), 1, scaling.FEW), (Config(full=True), (1, 2, 4, 8, 16, 32), 3, ()),
    (Config(vcpus=(2, 32), boots=2, cases=("a",)), (2, 32), 2, ("a",)),
    (Config(full=True, cases=("a",)), (1, 2, 4, 8, 16, 32), 3, ("a",))))
def test_what_knobs_leave_open(config: Config, vcpus: tuple[int, ...], boots: int,
                               modes: tuple[str, ...]) -> None:
    full = scaling.settled(config)
    assert (full.vcpus, full.boots, full.cases) == (vcpus, boots, modes)


def test_the_guest_has_so_many_cpus() -> None:
    with pytest.raises(BadInput, match="VCPUS=8 33: want numbers from 1 to 32"):
        scaling.settled(Config(vcpus=(8, 33)))
    kernel = (ROOT / "guest-images" / "kernel.config").read_text()
    assert f"CONFIG_NR_CPUS={scaling.MAX_CPUS}\n" in kernel


@pytest.mark.parametrize("vcpus, cpus", ((1, 3), (8, 17), (31, 63), (32, 64)))
def test_a_machine_has_a_cpu_for_each(vcpus: int, cpus: int) -> None:
    x86 = arch.load("x86")
    nowhere = pathlib.Path()
    request = scaling.Request(x86, x86.modes[0], "scale", (), nowhere, nowhere, nowhere, "",
                              types.SimpleNamespace())  # type: ignore[arg-type]
    made = scaling.with_lockstep(request, vcpus)
    assert (made.cpus, made.environment) == (cpus, (f"vcpus={vcpus}", "instruction_ns=1"))


def test_names_say_what_is_run() -> None:
    for case in cases.load(cases.FILES["scale"]):
        assert case.command[1:] == (case.name,)


# --- the command ---

def run_scale(monkeypatch: pytest.MonkeyPatch, requests: list[Any], **knobs: Any) -> int:
    monkeypatch.setattr("ci.measure.scaling.with_lockstep", lambda request, vcpus, boot: request)
    monkeypatch.setattr("ci.measure.scaling.check_resume", lambda config, what: None)
    install(monkeypatch, "scaling", requests)
    return scaling.scale(Config(images="elsewhere", vcpus=(2,), boots=1, **knobs))


def test_scale(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = boot(tmp_path, MARKS + END, RECORD)
    assert run_scale(monkeypatch, [measured.request], results=str(tmp_path)) == 0
    document = json.loads((tmp_path / "table.json").read_text())
    assert FakeRun.made.table == tables.render(document)
    assert document["method"] == {"quanta": [250, 500], "boots": 1, "marked": 3, "timeouts": 0.25,
                                  "idle": [50, 50]}
    assert document["machines"][0]["rates"] == [{
        "mode": "a", "vcpus": 2, "rate": 256, "efficiency": None, "error": 50, "spread": None}]


def test_scale_that_is_cut_off_says_how_to_go_on(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    first = boot(tmp_path, MARKS + END, RECORD).request
    second = boot(tmp_path, MARKS + END, RECORD).request
    second.interrupted = True
    status = run_scale(monkeypatch, [first, second], results=str(tmp_path), arch=("x86",),
                       config="debug")
    assert status == Status.INTERRUPTED.exit_status
    said = capsys.readouterr().err
    assert "scale: cut off; to go on: make scale ARCH=x86 CONFIG=debug VCPUS=2 BOOTS=1" in said
    assert said.rstrip().endswith(f"RESUME={tmp_path}")
    assert FakeRun.made.table

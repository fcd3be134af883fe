# SPDX-License-Identifier: GPL-2.0
"""The events of single faults: ci/measure/timeline.py."""
import pathlib

import pytest

from ci.facts import arch
from ci.facts.text import BadInput
from ci.measure import timeline

PART = ("0 mark\n3 page\n4 kernel\n10 fault\n30 guest\n40 page\n41 kernel\n51 fault\n67 guest\n"
        "80 page\n81 kernel\n99 mark\n")


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "timeline"


def test_points(path: pathlib.Path) -> None:
    points = timeline.load_points("x86", "npt")
    assert points["enter"] == ["__svm_vcpu_run"]
    assert timeline.load_points("arm64", "nvhe") == {}
    path.write_text("\n".join(f"{0x1000 + 16 * i:x} T {function}"
                              for i, (function, *_) in enumerate(points.values())))
    assert timeline.plugin_arguments(points, path)[:2] == ("enter=1000:1010", "at=run:1010")
    either = {"enter": ["gone", "__svm_vcpu_run"], "lookup": ["gone", "kvm_arch_vcpu_ioctl_run"]}
    assert timeline.plugin_arguments(either, path) == ("enter=1000:1010", "at=lookup:1010")


def test_a_kernel_that_lacks_a_function(path: pathlib.Path) -> None:
    path.write_text("1000 T __svm_vcpu_run\n")
    with pytest.raises(BadInput, match="functions that this kernel lacks"):
        timeline.plugin_arguments(timeline.load_points("x86", "npt"), path)


def test_a_line_of_points_that_is_none(path: pathlib.Path) -> None:
    path.write_text("# words\nenter all\n")
    with pytest.raises(BadInput, match=":2: want name, architecture or all, function"):
        timeline.load_points("x86", "npt", path)


def test_a_line_of_events_that_is_none(path: pathlib.Path) -> None:
    path.write_text("# words\npage | the guest\n")
    with pytest.raises(BadInput, match=r":2: want event \| kind \| words"):
        timeline.load_events(path)


def test_every_architecture_has_the_same_points() -> None:
    first, *others = [set(timeline.load_points(name, arch.load(name).modes[0].name))
                      for name in arch.names()]
    assert all(points == first for points in others)
    assert first - {"enter"} <= set(timeline.load_events())


def test_parts(path: pathlib.Path) -> None:
    path.write_text(PART + "0 mark\n7 mark\n")
    parts = timeline.timed_parts(path)
    assert [len(part) for part in parts] == [12, 2]
    assert parts[1] == [(0, "mark"), (7, "mark")]


@pytest.mark.parametrize("text", ("0 mark\n3 page\n", "3 page\n", "0 mark\nx page\n9 mark\n",
                                  PART + "5"))
def test_no_timeline(path: pathlib.Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput):
        timeline.timed_parts(path)


def stages(line: timeline.Timeline) -> list[tuple[str, int, float]]:
    return [(row["event"], row["median"], row["mean"]) for row in line.stages_row("a")["events"]]


def test_faults(path: pathlib.Path) -> None:
    path.write_text(PART)
    faults = timeline.faults_of(timeline.timed_parts(path)[0])
    assert [f.takes for f in faults] == [(1, 6, 20, 10), (1, 10, 16, 13)]
    line = timeline.Timeline(faults)
    assert stages(line) == [("page", 1, 1), ("kernel", 6, 8), ("fault", 16, 18),
                           ("guest", 10, 11.5)]
    assert line.distribution() == (37, 37, 40, 40)
    assert line.curve() == [(37, 0), (37, 50), (40, 100)]


def test_the_usual_path() -> None:
    usual = timeline.Fault(("page",), (5,))
    tick = timeline.Fault(("page", "kernel", "guest"), (1, 90, 5))
    line = timeline.Timeline([usual, tick, usual])
    assert (stages(line), line.distribution()) == ([("page", 5, 5)], (5, 5, 96, 96))
    assert round(line.stages_row("fast")["share"]) == 67


def test_kinds_are_means_over_all_faults() -> None:
    line = timeline.Timeline([timeline.Fault(("page", "guest"), (1, 3)),
                              timeline.Fault(("page", "kernel"), (1, 7))])
    kinds = line.kinds()
    assert (kinds["the guest"], kinds["entry of the kernel"], kinds["mapping"]) == (2.5, 3.5, 0)


@pytest.mark.parametrize("share, value", ((0.5, 50), (0.99, 99)))
def test_quantile(share: float, value: int) -> None:
    assert timeline.quantile(range(1, 101), share) == value

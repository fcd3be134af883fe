# SPDX-License-Identifier: GPL-2.0
"""Pictures by gnuplot: ci/measure/plot.py."""
import pathlib
import re
import shutil
import unittest.mock
from collections.abc import Callable
from typing import Any

import pytest

from ci.facts.text import BadInput
from ci.measure import plot


def script(function: Callable[..., None], *arguments: Any) -> str:
    with unittest.mock.patch("ci.measure.plot.draw") as draw:
        function("a", *arguments)
    return str(draw.call_args[0][2])


def test_every_curve_is_drawn(tmp_path: pathlib.Path) -> None:
    found = {f"mode_{i}": [(1, i)] for i in range(12)}
    text = script(plot.curves, {"x86/npt": {**found, "empty": []}}, ("x", "y"), "", tmp_path)
    for label in found:
        assert plot.quoted(label) in text
    assert "empty" not in text
    assert len(set(re.findall(r"lc rgb \S+ dt \d", text))) == 12


def test_a_chart_without_points_is_left_out(tmp_path: pathlib.Path) -> None:
    text = script(plot.curves, {"one": {"a": []}, "two": {"a": [(1, 2)]}}, ("x", "y"), "", tmp_path)
    assert "one" not in text and "layout 1,1" in text
    plot.curves("c", {"one": {"a": []}}, ("x", "y"), "", tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_part_of_a_stack_is_drawn(tmp_path: pathlib.Path) -> None:
    chart = {"x86/npt": {"a": {"one": 1, "two": 2}}}
    assert '"a" 1.0 2.0' in script(plot.stacks, chart, ["one", "two"], "y", tmp_path)


def test_more_parts_than_colours(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError):
        script(plot.stacks, {"x86/npt": {"a": {}}}, list("abcdefghi"), "y", tmp_path)


@pytest.mark.skipif(not shutil.which("gnuplot"), reason="needs gnuplot")
def test_gnuplot_draws_it(tmp_path: pathlib.Path) -> None:
    plot.curves("c", {"a": {"x_y": [(1, 2), (2, 3)]}, "b": {"z": [(1, 2), (2, 3)]}}, ("x", "y"),
                "set key top left", tmp_path)
    plot.stacks("s", {"a": {"x": {"one": 1.0, "two": 2.0}}}, ["one", "two"], "y", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["c.gp", "c.png", "c.svg", "s.gp", "s.png", "s.svg"]


@pytest.mark.skipif(not shutil.which("gnuplot"), reason="needs gnuplot")
def test_what_gnuplot_refuses_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match="c.gp: "):
        plot.draw(tmp_path, "c", "plot nonsense nonsense\n", 100, 100)


def test_no_picture_is_a_failure_but_not_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise BadInput("no")
    assert [plot.afterwards(status, fails) for status in (0, 1)] == [2, 1]
    assert plot.afterwards(0, lambda: None) == 0
    assert "ci: no picture: no" in capsys.readouterr().err


def test_gnuplot_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BadInput, match="run make deps"):
        plot.check()

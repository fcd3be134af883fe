# SPDX-License-Identifier: GPL-2.0
"""ci/run-matrix: a cell is run once for the same content."""
import json
import os
import pathlib
import subprocess
import types
from typing import Any

import pytest

from ci.build import images
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import matrix
from ci.facts.matrix import Cell
from ci.facts.text import ROOT, BadInput
from ci.revision import cells

CELL, SLOW = Cell("x86", "npt", "", "always", ""), Cell("x86", "npt", "debug", "slow", "")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; one of shadow paging fails."""
    found: list[list[str]] = []

    def call(argv: list[str], cwd: Any, env: dict[str, str]) -> int:
        assert "KERNEL" not in env
        found.append(argv)
        return 3 if "MODE=shadow" in argv else 0
    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(cells, "git", lambda tree, *argv: "")   # It is being worked on.
    monkeypatch.setattr(cells, "sha256", lambda path: "0")
    monkeypatch.setattr(images, "toolchain",
                        lambda *_: types.SimpleNamespace(version="cc 1", linker="ld 1"))
    return found


def test_what_has_passed_is_not_run_again(calls: list[list[str]], tmp_path: pathlib.Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(cache=str(tmp_path))
    for _ in range(2):
        assert cells.run_matrix(config, ["x86-npt", "3"]) == 3
    assert len(calls) == 3
    assert all(argv[:3] == ["make", "check", "ARCH=x86"] for argv in calls)
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "cells: 1 passed, 1 failed, " + said[-1].rpartition(", ")[2]
    assert "cell x86-npt: passed before, with the same content" in said
    assert "cell x86-shadow: FAILED" in said


def test_what_changes_meanwhile_is_not_kept(calls: list[list[str]], tmp_path: pathlib.Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    trees = iter(range(99))
    monkeypatch.setattr(cells, "git", lambda tree, *argv: str(next(trees)))
    for _ in range(2):
        assert cells.run_matrix(Config(cache=str(tmp_path)), ["x86-npt"]) == 0
    assert len(calls) == 2
    assert not list(tmp_path.rglob("*"))


def test_other_knobs_or_tools_are_another_question(calls: list[list[str]], tmp_path: pathlib.Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    some: list[dict[str, Any]] = [{}, {"llvm": "1"}, {"seed": 7}, {"base": "mainline"}]
    for knobs in some:
        cells.run_matrix(Config(cache=str(tmp_path), **knobs), ["x86-npt"])
    monkeypatch.setattr(images, "toolchain",
                        lambda *_: types.SimpleNamespace(version="cc 2", linker="ld 1"))
    cells.run_matrix(Config(cache=str(tmp_path)), ["x86-npt"])
    assert len(calls) == 5


def test_a_cell_has_its_own_knobs() -> None:
    given = Config(arch=("arm64",), mode=("vhe",), config="gcov", cpus=4, results="a b"[:1])
    argv = cells.command(given, SLOW)
    assert {"ARCH=x86", "MODE=npt", "CONFIG=debug", "CPUS=4", "RESULTS=a"} <= set(argv)
    assert not [word for word in cells.command(given, CELL) if word.startswith("CONFIG=")]


def test_what_is_refused() -> None:
    with pytest.raises(BadInput, match="KERNEL, CASES in the environment"):
        cells.run_matrix(Config(kernel="/linux", cases=("a",)), [])
    with pytest.raises(BadInput, match="no-such: no cell"):
        cells.run_matrix(Config(), ["no-such"])


def test_which_cells_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cells.run_matrix(Config(), ["--json"]) == cells.run_matrix(Config(), ["--list"]) == 0
    names, *lines = capsys.readouterr().out.splitlines()
    there, left = matrix.chosen(matrix.load(Config().base_facts), arch_.names(), False, True)
    assert json.loads(names) == [cell.name for cell in there]
    assert len(lines) == len(there) + len(left)
    assert lines[0].split() == ["1", there[0].name, *there[0].command.split()]


@pytest.mark.parametrize("script", ["ci/run-matrix", "ci/slurm-matrix"])
def test_wherever_it_is_called_from(tmp_path: pathlib.Path, script: str) -> None:
    """Another directory of that name in CDPATH is none of ours, nor is that of a link."""
    (tmp_path / "ci").mkdir()
    (tmp_path / "link").symlink_to(ROOT / script)
    lines = (ROOT / script).read_text().splitlines()
    moves = "\n".join(line.partition(" && exec")[0] for line in lines if "CDPATH" in line or
                      line.startswith("cd "))
    for called in (script, str(tmp_path / "link")):
        done = subprocess.run(["bash", "-c", f"{moves}\npwd", called], cwd=ROOT, text=True,
                              capture_output=True, check=True,
                              env={**os.environ, "CDPATH": str(tmp_path)})
        assert done.stdout == f"{ROOT}\n"

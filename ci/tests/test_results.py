# SPDX-License-Identifier: GPL-2.0
"""The directory of a run, what is said at its end, and what can be gone on with."""
import json
import os
import pathlib
from typing import Any

import pytest

from ci.boot import ktap
from ci.boot import request as request_
from ci.boot.request import Outcome
from ci.config import Config
from ci.facts.text import BadInput
from ci.judge import results
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run
from ci.tests.conftest import Machines, make_request


def boot_of(directory: pathlib.Path = pathlib.Path("d"), *findings: Check) -> Boot:
    stream = ktap.parse("KTAP version 1\n1..2\n# case a 1\nok 1 a\n# case b 1\nok 2 b\n# end\n")
    return Boot(make_request("arm64"), directory, Outcome(stream, "exited", "", 1.0),
                list(findings))


# --- what is said ---

def test_a_finding_shows_the_end_of_its_log(machines: Machines,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    log = machines.root / "tests.ktap"
    log.write_text(f"# case a 1\n#   {'no exit ' * 20}\nnot ok 1 a\n# case b 1\n")
    run = Run(machines.config(), "check")
    run.boots.append(boot_of(machines.root, Check(Status.FAIL, "exit<=1", "a", "tests.ktap:3"),
                             Check(Status.LOST, "gone", "", "console.log")))
    assert run.summary() == Status.LOST.exit_status
    fail, _, head, line, last, command, lost, _, _, *end = capsys.readouterr().out.splitlines()
    assert (fail, lost) == ("FAIL arm64/vhe a: exit<=1", "LOST arm64/vhe: gone")
    assert (head, last) == ("      | # case a 1", "      | not ok 1 a")
    assert len(line) == len("      | ") + results.EXCERPT_COLUMNS
    assert command.startswith("    repeat: make check ARCH=arm64 MODE=vhe")
    assert end == [f"verdict: lost, {run.directory}", "1 passed, 2 failed, 0 skipped"]


def test_repeat_names_what_is_not_default() -> None:
    config = Config(series="base", base="mainline", seed=7)
    command = results.repeat(config, make_request("arm64"), Check(Status.FAIL, "b", "a")).split()
    assert command[:4] == ["make", "check", "ARCH=arm64", "MODE=vhe"]
    assert sorted(command[4:-1]) == ["BASE=mainline", "SEED=7", "SERIES=base"]
    assert command[-1] == "CASES=a"


def test_a_known_failure_is_one_line(machines: Machines,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(machines.config(), "check")
    run.boots.append(boot_of(pathlib.Path("d"), Check(Status.KNOWN, "it is so", "a", "c")))
    assert run.summary() == 0
    assert capsys.readouterr().out.splitlines() == [
        "KNOWN arm64/vhe a: it is so", f"verdict: known, {run.directory}",
        "1 passed, 0 failed, 1 skipped"]


@pytest.mark.parametrize("findings, counts", [
    ([], "2 passed, 0 failed, 0 skipped"),
    ([Check(Status.KNOWN, "", "a")], "1 passed, 0 failed, 0 skipped, 1 known"),
    ([Check(Status.KNOWN, "", "a"), Check(Status.FAIL, "", "a")], "1 passed, 1 failed, 0 skipped"),
    ([Check(Status.LOST, "", "c"), Check(Status.HARNESS)], "2 passed, 2 failed, 0 skipped")])
def test_results_are_counted_as_judged(findings: list[Check], counts: str) -> None:
    assert boot_of(pathlib.Path("d"), *findings).counts() == counts


def test_a_run_that_is_cut_off_says_so(machines: Machines,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(machines.config(), "check")
    run.boots.append(boot_of())
    run.unfinished = make_request()
    assert run.summary() == Status.HARNESS.exit_status
    assert capsys.readouterr().out.splitlines() == [
        "HARNESS x86/npt: not finished", f"verdict: harness, {run.directory}",
        "2 passed, 1 failed, 0 skipped"]


# --- directories ---

def test_latest_is_the_last_one(machines: Machines) -> None:
    runs = [Run(machines.config(), "check") for _ in range(2)]
    latest = machines.root / "results" / "latest"
    assert latest.resolve() == runs[1].directory.resolve() != runs[0].directory.resolve()
    (runs[0].directory / "table.txt").write_text("")
    os.close(runs[0].lock)
    Run(machines.config(), "check", resume=runs[0].directory)
    assert latest.resolve() == runs[0].directory.resolve()
    assert not (runs[0].directory / "table.txt").exists()


def test_one_at_a_time(tmp_path: pathlib.Path) -> None:
    held = results.lock_directory(tmp_path)
    with pytest.raises(BadInput, match="still under way"):
        results.lock_directory(tmp_path)
    os.close(held)


# --- going on ---

IDENTITY = {"release": "6.12", "cases": ["a"]}


def finished(directory: pathlib.Path, identity: dict[str, Any], text: str = "") -> Boot | None:
    (directory / "tests.ktap").write_text("KTAP version 1\n1..1\n# case a 1\nok 1 a\n# end\n")
    then = {**IDENTITY, "host": "one", "verdict": "pass", "seconds": 3.0}
    (directory / "meta.json").write_text(text or json.dumps(then))
    return results.finished_boot(make_request(), directory, identity)


def test_a_boot_that_passed_is_as_it_was(tmp_path: pathlib.Path) -> None:
    boot = finished(tmp_path, IDENTITY)
    assert boot and (boot.meta["host"], boot.findings) == ("one", [])
    assert [result.name for result in boot.outcome.stream.results] == ["a"]


@pytest.mark.parametrize("key, value", [("release", "6.13"), ("cases", ["a", "b"]),
                                        ("quanta", [250])])
def test_a_boot_of_something_else_is_refused(tmp_path: pathlib.Path, key: str,
                                             value: object) -> None:
    with pytest.raises(BadInput, match=f"another {key}"):
        finished(tmp_path, {**IDENTITY, key: value})


@pytest.mark.parametrize("text", ["\n", "{", '{"verdict": "fail"}'])
def test_what_did_not_pass_is_measured_again(tmp_path: pathlib.Path, text: str) -> None:
    assert finished(tmp_path, IDENTITY, text) is None


def test_a_run_goes_on_where_it_was_cut_off(machines: Machines, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """What is in meta.json is what a boot is known by, as JSON has it."""
    request, = request_.requests(machines.config(), "tests")
    monkeypatch.setenv("FAKE_QEMU", "pass")
    run = Run(machines.config(), "check")
    assert run.boot(request).verdict == Status.PASS
    os.close(run.lock)
    monkeypatch.setenv("FAKE_QEMU", "killed")
    run = Run(machines.config(), "check", resume=run.directory)
    assert run.boot(request).verdict == Status.PASS
    assert "2 passed, 0 failed, 0 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("name, good", [
    ("20260101-120000-scale", True), ("20260101-120000-scale-2", True),
    ("20260101-120000-bench", False), ("none-scale", False)])
def test_a_directory_of_another_kind(tmp_path: pathlib.Path, name: str, good: bool) -> None:
    path = tmp_path / name
    path.mkdir()
    config = Config(resume=str(path))
    if good:
        assert results.check_resume(config, "scale") == path
    else:
        with pytest.raises(BadInput, match="not the directory of a run of make scale"):
            results.check_resume(config, "scale")


def test_nothing_to_go_on_with() -> None:
    assert results.check_resume(Config(), "scale") is None


def test_a_run_without_a_boot_is_no_pass(machines: Machines,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """As of ctrl-C while it waited for another make."""
    assert Run(machines.config(), "check").summary() == Status.HARNESS.exit_status
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "HARNESS nothing was booted" and out[1].startswith("verdict: harness, ")
    assert out[-1] == "0 passed, 1 failed, 0 skipped"

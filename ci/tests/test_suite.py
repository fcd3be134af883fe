# SPDX-License-Identifier: GPL-2.0
"""How machines fare, from a stand-in for QEMU to the exit status of make check."""
import signal

import pytest

from ci.config import Config
from ci.judge import suite
from ci.judge.check import Status
from ci.tests.conftest import Machines

# (what the machine does, its verdict, the last line, what is said)
FATES = (
    ("pass", Status.PASS, "2 passed, 0 failed, 0 skipped", "verdict: pass"),
    # Skip is not pass.
    ("skip", Status.SKIP, "1 passed, 1 failed, 0 skipped", "must not skip here"),
    ("timeout", Status.TIMEOUT, "1 passed, 1 failed, 0 skipped", "TIMEOUT"),
    ("cpus", Status.HARNESS, "2 passed, 1 failed, 0 skipped", "asked for cpus=2"),
    ("mode", Status.HARNESS, "2 passed, 1 failed, 0 skipped", "asked for mode npt"),
    ("missing", Status.HARNESS, "1 passed, 1 failed, 0 skipped", "no result for: second"),
    ("cut", Status.HARNESS, "0 passed, 3 failed, 0 skipped", "the console was cut off"),
    ("splat", Status.SPLAT, "2 passed, 1 failed, 0 skipped", "WARNING: CPU: 0"),
    ("panic", Status.LOST, "1 passed, 1 failed, 0 skipped", "Fatal exception"),
    ("reset", Status.LOST, "1 passed, 1 failed, 0 skipped", "without its end record"),
    ("killed", Status.LOST, "1 passed, 1 failed, 0 skipped", "SIGKILL"),
    ("refused", Status.LOST, "0 passed, 1 failed, 0 skipped", "QEMU exited with status 1"),
)


@pytest.mark.parametrize("fate, verdict, line, text", FATES)
def test_a_machine(machines: Machines, fate: str, verdict: Status, line: str, text: str) -> None:
    status, out, err = machines.check(fate)
    assert status == verdict.exit_status, out + err
    assert out.splitlines()[-1] == line
    assert text in out
    assert machines.meta()["verdict"] == verdict.word


def test_failed_case_has_log_and_command(machines: Machines) -> None:
    status, out, _ = machines.check("fail", SEED="7", LLVM="1")
    assert (status, out.splitlines()[-1]) == (2, "1 passed, 2 failed, 0 skipped"), out
    assert "asked for seed=7" in out
    assert "second: exit=254" in out
    assert "x86-npt/tests.ktap:12" in out
    assert "repeat: make check ARCH=x86 MODE=npt" in out
    for words in ("SEED=7", "LLVM=1", "CASES=second"):
        assert words in out


def test_a_failed_case_has_the_status_of_a_failure(machines: Machines) -> None:
    status, out, _ = machines.check("fail", CASES="first second")
    assert (status, out.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped"), out
    assert machines.meta()["verdict"] == "fail"


def test_nothing_to_run(machines: Machines) -> None:
    machines.cases("# nothing\n")
    status, _, err = machines.check("pass")
    assert (status, err[:19]) == (Status.HARNESS.exit_status, "ci: nothing to run:")


def test_a_run_that_breaks_is_not_green(machines: Machines) -> None:
    (machines.root / "out" / "patched" / "x86.kernel").unlink()
    status, out, err = machines.check("pass")
    assert status == Status.HARNESS.exit_status
    assert "HARNESS x86/npt: not finished" in out
    assert out.splitlines()[-2].startswith("verdict: harness, ")
    assert out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    assert "make images" in err


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_interrupt_keeps_results_and_leaves_no_qemu(machines: Machines, number: str) -> None:
    process = machines.start("hang")
    machines.wait_for("tests.ktap", "# case first")
    process.send_signal(signal.Signals[number])
    out, err = process.communicate(timeout=20)
    assert process.returncode == Status.INTERRUPTED.exit_status, out + err
    assert "kept, and marked" in err
    assert machines.meta()["verdict"] == "interrupted"
    machines.assert_no_qemu()


def test_death_of_the_harness_leaves_no_qemu(machines: Machines) -> None:
    process = machines.start("hang")
    machines.wait_for("tests.ktap", "# case first")
    process.kill()
    process.communicate()
    machines.assert_no_qemu()


@pytest.mark.parametrize("knob, value, says", [
    ("HARNESS_MIN_FREE_MB", "999999999", "make room"),
    ("QEMU", "/nonexistent/qemu",
     "ci: /nonexistent/qemu not found: run make deps, or give QEMU=/path/to/it\n"),
    ("ACCEL", "hvf", "ci: ACCEL=hvf: choose tcg, kvm\n"),
    ("CASES", "third", "CASES=third matches nothing here"),
    ("MODE", "vhe", "MODE=vhe: x86 has: npt")])
def test_a_bad_knob_is_one_line(machines: Machines, knob: str, value: str, says: str) -> None:
    status, _, err = machines.check("pass", **{knob: value})
    assert (status, len(err.splitlines())) == (Status.HARNESS.exit_status, 1), err
    assert says in err


def test_two_runs_at_once_have_two_directories(machines: Machines) -> None:
    processes = [machines.start("pass") for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    assert len(list(machines.root.glob("results/2*/x86-npt/meta.json"))) == 2


@pytest.mark.parametrize("given, wanted", [({}, (1000000, 7200)),
                                           ({"ops": 7, "timeout": 9}, (7, 9))])
def test_fuzz_is_the_first_mode_with_checkers(monkeypatch: pytest.MonkeyPatch,
                                              given: dict[str, int],
                                              wanted: tuple[int, int]) -> None:
    runs: list[Config] = []

    def check(config: Config) -> int:
        runs.append(config)
        return 0
    monkeypatch.setattr(suite, "check", check)
    assert suite.fuzz(Config(**given)) == 0  # type: ignore[arg-type]
    assert [(c.arch, c.mode) for c in runs] == [(("arm64",), ("vhe",)), (("x86",), ("npt",))]
    assert {(c.config, c.cases, c.ops, c.timeout) for c in runs} == {
        ("debug", ("fuzz_memslots",), *wanted)}

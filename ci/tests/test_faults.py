# SPDX-License-Identifier: GPL-2.0
"""The harness under fault: each ends in its class of verdict, in time, and never green.

A fault is a row of FAULTS and what the stand-in for QEMU does (ci/tests/fixtures/qemu).  After
each, no process may be left, and what is in the results has to be whole.
"""
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from ci.judge.check import Status
from ci.tests.conftest import MOST_SECONDS, Machines

# Seconds
LIMITS = {"HARNESS_BOOT_SECONDS": "2", "HARNESS_GRACE_SECONDS": "2"}
LONG = {"HARNESS_BOOT_SECONDS": "30", "HARNESS_GRACE_SECONDS": "30"}

# (what the machine does, its verdict, what is said)
FAULTS = (
    ("killed_boot", Status.LOST, "QEMU was killed by SIGKILL"),
    ("stopped_boot", Status.TIMEOUT, "booting took longer than 2 s"),
    ("silent", Status.TIMEOUT, "booting took longer than 2 s"),
    ("stopped", Status.TIMEOUT, "first took longer than 3 s"),
    ("hang", Status.TIMEOUT, "first took longer than 3 s"),
    ("babble", Status.TIMEOUT, "first took longer than 3 s"),
    ("stopped_end", Status.TIMEOUT, "ending took longer than 2 s"),
    ("killed", Status.LOST, "QEMU was killed by SIGKILL"),
    ("killed_end", Status.LOST, "QEMU was killed by SIGKILL"),
    ("crash", Status.LOST, "QEMU was killed by SIGSEGV"),
    ("exits", Status.LOST, "QEMU exited with status 3"),
    ("full", Status.LOST, "QEMU exited with status 1, see qemu.log"),
    ("no_port", Status.LOST, "without its end record"),
    ("no_console", Status.HARNESS, "asked for mode npt"),
    ("no_plan", Status.LOST, "expected the plan"),
    ("short_plan", Status.HARNESS, "3 results planned, 2 seen"),
    ("twice", Status.HARNESS, "result 1, expected 2"),
    ("truncated", Status.LOST, "cut off in the middle of a line"),
    ("cut_end", Status.HARNESS, "cut off in the middle of a line"),
    ("noise", Status.HARNESS, "not KTAP"),
    ("stranger", Status.HARNESS, "ran, but was not asked for"),
    ("panic", Status.LOST, "Fatal exception"),
    ("end_panic", Status.LOST, "Attempted to kill init"),
    ("reset", Status.LOST, "without its end record"),
    ("stale", Status.HARNESS, "asked for release=1.2.3, the guest reports 1.2.2"),
    ("no_vm", Status.HARNESS, "asked for vm=held, the guest reports nothing"),
    ("wrong_arch", Status.HARNESS, "could not be executed"),
    ("bail", Status.HARNESS, "no memory for a stack"),
)


def faulty(machines: Machines, fate: str, *argv: str, **more: str) -> tuple[int, str, str]:
    start = time.monotonic()
    done = machines.check(fate, *argv, **LIMITS, **more)
    assert time.monotonic() - start < MOST_SECONDS
    machines.assert_no_qemu()
    # Nothing is half written.
    assert list(machines.root.glob("results/*/*/*.new")) == []
    return done


@pytest.mark.parametrize("fate, verdict, text", FAULTS, ids=[row[0] for row in FAULTS])
def test_fault(machines: Machines, fate: str, verdict: Status, text: str) -> None:
    status, out, err = faulty(machines, fate)
    assert status == verdict.exit_status, out + err
    assert text in out
    assert re.fullmatch(r"\d+ passed, [1-9]\d* failed, \d+ skipped", out.splitlines()[-1]), out
    assert machines.meta()["verdict"] == verdict.word


# What looks bad and is not
@pytest.mark.parametrize("fate", ["flood", "backwards"])
def test_harmless(machines: Machines, fate: str) -> None:
    status, out, err = faulty(machines, fate)
    assert (status, out.splitlines()[-1]) == (0, "2 passed, 0 failed, 0 skipped"), out + err
    assert machines.meta()["verdict"] == "pass"


# --- faults of the host ---

@pytest.fixture(name="small_disk")
def fixture_small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory of one file's size is where results go: what QEMU writes is cut."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(place)],
                          capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this needs a file system of its own: only root can mount one")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_full_disk_while_the_guest_runs(machines: Machines, small_disk: pathlib.Path) -> None:
    status, out, _ = faulty(machines, "flood", RESULTS=str(small_disk), HARNESS_MIN_FREE_MB="0")
    assert status != 0, out


def test_full_disk_after_the_guest(machines: Machines, small_disk: pathlib.Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 52 * 1024)
    status, _, err = faulty(machines, "pass", RESULTS=str(small_disk), HARNESS_MIN_FREE_MB="0")
    assert status == Status.HARNESS.exit_status
    assert "make room" in err


def test_results_that_cannot_be_written(machines: Machines) -> None:
    status, _, err = faulty(machines, "pass", RESULTS="/proc/no-such-place")
    assert (status, len(err.splitlines())) == (Status.HARNESS.exit_status, 1), err


def test_a_clock_that_jumps(machines: Machines) -> None:
    """Deadlines are told by a clock that nobody sets."""
    code = ("import itertools, sys, time\n"
            "jumps = itertools.cycle((0.0, 4e9))\n"
            "time.time = lambda: next(jumps)\n"
            "from ci import config\n"
            "from ci.judge import suite\n"
            "sys.exit(suite.check(config.load()))\n")
    status, out, err = faulty(machines, "pass", "-c", code)
    assert status == 0, out + err


# --- ctrl-C ---

@pytest.mark.parametrize("fate, name, text", [("silent", "command", ""),
                                              ("hang", "tests.ktap", "# case first"),
                                              ("stopped_end", "tests.ktap", "# end")])
def test_interrupt(machines: Machines, fate: str, name: str, text: str) -> None:
    process = machines.start(fate, **LONG)
    machines.wait_for(name, text)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == Status.INTERRUPTED.exit_status, out + err
    machines.assert_no_qemu()
    assert machines.meta()["verdict"] == "interrupted"

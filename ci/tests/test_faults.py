# SPDX-License-Identifier: GPL-2.0
"""The harness under fault: each ends in its class of verdict, in time, and never green.

A fault is a row of FAULTS and what the stand-in for QEMU does (ci/tests/fixtures/qemu).  After each,
no process may be left, and what is in the results has to be whole.
"""
import signal
import subprocess
import time
import unittest

from ci.facts import arch
from ci.tests import test_machines
from ci.judge.verdict import Verdict

# Seconds; a fault that is waited for ends within them and a little
LIMITS = {"BOOT_SECONDS": "2", "GRACE_SECONDS": "2"}
MOST_SECONDS = 15

# (what the machine does, its verdict, what is said)
FAULTS = (
    ("killed_boot", Verdict.LOST, "QEMU was killed by SIGKILL"),
    ("stopped_boot", Verdict.TIMEOUT, "booting took longer than 2 s"),
    ("silent", Verdict.TIMEOUT, "booting took longer than 2 s"),
    ("stopped", Verdict.TIMEOUT, "first took longer than 3 s"),
    ("hang", Verdict.TIMEOUT, "first took longer than 3 s"),
    ("babble", Verdict.TIMEOUT, "first took longer than 3 s"),
    ("stopped_end", Verdict.TIMEOUT, "ending took longer than 2 s"),
    ("killed", Verdict.LOST, "QEMU was killed by SIGKILL"),
    ("killed_end", Verdict.LOST, "QEMU was killed by SIGKILL"),
    ("crash", Verdict.LOST, "QEMU was killed by SIGSEGV"),
    ("exits", Verdict.LOST, "QEMU exited with status 3"),
    ("full", Verdict.LOST, "QEMU exited with status 1, see qemu.log"),
    ("no_port", Verdict.LOST, "without its end record"),
    ("no_console", Verdict.HARNESS, "asked for mode npt"),
    ("no_plan", Verdict.LOST, "want the plan"),
    ("short_plan", Verdict.HARNESS, "3 results planned, 2 seen"),
    ("twice", Verdict.HARNESS, "result 1 where 2 was due"),
    ("truncated", Verdict.LOST, "cut off in the middle of a line"),
    ("cut_end", Verdict.HARNESS, "cut off in the middle of a line"),
    ("noise", Verdict.HARNESS, "not KTAP"),
    ("stranger", Verdict.HARNESS, "ran, but was not asked for"),
    ("panic", Verdict.LOST, "Fatal exception"),
    ("end_panic", Verdict.LOST, "Attempted to kill init"),
    ("reset", Verdict.LOST, "without its end record"),
    ("stale", Verdict.HARNESS, "asked for release=1.2.3, the guest reports 1.2.2"),
    ("no_vm", Verdict.HARNESS, "asked for vm=held, the guest reports nothing"),
    ("wrong_arch", Verdict.HARNESS, "could not be executed"),
    ("bail", Verdict.HARNESS, "no memory for a stack"),
)
# What looks bad and is not
HARMLESS = ("flood", "backwards")


class Faults(test_machines.Machines):
    """The tests of Machines are not repeated here: only those below are loaded."""

    def faulty(self, fate, **more):
        start = time.monotonic()
        status, out, err = self.check(fate, **LIMITS, **more)
        self.assertLess(time.monotonic() - start, MOST_SECONDS, fate)
        self.assert_no_qemu()
        return status, out, err

    def assert_whole(self):
        """Nothing that is half written: each file of JSON can be read, none is left over."""
        for path in self.root.glob("results/*/*/*"):
            self.assertFalse(path.name.endswith(".new"), path)
        return self.meta()

    def inject(self, fate, verdict, text):
        status, out, _ = self.faulty(fate)
        self.assertEqual(status, verdict, f"{fate}: {out}")
        self.assertIn(text, out, fate)
        self.assertRegex(out.splitlines()[-1], r"\d+ passed, [1-9]\d* failed, \d+ skipped", fate)
        self.assertEqual(self.assert_whole()["verdict"], verdict.name.lower(), fate)

    def harmless(self, fate):
        status, out, _ = self.faulty(fate)
        self.assertEqual((status, out.splitlines()[-1]), (0, "2 passed, 0 failed, 0 skipped"), out)
        self.assert_whole()

    # --- faults of the host ---

    def disk_that_is_full_from(self, name):
        """A directory of one file's size is where results go: what QEMU writes is cut."""
        place = self.root / name
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(place)], capture_output=True, check=False)
        if done.returncode:
            self.skipTest("this needs a file system of its own: only root can mount one")
        self.addCleanup(subprocess.run, ["umount", "-l", str(place)], check=False)
        return place

    def full_disk_while_the_guest_runs(self):
        place = self.disk_that_is_full_from("small")
        status, out, _ = self.faulty("flood", RESULTS=str(place), MIN_FREE_MB="0")
        self.assertNotEqual(status, 0, out)

    def full_disk_after_the_guest(self):
        place = self.disk_that_is_full_from("small")
        (place / "filler").write_bytes(b"x" * 52 * 1024)
        status, _, err = self.faulty("pass", RESULTS=str(place), MIN_FREE_MB="0")
        self.assertEqual(status, Verdict.HARNESS)
        self.assertIn("make room", err)

    def results_that_cannot_be_written(self):
        status, _, err = self.faulty("pass", RESULTS="/proc/no-such-place")
        self.assertEqual(status, Verdict.HARNESS)
        self.assertEqual(len(err.splitlines()), 1)

    def another_make_has_built_there(self):
        """Its series isn't the one that was asked for, though the guest would say what the image does."""
        status, out, err = self.faulty("pass", SERIES_ID="0123abcd")
        self.assertEqual(status, Verdict.HARNESS, out)
        self.assertRegex(err, "x86.kernel is 1.2.3, not patched-0123abcd: another make")

    def clock_that_jumps(self):
        """Deadlines are told by a clock that nobody sets."""
        code = ("import itertools, sys, time; jumps = itertools.cycle((0.0, 4e9)); time.time = lambda: next(jumps); "
                "from ci.judge import results, suite; sys.exit(results.main(suite.check, ['x86']))")
        done = subprocess.run(["/usr/bin/python3", "-c", code], cwd=arch.ROOT, env={**self.environment("pass"), **LIMITS},
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    # --- ctrl-C ---

    def interrupt(self, fate, after):
        process = self.start(fate, GRACE_SECONDS="30", BOOT_SECONDS="30")
        deadline = time.monotonic() + MOST_SECONDS
        while not after():
            self.assertLess(time.monotonic(), deadline, fate)
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=MOST_SECONDS)
        self.assertEqual(process.returncode, Verdict.INTERRUPTED, f"{fate}: {out}{err}")
        self.assert_no_qemu()
        self.assertEqual(self.meta()["verdict"], "interrupted")

    def text_of(self, name):
        path = next(self.root.glob(f"results/*/x86-npt/{name}"), None)
        return path.read_text(errors="replace") if path else ""

    def interrupt_while_booting(self):
        self.interrupt("silent", lambda: list(self.root.glob("results/*/x86-npt/command")))

    def interrupt_in_a_case(self):
        self.interrupt("hang", lambda: "# case first" in self.text_of("tests.ktap"))

    def interrupt_at_the_end(self):
        self.interrupt("stopped_end", lambda: "# end" in self.text_of("tests.ktap"))


def row(fate, verdict, text):
    return lambda self: self.inject(fate, verdict, text)


def load_tests(loader, _, pattern):
    """Only what is a fault: Machines has its own tests, in its own file."""
    suite = unittest.TestSuite()
    for fate, verdict, text in FAULTS:
        setattr(Faults, f"fault_{fate}", row(fate, verdict, text))
        suite.addTest(Faults(f"fault_{fate}"))
    for fate in HARMLESS:
        setattr(Faults, f"harmless_{fate}", lambda self, fate=fate: self.harmless(fate))
        suite.addTest(Faults(f"harmless_{fate}"))
    for name in ("full_disk_while_the_guest_runs", "full_disk_after_the_guest", "results_that_cannot_be_written", "another_make_has_built_there",
                 "clock_that_jumps",
                 "interrupt_while_booting", "interrupt_in_a_case", "interrupt_at_the_end"):
        suite.addTest(Faults(name))
    return suite


if __name__ == "__main__":
    unittest.main()

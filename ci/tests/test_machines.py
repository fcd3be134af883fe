# SPDX-License-Identifier: GPL-2.0
"""How machines fare, from a stand-in for QEMU to the exit status of ci/judge/suite.py."""
import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest
import unittest.mock

from ci.facts import arch
from ci.boot import qemu as guest
from ci.judge import results as run
from ci.judge.verdict import Verdict

FAKE = str(arch.ROOT / "ci" / "tests" / "fixtures" / "qemu")
CASES = "first all - 30 a_program\nsecond all - 30 a_program\n"


class Machines(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = pathlib.Path(self.directory.name)
        images = self.root / "out" / "patched"
        images.mkdir(parents=True)
        for kind, text in (("kernel", ""), ("config", ""), ("compiler", "cc"), ("release", "1.2.3")):
            (images / f"x86.{kind}").write_text(text)
        programs = self.root / "out" / "programs" / "x86"
        programs.mkdir(parents=True)
        (programs / "initramfs.cpio").write_text("")
        (self.root / "out" / "host_ticks").symlink_to("/bin/true")
        (self.root / "cases").write_text(CASES)

    def environment(self, fate):
        return {**os.environ, "FAKE_QEMU": fate, "QEMU": FAKE, "OUT": str(self.root / "out"),
                "RESULTS": str(self.root / "results"), "MODE": "npt", "SERIES": "patched",
                "BASE": "v6.12", "CASES": "", "CONFIG": "", "ACCEL": "tcg", "CPUS": "2",
                "TIMEOUT": "", "SEED": "", "STRESS": "", "OPS": "", "COMPARE": "", "SERIES_ID": "", "KERNEL": "", "RANGE": "",
                "CASES_FILE": str(self.root / "cases")}

    def start(self, fate, **more):
        return subprocess.Popen(["/usr/bin/python3", "-m", "ci.judge.suite", "x86"], cwd=arch.ROOT,
                                env={**self.environment(fate), **more}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def check(self, fate, **more):
        process = self.start(fate, **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def meta(self):
        return json.loads(next(self.root.glob("results/*/x86-npt/meta.json")).read_text())

    def expect(self, fate, verdict, line, text):
        status, out, _ = self.check(fate)
        self.assertEqual(status, verdict, out)
        self.assertEqual(out.splitlines()[-1], line)
        self.assertIn(text, out)
        self.assertEqual(self.meta()["verdict"], verdict.name.lower())
        return out

    def test_pass(self):
        self.expect("pass", Verdict.PASS, "2 passed, 0 failed, 0 skipped", "verdict: pass")

    def test_failed_case_has_log_and_command(self):
        out = self.expect("fail", Verdict.FAIL, "1 passed, 1 failed, 0 skipped", "second: exit=254")
        self.assertIn("x86-npt/tests.ktap:12", out)
        self.assertIn("make check ARCH=x86 MODE=npt", out)
        self.assertIn("CASES=second", out)

    def test_skip_is_not_pass(self):
        self.expect("skip", Verdict.SKIP, "1 passed, 1 failed, 0 skipped", "must not skip here")

    def test_timeout_of_a_case(self):
        self.expect("timeout", Verdict.TIMEOUT, "1 passed, 1 failed, 0 skipped", "TIMEOUT")

    def test_fewer_cpus_than_asked_for(self):
        self.expect("cpus", Verdict.HARNESS, "2 passed, 1 failed, 0 skipped", "asked for cpus=2")

    def test_another_mode_than_asked_for(self):
        self.expect("mode", Verdict.HARNESS, "2 passed, 1 failed, 0 skipped", "asked for mode npt")

    def test_missing_result(self):
        self.expect("missing", Verdict.HARNESS, "1 passed, 1 failed, 0 skipped", "no result for: second")

    def test_cut_console(self):
        self.expect("cut", Verdict.HARNESS, "0 passed, 3 failed, 0 skipped", "the console was cut off")

    def test_nothing_to_run(self):
        (self.root / "cases").write_text("# nothing\n")
        status, _, err = self.check("pass")
        self.assertEqual((status, err[:19]), (Verdict.HARNESS, "ci: nothing to run:"))

    def test_a_run_that_breaks_is_not_green(self):
        (self.root / "out" / "patched" / "x86.kernel").unlink()
        status, out, err = self.check("pass")
        self.assertEqual(status, Verdict.HARNESS)
        self.assertEqual(out.splitlines()[-2:][0].split(",")[0], "verdict: harness")
        self.assertEqual(out.splitlines()[-1], "0 passed, 1 failed, 0 skipped")
        self.assertIn("make images", err)

    def test_splat(self):
        self.expect("splat", Verdict.SPLAT, "2 passed, 1 failed, 0 skipped", "WARNING: CPU: 0")

    def test_guest_panic(self):
        self.expect("panic", Verdict.LOST, "1 passed, 1 failed, 0 skipped", "Fatal exception")

    def test_silent_reset(self):
        self.expect("reset", Verdict.LOST, "1 passed, 1 failed, 0 skipped", "without its end record")

    def test_qemu_killed(self):
        self.expect("killed", Verdict.LOST, "1 passed, 1 failed, 0 skipped", "SIGKILL")

    def test_qemu_refuses(self):
        self.expect("refused", Verdict.LOST, "0 passed, 1 failed, 0 skipped", "QEMU exited with status 1")

    def start_and_wait(self):
        """A machine that is in the middle of a case, and stays there."""
        process, deadline = self.start("hang"), time.monotonic() + 20
        while not list(self.root.glob("results/*/x86-npt/tests.ktap")):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        time.sleep(0.3)
        return process

    def test_interrupt_keeps_results_and_leaves_no_qemu(self):
        process = self.start_and_wait()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, Verdict.INTERRUPTED, out + err)
        self.assertIn("kept, and marked", err)
        self.assertEqual(self.meta()["verdict"], "interrupted")
        self.assert_no_qemu()

    def test_death_of_the_harness_leaves_no_qemu(self):
        process = self.start_and_wait()
        process.kill()
        process.communicate()
        self.assert_no_qemu()

    def assert_no_qemu(self):
        time.sleep(0.3)
        left = [p for p in pathlib.Path("/proc").glob("[0-9]*/environ")
                if self.read(p).find(str(self.root).encode()) >= 0]
        self.assertEqual(left, [])

    @staticmethod
    def read(path):
        try:
            return path.read_bytes()
        except OSError:
            return b""

    def test_full_disk_is_said_before_the_boot(self):
        status, _, err = self.check("pass", MIN_FREE_MB="999999999")
        self.assertEqual(status, Verdict.HARNESS)
        self.assertIn("make room", err)
        self.assertEqual(len(err.splitlines()), 1)

    def test_missing_qemu(self):
        status, _, err = self.check("pass", QEMU="/nonexistent/qemu")
        self.assertEqual(status, Verdict.HARNESS)
        self.assertEqual(err, "ci: /nonexistent/qemu not found: run make deps, or give QEMU=/path/to/it\n")

    def test_unknown_accelerator(self):
        status, _, err = self.check("pass", ACCEL="hvf")
        self.assertEqual((status, err), (Verdict.HARNESS, "ci: ACCEL=hvf: choose tcg or kvm\n"))

    def test_two_runs_at_once_have_two_directories(self):
        first, second = self.start("pass"), self.start("pass")
        for process in (first, second):
            out, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, out + err)
        self.assertEqual(len(list(self.root.glob("results/2*/x86-npt/meta.json"))), 2)


class Deadlines(unittest.TestCase):
    """A machine that says nothing any more is given up; the limits are made short here."""

    def boot(self, fate):
        with tempfile.TemporaryDirectory() as name:
            machine = arch.load("x86")
            request = guest.Request(machine, machine.modes[0], "tests", (), pathlib.Path("k"),
                                    pathlib.Path("i"), pathlib.Path("/bin/true"), "1.2.3", qemu=FAKE)
            with unittest.mock.patch.dict(os.environ, FAKE_QEMU=fate), \
                 contextlib.redirect_stdout(io.StringIO()):
                return guest.run(request, pathlib.Path(name))

    def setUp(self):
        limits = unittest.mock.patch.multiple(guest, BOOT_SECONDS=1, GRACE_SECONDS=1)
        limits.start()
        self.addCleanup(limits.stop)

    def test_hang_while_booting(self):
        outcome = self.boot("silent")
        self.assertEqual((outcome.how, outcome.detail), ("timeout", "booting took longer than 1 s"))

    def test_hang_in_a_case(self):
        outcome = self.boot("hang")
        self.assertEqual((outcome.how, outcome.detail), ("timeout", "first took longer than 2 s"))


class Knobs(unittest.TestCase):
    def test_the_cover_letter_is_not_part_of_what_was_measured(self):
        with tempfile.TemporaryDirectory() as name, unittest.mock.patch("ci.judge.results.ROOT", pathlib.Path(name)), \
                unittest.mock.patch.dict(os.environ, {"BASE": "b", "SERIES": "patched", "RANGE": ""}):
            place, hashes = pathlib.Path(name) / "kernel-patches" / "b", []
            place.mkdir(parents=True)
            for change in ("0001-a.patch", "0000-cover-letter.patch", "0010-b.patch"):
                (place / change).write_text("text")
                hashes.append(run.series_hash("1-patched-0"))
        self.assertEqual(hashes[0], hashes[1])
        self.assertNotEqual(hashes[1], hashes[2])

    def test_a_finding_shows_the_end_of_its_log(self):
        machine = arch.load("arm64")
        request = guest.Request(machine, machine.modes[0], "tests", (), None, None, None, "")
        with tempfile.TemporaryDirectory() as name:
            (pathlib.Path(name) / "tests.ktap").write_text("# case a 1\n#   a.c:7: no exit\nnot ok 1 a\n# case b 1\n")
            text = run.explain(run.Boot(request, pathlib.Path(name), None, []), run.Finding(Verdict.FAIL, "a", "exit=1", "tests.ktap:3"))
        self.assertIn("      | #   a.c:7: no exit\n      | not ok 1 a\n    repeat: make", text)

    def test_repeat_names_what_is_not_default(self):
        knobs = {"SERIES": "base", "BASE": "other", "DEFAULT_BASE": "one", "SEED": "7"}
        machine = arch.load("arm64")
        request = guest.Request(machine, machine.modes[0], "tests", (), None, None, None, "")
        boot = run.Boot(request, pathlib.Path("d"), None, [])
        with unittest.mock.patch.dict(os.environ, knobs, clear=True):
            text = run.explain(boot, run.Finding(Verdict.FAIL, "a", "b", "c"))
        self.assertIn("make check ARCH=arm64 MODE=vhe SERIES=base SEED=7 BASE=other CASES=a", text)


if __name__ == "__main__":
    unittest.main()

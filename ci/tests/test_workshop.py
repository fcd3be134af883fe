# SPDX-License-Identifier: GPL-2.0
"""make revision under fault: what is kept of a boot, and what is not."""
import contextlib
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock

from ci.facts import arch
from ci.boot import qemu as guest
from ci.judge import results as run
from ci.build import progress as step
from ci.build import cache as store
from ci.tests import test_machines
from ci.revision import states as workshop
from ci.facts.arch import BadInput
from ci.judge.verdict import Verdict


class Boots(test_machines.Machines):
    """With the stand-in for QEMU; the tests of Machines are in their own file."""

    def setUp(self):
        super().setUp()
        self.addCleanup(guest.STOP.clear)

    def boot(self, fate, again=0, policy=None):
        """A boot by a workshop of its own, with the store that all of a test share."""
        with unittest.mock.patch.dict("os.environ", self.environment(fate)), contextlib.redirect_stdout(io.StringIO()):
            this = run.Run("revision")
            this.policy = policy or this.policy
            shop = object.__new__(workshop.Workshop)
            shop.this, shop.store = this, store.Store(self.root / "store")
            request, = run.requests(["x86"], "tests")
            return shop.boot(request, "label", again)

    def kept(self):
        return [path for path in (self.root / "store" / "boots").glob("*") if path.is_dir()]

    def check_kept(self):
        """What went well is not booted again: the machine would be killed."""
        self.assertEqual(self.boot("pass").verdict, Verdict.PASS)
        self.assertEqual(self.boot("killed").verdict, Verdict.PASS)
        self.assertEqual(self.boot("killed", again=1).verdict, Verdict.LOST)

    def check_not_kept(self):
        for fate, verdict in (("fail", Verdict.FAIL), ("splat", Verdict.SPLAT), ("killed", Verdict.LOST), ("stale", Verdict.HARNESS)):
            self.assertEqual(self.boot(fate).verdict, verdict)
        self.assertEqual(self.kept(), [])

    def check_damaged(self):
        self.boot("pass")
        path, = self.kept()
        (path / "tests.ktap").write_text((path / "tests.ktap").read_text().replace("ok 2 second", "not ok 2 second"))
        self.assertEqual(self.boot("killed").verdict, Verdict.LOST)

    def check_judged_again(self):
        """A rule that came later holds for what was kept as well."""
        self.boot("pass")
        policy = ([re.compile("init: case second")], [], [])
        self.assertEqual(self.boot("pass", policy=policy).verdict, Verdict.SPLAT)

    def check_another_image(self):
        self.boot("pass")
        (self.root / "out" / "patched" / "x86.kernel").write_text("other")
        self.assertEqual(self.boot("killed").verdict, Verdict.LOST)

    def check_stopped(self):
        """Whoever has guests in threads ends them all."""
        guest.STOP.set()
        with self.assertRaises(KeyboardInterrupt):
            self.boot("hang")
        self.assertEqual(self.kept(), [])
        self.assert_no_qemu()


def load_tests(*_):
    suite = unittest.TestSuite(Boots(name) for name in dir(Boots) if name.startswith("check_"))
    suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(Others))
    return suite


class Others(unittest.TestCase):
    def test_faults_of_the_machine_are_none_of_the_series(self):
        for said, of_the_series in (("apply: of/0003-a.patch does not apply to linux (reason above)", True),
                                    ("apply: of/0003-a.patch is truncated: it does not end", True),
                                    ("apply: /usr/src/linux.tar.xz is missing: install linux-source", False),
                                    ("apply: cannot unpack x: is it whole, and is the disk full?", False)):
            self.assertEqual(bool(workshop.OF_THE_SERIES.search(said)), of_the_series, said)

    def test_a_base_has_fragments_of_its_own(self):
        """kernel-patches/mainline/debug.config is part of what a debug kernel is known by."""
        keys = []
        for base in ("mainline", "v6.12"):
            with unittest.mock.patch.dict("os.environ", BASE=base):
                keys.append(workshop.fragments(arch.load("x86"), "debug"))
        self.assertNotEqual(*keys)

    def test_the_end_of_what_we_say_is_not_cut(self):
        with tempfile.NamedTemporaryFile("w") as log, contextlib.redirect_stderr(io.StringIO()) as said:
            log.write(f"gcc {'x' * 200} cut\napply: {'x' * 200} what to do\n")
            log.flush()
            step.fail("tree", log.name, 2)
        self.assertIn("what to do", said.getvalue())
        self.assertNotIn("cut", said.getvalue())

    def test_an_error_that_a_parallel_build_has_left_behind_is_shown_first(self):
        with tempfile.NamedTemporaryFile("w") as log, contextlib.redirect_stderr(io.StringIO()) as said:
            log.write("  CC      lib/error.o\nmmu.c:7:9: error: 'a' undeclared\n" + "  CC      mm/slub.o\n" * 100 +
                      "make[3]: *** [Makefile:2008: .] Error 2\n")
            log.flush()
            step.fail("kernel", log.name, 2)
            self.assertEqual(workshop.first_error(pathlib.Path(log.name)), "mmu.c:7:9: error: 'a' undeclared")
        self.assertEqual(said.getvalue().splitlines()[0].strip(), "mmu.c:7:9: error: 'a' undeclared")

    def test_what_make_has_begun_ends_with_us(self):
        for number, command in ((signal.SIGINT, "sleep 60; touch done"), (signal.SIGKILL, "sleep 60")):
            with tempfile.TemporaryDirectory() as name:
                (pathlib.Path(name) / "Makefile").write_text(f"all:\n\ttouch begun\n\t{command}\n")
                # What was started in the background of a script ignores ctrl-C; run.main() undoes that.
                us = subprocess.Popen([sys.executable, "-c", "import signal, sys; from ci.build import progress as step; signal.signal(signal.SIGINT, signal.default_int_handler);"
                                       "step.call(['make'], None, cwd=sys.argv[1])", name],
                                      cwd=arch.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                self.addCleanup(us.kill)
                self.wait_for(lambda name=name: (pathlib.Path(name) / "begun").exists())
                us.send_signal(number)
                us.wait(10)
                self.wait_for(lambda name=name: name not in self.directories())

    @staticmethod
    def directories():
        """Where all processes are."""
        found = set()
        for link in pathlib.Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
        return found

    def wait_for(self, condition):
        for _ in range(200):
            if condition():
                return
            time.sleep(0.05)
        self.fail("not within 10 s")

    def test_what_a_dying_tool_said_is_not_kept(self):
        self.assertEqual(workshop.whole([("fail", "a")]), [("fail", "a")])
        with self.assertRaisesRegex(BadInput, "died"):
            workshop.whole([("harness", "checkpatch died")])

    def test_all_at_once_and_in_order(self):
        self.assertEqual(workshop.at_once(lambda n: n * n, [3, 1, 2], 2), [9, 1, 4])


if __name__ == "__main__":
    unittest.main()

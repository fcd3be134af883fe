# SPDX-License-Identifier: GPL-2.0
"""What make scale reads, and what it says of it."""
import json
import os
import pathlib
import tempfile
import types
import unittest
import unittest.mock

from ci.facts import arch
from ci.facts import cases
from ci.boot import qemu as guest
from ci.judge import results as run
from ci.measure import scaling as scale
from ci.measure.scaling import Point
from ci.judge.verdict import Verdict


class Reading(unittest.TestCase):
    def boot(self, lockstep, bench, cases=("a",)):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        for name, text in (("lockstep", lockstep), ("bench.jsonl", bench)):
            pathlib.Path(directory.name, name).write_text(text)
        results = [types.SimpleNamespace(name=name, status="pass") for name in cases]
        return types.SimpleNamespace(directory=pathlib.Path(directory.name), findings=[], meta={},
                                     outcome=types.SimpleNamespace(stream=types.SimpleNamespace(results=results)),
                                     request=types.SimpleNamespace(cpus=4, lockstep=guest.Lockstep(scale.QUANTA, 2)))

    RECORD = '{"mode": "a", "vcpus": 2, "pages": 2048}\n' * 2
    MARKS = ("mark 0 1000000 quantum=250 timeouts=0\nmark 0 9000000 quantum=250 timeouts=2\n"
             "mark 0 20000000 quantum=500 timeouts=2\nmark 0 36000000 quantum=500 timeouts=3\n")
    END = "end 90000000 quanta=1000 timeouts=10 idle=2000\n"

    def test_a_point(self):
        boot = self.boot(self.MARKS + self.END, self.RECORD)
        self.assertEqual(scale.points_of(boot), [Point("a", 2, 250, 256.0), Point("a", 2, 500, 128.0)])
        self.assertEqual(boot.meta["lockstep"], {"vcpus": 2, "boot": 1, "timeouts": 0.0025, "idle": 0.5})
        self.assertEqual(boot.findings, [])

    def test_what_is_no_measurement(self):
        marks = self.MARKS
        for why, lockstep, bench in (
                ("has no end", marks, self.RECORD), ("does not end", "mark 0 1 quantum=250 timeouts=0\n" + self.END, self.RECORD),
                ("0 records", marks + self.END, ""), ("Expecting", marks + self.END, "{"),
                ("not all as wanted", marks + self.END, self.RECORD.replace("2,", "4,")),
                ("not all as wanted", marks + self.END, self.RECORD.replace("a", "b")),
                ("a: -11000000 instructions", marks.replace("36000000", "9000000") + self.END, self.RECORD),
                ("quantum of 250, not 500", marks.replace("500", "250") + self.END, self.RECORD),
                ("4 CPUs went on alone 641 times", marks.replace("timeouts=2\nmark", "timeouts=641\nmark", 1) + self.END, self.RECORD),
                ("does not end", marks + "mark 0 40000000 quantum=250 timeouts=0\n" + self.END, self.RECORD)):
            boot = self.boot(lockstep, bench)
            self.assertEqual(scale.points_of(boot), [])
            (finding,) = boot.findings
            self.assertEqual(finding.verdict, Verdict.HARNESS)
            self.assertIn(why, finding.text)

    def test_samples_are_of_the_part_that_ends(self):
        first, second = self.MARKS.split("mark 0 20")
        boot = self.boot(f"{first}sample ffff 3\nspin ff 1\nmark 0 20{second}{self.END}", "")
        parts, _ = scale.read_lockstep(boot.directory / "lockstep")
        self.assertEqual([p.samples for p in parts], [{("sample", 0xffff): 3, ("spin", 0xff): 1}, {}])


class Table(unittest.TestCase):
    POINTS = [Point("a", 1, 250, 100.0), Point("a", 1, 500, 99.0), Point("a", 4, 250, 305.0), Point("a", 4, 250, 295.0),
              Point("a", 4, 500, 270.0)]

    def test_figures_of_a_point(self):
        rates = scale.Rates(self.POINTS)
        self.assertEqual([f("a", 4) for f in (rates.rate, rates.efficiency, rates.error)], [300, 75, 10])
        self.assertAlmostEqual(rates.spread("a", 4), 10 / 3)
        self.assertEqual((rates.efficiency("a", 1), rates.spread("a", 1)), (100, None))

    def test_a_point_whose_boots_differ_says_so(self):
        rates = scale.Rates(self.POINTS)
        self.assertEqual([scale.error_cell(rates, "a", n) for n in (1, 4)], ["1", "10/3!"])

    def test_a_point_of_one_quantum_has_no_error(self):
        self.assertIsNone(scale.Rates(self.POINTS[:3]).error("a", 4))

    def test_pages_that_all_share_are_counted_once(self):
        rates = scale.Rates([Point("a_overlap", n, 250, 100.0) for n in (1, 8)])
        self.assertEqual(rates.efficiency("a_overlap", 8), 100)

    def test_columns_of_the_published_table(self):
        points = [Point(mode, n, 250, r) for mode, n, r in (("uffd_minor", 8, 50.0), ("fast_minor", 8, 400.0))]
        self.assertEqual(list(scale.ratio_table(scale.Rates(points)))[1].split(), ["8", "50", "400", "8.00x", "8.0x", "-", "50"])
        self.assertEqual(scale.load_published()[256], (36, 4012))

    def test_a_screen_of_72_columns(self):
        modes = [case.command[1] for case in cases.load(arch.ROOT / "bench" / "scale")]
        points = [Point(mode, n, quantum, 23456.0) for mode in modes for n in (1, 2, 4, 8, 16, 32) for quantum in scale.QUANTA]
        for line in scale.table("arm64/nvhe", points):
            self.assertLessEqual(len(line), 72)

    def test_it_says_what_it_is(self):
        self.assertIn("lockstep model", "\n".join(scale.table("x86/npt", self.POINTS)))


class Knobs(unittest.TestCase):
    def numbers(self, **knobs):
        with unittest.mock.patch.dict("os.environ", knobs, clear=True):
            return scale.numbers_of_vcpus()

    def test_numbers_of_vcpus(self):
        self.assertEqual(self.numbers(), [1, 2, 4, 8])
        self.assertEqual(self.numbers(FULL="1")[-1], 32)
        self.assertEqual(self.numbers(VCPUS="8 2 2"), [2, 8])
        for wrong in ("0", "33", "two", "-1", "\u00b2"):
            with self.assertRaisesRegex(arch.BadInput, f"VCPUS={wrong}: want numbers"):
                self.numbers(VCPUS=wrong)

    def test_a_machine_has_a_cpu_for_each(self):
        request = guest.Request(arch.load("x86"), arch.load("x86").modes[0], "scale", (), None, None, None, "")
        for vcpus, cpus in ((1, 3), (8, 17), (31, 63), (32, 64)):
            made = scale.with_lockstep(request, vcpus)
            self.assertEqual((made.cpus, made.environment), (cpus, (f"vcpus={vcpus}", "instruction_ns=1")))

    def test_the_guest_has_so_many_cpus(self):
        self.assertIn(f"CONFIG_NR_CPUS={scale.MAX_CPUS}\n", (arch.ROOT / "guest-images" / "kernel.config").read_text())

    def test_time_left(self):
        request = guest.Request(None, None, "scale", (1, 2), None, None, None, "")
        wanted = [scale.with_lockstep(request, n) for n in (2, 2, 6)]
        progress = scale.Progress(wanted)
        self.assertEqual(str(progress), "")
        progress.add(wanted[0], 600)
        self.assertEqual(str(progress), ", some 30 min left")


class Resume(unittest.TestCase):
    META = {"release": "6.12", "cases": ["a"], "host": "one"}

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        (self.directory / "tests.ktap").write_text("KTAP version 1\n1..1\nok 1 a\n# end\n")

    def finished(self, meta, text=None):
        then = json.dumps({**self.META, "verdict": "pass", "seconds": 3.0})
        (self.directory / "meta.json").write_text(then if text is None else text)
        return run.finished_boot(None, self.directory, meta)

    def test_a_boot_that_passed_is_as_it_was(self):
        boot = self.finished({**self.META, "host": "another"})
        self.assertEqual((boot.meta["host"], boot.findings, [r.name for r in boot.outcome.stream.results]), ("one", [], ["a"]))

    def test_a_boot_of_something_else_is_refused(self):
        for key, value in (("release", "6.13"), ("cases", ["a", "b"]), ("quanta", [250])):
            with self.assertRaisesRegex(arch.BadInput, f"another {key}"):
                self.finished({**self.META, key: value})

    def test_what_did_not_pass_is_measured_again(self):
        for text in ("", "{", '{"verdict": "fail"}'):
            self.assertIsNone(self.finished(self.META, text))

    def test_one_at_a_time(self):
        held = run.lock_directory(self.directory)
        with self.assertRaisesRegex(arch.BadInput, "still under way"):
            run.lock_directory(self.directory)
        os.close(held)

    def test_a_directory_of_another_kind(self):
        for name, good in (("20260101-120000-scale", True), ("20260101-120000-scale-2", True), ("20260101-120000-bench", False),
                           ("none-scale", False)):
            path = self.directory / name
            path.mkdir()
            with unittest.mock.patch.dict("os.environ", {"RESUME": str(path)}):
                if good:
                    self.assertEqual(run.check_resume("scale"), path)
                else:
                    with self.assertRaisesRegex(arch.BadInput, "not the directory of a run of make scale"):
                        run.check_resume("scale")


class Cases(unittest.TestCase):
    def test_names_say_what_is_run(self):
        for case in cases.load(arch.ROOT / "bench" / "scale"):
            self.assertEqual((case.name,), case.command[1:])

# SPDX-License-Identifier: GPL-2.0
"""What make scale reads, and what it says of it."""
import pathlib
import tempfile
import types
import unittest

import arch
import cases
import scale
from scale import Point
from verdict import Verdict


class Reading(unittest.TestCase):
    def boot(self, lockstep, bench, cases=("a_2",)):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        for name, text in (("lockstep", lockstep), ("bench.jsonl", bench)):
            pathlib.Path(directory.name, name).write_text(text)
        results = [types.SimpleNamespace(name=name, status="pass") for name in cases]
        return types.SimpleNamespace(directory=pathlib.Path(directory.name), findings=[], meta={},
                                     outcome=types.SimpleNamespace(stream=types.SimpleNamespace(results=results)),
                                     request=types.SimpleNamespace(cpus=4, lockstep=types.SimpleNamespace(quantum=250)))

    RECORD = '{"mode": "a", "vcpus": 2, "pages": 2048}\n'
    END = "end 90000000 quanta=1000 timeouts=10 idle=2000\n"

    def test_a_point(self):
        boot = self.boot(f"mark 0 1000000\nmark 0 9000000\n{self.END}", self.RECORD)
        self.assertEqual(scale.points_of(boot, 2), [Point("a", 2, 250, 256.0)])
        self.assertEqual(boot.meta["lockstep"], {"quantum": 250, "timeouts": 0.01, "idle": 0.5})
        self.assertEqual(boot.findings, [])

    def test_what_is_no_measurement(self):
        marks = "mark 0 1000000\nmark 0 9000000\n"
        for lockstep, bench in ((marks, self.RECORD), ("mark 0 1\n" + self.END, self.RECORD), (marks + self.END, ""),
                                (marks + self.END, "{"), ("mark 0 5\nmark 0 5\n" + self.END, self.RECORD)):
            boot = self.boot(lockstep, bench)
            self.assertEqual(scale.points_of(boot, 2), [])
            self.assertEqual([f.verdict for f in boot.findings], [Verdict.HARNESS])

    def test_one_end_mark_too_many(self):
        boot = self.boot("mark 0 1\nmark 0 2\nmark 0 3\n" + self.END, self.RECORD)
        self.assertEqual(scale.points_of(boot, 2), [])


class Table(unittest.TestCase):
    POINTS = [Point("a", 1, 250, 100.0), Point("a", 1, 500, 99.0), Point("a", 4, 250, 300.0), Point("a", 4, 500, 270.0)]

    def test_figures_of_a_point(self):
        self.assertEqual([f(self.POINTS, "a", 4) for f in (scale.rate, scale.efficiency, scale.error)], [300.0, "75%", "10%"])
        self.assertEqual(scale.efficiency(self.POINTS, "a", 1), "100%")

    def test_a_point_of_one_quantum_has_no_error(self):
        self.assertEqual(scale.error(self.POINTS[:3], "a", 4), "-")

    def test_columns_of_the_published_table(self):
        points = [Point(mode, n, 250, r) for mode, n, r in (("uffd_minor", 8, 50.0), ("fast_minor", 8, 400.0))]
        self.assertEqual(list(scale.ratio_table(points, [8]))[1].split(), ["8", "50", "400", "8.00x", "8.0x", "-", "50"])
        self.assertEqual(scale.load_published()[256], (36, 4012))

    def test_a_screen_of_72_columns(self):
        modes = ("mapped", "uffd_minor", "uffd_minor_sharded", "fast_minor")
        points = [Point(mode, 16, quantum, 123456.0) for mode in modes for quantum in scale.QUANTA]
        for line in scale.table("arm64/nvhe", points):
            self.assertLessEqual(len(line), 74)

    def test_it_says_what_it_is(self):
        self.assertIn("lockstep model", "\n".join(scale.table("x86/npt", self.POINTS)))


class Cases(unittest.TestCase):
    def test_names_say_what_is_run(self):
        for case in cases.load(arch.ROOT / "bench" / "scale"):
            self.assertEqual(case.name, f"{case.command[1]}_{case.command[2]}")

# SPDX-License-Identifier: GPL-2.0
"""What make bench makes of the events of single faults."""
import contextlib
import io
import pathlib
import re
import tempfile
import types
import unittest
import unittest.mock

from ci.facts import arch
from ci.measure import faults as bench
from ci.proof import plants
from ci.measure import plot
from ci.measure import timeline
from ci.measure.faults import Row

PART = "0 mark\n3 page\n4 kernel\n10 fault\n30 guest\n40 page\n41 kernel\n51 fault\n67 guest\n80 page\n81 kernel\n99 mark\n"


class Timeline(unittest.TestCase):
    def path(self, text):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = pathlib.Path(directory.name, "timeline")
        path.write_text(text)
        return path

    def test_points(self):
        points = timeline.load_points("x86", "npt")
        self.assertEqual(points["enter"], ["__svm_vcpu_run"])
        self.assertEqual(timeline.load_points("arm64", "nvhe"), {})
        system_map = self.path("\n".join(f"{0x1000 + 16 * i:x} T {f}" for i, (f, *_) in enumerate(points.values())))
        self.assertEqual(timeline.plugin_arguments(points, system_map)[:2], ("enter=1000:1010", "at=run:1010"))
        with self.assertRaisesRegex(arch.BadInput, "functions that this kernel lacks"):
            timeline.plugin_arguments(points, self.path("1000 T __svm_vcpu_run\n"))
        either = {"enter": ["gone", "__svm_vcpu_run"], "lookup": ["gone", "kvm_arch_vcpu_ioctl_run"]}
        self.assertEqual(timeline.plugin_arguments(either, system_map), ("enter=1000:1010", "at=lookup:1010"))

    def test_every_architecture_has_the_same_points(self):
        points = {tuple(timeline.load_points(name, arch.load(name).modes[0].name)) for name in arch.names()}
        self.assertEqual(len(points), 1)
        self.assertLessEqual(set(*points) - {"enter"}, set(timeline.WORDS))
        self.assertEqual(sorted(event for events in timeline.KINDS.values() for event in events), sorted(timeline.WORDS))

    def test_parts(self):
        parts = timeline.timed_parts(self.path(PART + "0 mark\n7 mark\n"))
        self.assertEqual([len(part) for part in parts], [12, 2])
        self.assertEqual(parts[1], [(0, "mark"), (7, "mark")])

    def test_what_is_no_timeline(self):
        for text in ("0 mark\n3 page\n", "3 page\n", "0 mark\nx page\n9 mark\n", PART + "5"):
            with self.assertRaises(arch.BadInput, msg=text):
                timeline.timed_parts(self.path(text))

    def test_faults(self):
        faults = timeline.faults_of(timeline.timed_parts(self.path(PART))[0])
        self.assertEqual([f.takes for f in faults], [(1, 6, 20, 10), (1, 10, 16, 13)])
        line = timeline.Timeline(faults)
        self.assertEqual(line.stages, [("page", 1, 1), ("kernel", 6, 8), ("fault", 16, 18), ("guest", 10, 11.5)])
        self.assertEqual(line.distribution(), (37, 37, 40, 40))
        self.assertEqual(line.curve(), [(37, 0), (37, 50), (40, 100)])

    def test_the_usual_path(self):
        usual, tick = timeline.Fault(("page",), (5,)), timeline.Fault(("page", "kernel", "guest"), (1, 90, 5))
        line = timeline.Timeline([usual, tick, usual])
        self.assertEqual((line.stages, line.distribution()), ([("page", 5, 5)], (5, 5, 96, 96)))
        self.assertIn("the path of 67 % of fast", next(timeline.stage_table("x86/npt", "fast", line)))

    def test_quantile(self):
        self.assertEqual([timeline.quantile(range(1, 101), share) for share in (0.5, 0.99)], [50, 99])

    def test_adds_up(self):
        part = timeline.timed_parts(self.path(PART))[0]
        # 99 instructions, 3 of them perhaps counted twice, and a tick of the counter more or less
        for tick, ticks, problem in ((1, 100, ""), (1, 95, ""), (1, 94, "by the counter"), (1, 101, "by the counter"),
                                     (16, 5, ""), (16, 7, ""), (16, 4, "by the counter"), (16, 8, "by the counter")):
            batches = [{"ticks": 1, "pages": 3}] + [{"ticks": ticks, "pages": 3}] * 2
            said = bench.check_timeline([part] * 2, batches, tick)
            self.assertIn(problem, said)
            self.assertEqual(bool(problem), bool(said))

    def boot(self, text, cases=("mapped",), wanted=("mapped",)):
        path = self.path(text)
        records = ['{"mode": "mapped", "calibration": 1, "ticks": 1, "hz": 1000000000}'] + 8 * [
            '{"mode": "mapped", "pages": 3, "exits": 3, "planted": 0, "ticks": 98}']
        (path.parent / "bench.jsonl").write_text("\n".join(records))
        results = [types.SimpleNamespace(name=name, status="pass") for name in cases]
        stream = types.SimpleNamespace(results=results)
        return types.SimpleNamespace(directory=path.parent, findings=[], outcome=types.SimpleNamespace(stream=stream),
                                     request=types.SimpleNamespace(cases=wanted))

    def test_of_a_boot(self):
        boot = self.boot(PART * 2)
        self.assertEqual(len(bench.read_timelines(boot)["mapped"].faults), 4)
        self.assertEqual(boot.findings, [])
        for text, cases in ((PART, ("mapped",)), (PART * 2, ("mapped", "other")), ("", ("mapped",)),
                            (PART.replace("99 mark", "199 mark") * 2, ("mapped",)),
                            (PART.replace("guest", "user") * 2, ("mapped",))):
            boot = self.boot(text, cases)
            self.assertEqual(bench.read_timelines(boot), {})
            self.assertEqual(len(boot.findings), 1)
        boot = self.boot(PART, wanted=("mapped", "failed"))
        self.assertEqual((bench.read_timelines(boot), boot.findings), ({}, []))

    def test_merit(self):
        rows = [Row(mode, price, 0, 0) for mode, price in
                (("mapped", 10), ("empty_exit", 20), ("uffdio_continue", 30), ("fast_minor", 90))]
        self.assertEqual(list(bench.merit_lines({"x86/npt": rows})),
                         ["x86/npt: fast_minor is 1.50 x (empty_exit + uffdio_continue + mapped = 60)"])
        self.assertEqual(list(bench.merit_lines({"x86/npt": rows[1:]})), [])


class Pictures(unittest.TestCase):
    def script(self, function, *arguments):
        with unittest.mock.patch("ci.measure.plot.draw") as draw:
            function("a", *arguments)
        return draw.call_args[0][2]

    def test_every_curve_is_drawn(self):
        found = {f"mode_{i}": [(1, i)] for i in range(12)}
        script = self.script(plot.curves, {"x86/npt": {**found, "empty": []}}, "x", "y", "", pathlib.Path())
        for label in found:
            self.assertIn(plot.quoted(label), script)
        self.assertNotIn("empty", script)
        self.assertEqual(len(set(re.findall(r"lc rgb \S+ dt \d", script))), 12)

    def test_every_part_of_a_stack_is_drawn(self):
        script = self.script(plot.stacks, {"x86/npt": {"a": {"one": 1, "two": 2}}}, ["one", "two"], "y", pathlib.Path())
        self.assertIn('"a" 1.0 2.0', script)
        with self.assertRaises(ValueError):
            self.script(plot.stacks, {"x86/npt": {"a": {}}}, list("abcdefghi"), "y", pathlib.Path())

    def test_no_picture_is_a_failure_but_not_the_first(self):
        def fails():
            raise arch.BadInput("no")
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual([plot.afterwards(status, fails) for status in (0, 1)], [2, 1])
        self.assertEqual(plot.afterwards(0, lambda: None), 0)


class Plants(unittest.TestCase):
    def test_all_of_ours_can_be_read(self):
        for base in (arch.ROOT / "kernel-patches" / "plants").iterdir():
            for plant in plants.load_all(base.name):
                self.assertTrue(set(plant.archs) <= set(arch.names()), plant.name)

    def test_what_cannot_be_tried(self):
        for head in ("Arch: x86", "Arch: x86\nBench: fast_minor", "Arch: x86\nScale: a 4 80\nBench: a 1", "Bench: a 1"):
            with tempfile.TemporaryDirectory() as directory, self.assertRaises(arch.BadInput, msg=head):
                path = pathlib.Path(directory, "a.patch")
                path.write_text(f"It is slow.\n\n{head}\n\ndiff --git a/a b/a\n")
                plants.load(path)

    def test_seen(self):
        plant = plants.Plant("a", ("x86",), "Bench", "fast", (200,), pathlib.Path())
        self.assertEqual([plants.judge(plant, 1000, 1000 + n)[0] for n in (0, 195, 196, 204, 205)],
                         [False, False, True, True, False])
        plant = plants.Plant("a", ("x86",), "Scale", "fast", (4, 8000), pathlib.Path())
        # (8000 + 8000) / (4 * 8000) of four times 62.5 pages
        self.assertEqual([plants.judge(plant, (125, 490), (62.5, rate))[0] for rate in (125, 140, 245, 90)],
                         [True, True, False, False])


if __name__ == "__main__":
    unittest.main()

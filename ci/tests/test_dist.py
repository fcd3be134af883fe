# SPDX-License-Identifier: GPL-2.0
"""What goes to other machines: the report, and that the scripts are of any shell."""
import importlib.machinery
import importlib.util
import json
import subprocess
import tempfile
import unittest

from ci.facts.arch import ROOT

DIST = ROOT / "bench" / "dist"
HOST = {"host": "Linux", "cpu": "a", "cpus": "4", "pinned": "", "repeats": 2}


def load_report():
    loader = importlib.machinery.SourceFileLoader("report", str(DIST / "report"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("report", loader))
    exec(compile((DIST / "report").read_text(), "report", "exec"), module.__dict__)  # leaves no __pycache__ behind
    return module


class Report(unittest.TestCase):
    def read(self, records):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as stream:
            stream.write("\n".join(map(json.dumps, records)) + "\n")
            stream.flush()
            return load_report().read(stream.name)

    def repeat(self, slope):
        return [{"mode": "a", "calibration": 1, "ticks": 1, "hz": 1}] + [
            {"mode": "a", "pages": pages, "ns": 500 + slope * pages} for pages in (100, 300, 300, 100)]

    def test_price_and_rate(self):
        run, = self.read([HOST, *self.repeat(7), *self.repeat(7), {"mode": "b", "vcpus": 2, "pages": 2048, "ns": 1024000}])
        self.assertEqual((run.prices(), dict(run.rates)), ({"a": [7, 7]}, {("b", 2): [2000]}))

    def test_two_runs_are_not_pooled(self):
        self.assertEqual([run.prices() for run in self.read([HOST, *self.repeat(7), HOST, *self.repeat(9)])], [{"a": [7]}, {"a": [9]}])

    def test_a_repeat_that_was_cut_off(self):
        run, = self.read([HOST, *self.repeat(7), *self.repeat(9)[:2]])
        self.assertEqual(run.prices(), {"a": [7]})

    def test_what_is_no_record(self):
        for record in ({"mode": "a", "pages": 1, "ns": 1}, {"mode": "b", "vcpus": 2, "pages": 1, "ns": 0}, {}):
            with self.assertRaisesRegex(SystemExit, "not a record of run-bench"):
                self.read([HOST, record])


class Scripts(unittest.TestCase):
    def test_syntax(self):
        for name in ("run-bench", "run-tests"):
            subprocess.run(["sh", "-n", str(DIST / name)], check=True)

    def test_bad_input_is_one_line(self):
        for argv, said in ((["--json"], "wants a value"), (["-x"], "unknown option"), (["-n", "0"], "number of repeats"),
                           (["-v", "x"], "numbers of vCPUs"), (["-c", "0-1,7"], "CPUs are needed")):
            done = subprocess.run([str(DIST / "run-bench"), *argv], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), argv)
            self.assertIn(said, done.stderr)


if __name__ == "__main__":
    unittest.main()

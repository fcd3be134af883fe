# SPDX-License-Identifier: GPL-2.0
"""What goes to other machines: the report, and that the scripts are of any shell."""
import importlib.machinery
import importlib.util
import json
import subprocess

import pytest

from ci.facts.arch import ROOT

DIST = ROOT / "bench" / "dist"
HOST = {"host": "Linux", "cpu": "a", "cpus": "4", "pinned": "", "repeats": 2}


def load_report():
    loader = importlib.machinery.SourceFileLoader("report", str(DIST / "report"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("report", loader))
    # Not by the loader, which would leave a __pycache__ behind
    exec(compile((DIST / "report").read_text(), "report", "exec"), module.__dict__)
    return module


@pytest.fixture(name="read")
def fixture_read(tmp_path):
    def read(*records):
        (tmp_path / "bench.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
        return load_report().read(str(tmp_path / "bench.jsonl"))
    return read


def repeat(slope):
    return [{"mode": "a", "calibration": 1, "ticks": 1, "hz": 1}] + [
        {"mode": "a", "pages": pages, "ns": 500 + slope * pages} for pages in (100, 300, 300, 100)]


def test_price_and_rate(read):
    run, = read(HOST, *repeat(7), *repeat(7),
                {"mode": "b", "vcpus": 2, "pages": 2048, "ns": 1024000})
    assert run.prices() == {"a": [7, 7]}
    assert dict(run.rates) == {("b", 2): [2000]}


def test_two_runs_are_not_pooled(read):
    runs = read(HOST, *repeat(7), HOST, *repeat(9))
    assert [run.prices() for run in runs] == [{"a": [7]}, {"a": [9]}]


def test_a_repeat_that_was_cut_off(read):
    run, = read(HOST, *repeat(7), *repeat(9)[:2])
    assert run.prices() == {"a": [7]}


@pytest.mark.parametrize("record", [{"mode": "a", "pages": 1, "ns": 1},
                                    {"mode": "b", "vcpus": 2, "pages": 1, "ns": 0}, {}])
def test_what_is_no_record(read, record):
    with pytest.raises(SystemExit, match="not a record of run-bench"):
        read(HOST, record)


@pytest.mark.parametrize("name", ["run-bench", "run-tests"])
def test_syntax(name):
    subprocess.run(["sh", "-n", str(DIST / name)], check=True)


@pytest.mark.parametrize("argv, said", [
    (["--json"], "wants a value"), (["-x"], "unknown option"),
    (["-n", "0"], "number of repeats"), (["-v", "x"], "numbers of vCPUs"),
    (["-c", "0-1,7"], "CPUs are needed")])
def test_bad_input_is_one_line(argv, said):
    done = subprocess.run([str(DIST / "run-bench"), *argv], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr

# SPDX-License-Identifier: GPL-2.0
"""table.json and its text: ci/measure/tables.py.

The texts are what the commands printed before there was a table.json: README and results/ quote
tables of this layout.
"""
import json
import pathlib
import re
import types
from fractions import Fraction
from typing import Any

import pytest

from ci.facts import cases
from ci.measure import contention, faults, scaling, tables
from ci.measure.faults import Row
from ci.measure.scaling import Point, Rates
from ci.measure.timeline import Fault, Timeline

BENCH = """\
instructions per fault, one vCPU, counted under QEMU icount
                             x86/npt range   peer arm64/vhe range   peer
mapped                            10     0                -     -
empty_exit                        20     0                -     -
uffdio_continue                   30     0                -     -
uffd_minor_sharded               200     0                -     -
fast_minor                       100     1  1.99x        30     2

x86/npt: fast_minor is 1.68 x (empty_exit + uffdio_continue + mapped = 60)

x86/npt: instructions of single faults, counted in QEMU
                            faults     min  median     p99     max
fast_minor                       4     670     670    5002    5002

arm64/vhe: no timeline
"""
STAGES = """\
x86/npt: the path of 75 % of fast_minor's faults, instructions from one event to the next
  median    mean
       2       2  guest: the access
     651     651  kernel: entered
      17      17  odd
     670     671  total
"""
SCALE = """\
x86/npt: pages per million instructions of critical path, all vCPUs
lockstep model: serialisation only, no caches, no coherence
rate; vCPUs:                        1      8
uffd_minor                         66    427
fast_minor                         99    757

% of as many single vCPUs:          1      8
uffd_minor                        100     80
fast_minor                        100     96

error in %: quanta/boots            1      8
uffd_minor                          4 23/13!
fast_minor                          -      -

vCPUs  without   with   ratio  published  vs sharded  per vCPU, with
    1       66     99   1.49x       2.3x           -              99
    8      427    757   1.77x       8.0x           -              95

rate: with a quantum of 250 instructions, mean over the boots.  Error:
of the method, which is what a quantum of 500 gives instead, and the
range over 2 boots, "!" above 3 %.  Of vCPUs that overlap, efficiency is
in single vCPUs' rate.  Time-outs: at most 0.026 % of quanta; idle CPUs:
52 to 66 %.  published: by its authors, on x86 hardware, 2023
(bench/published); only the ratio can be compared
"""
PROFILE = """\
arm64/vhe, 16 vCPUs, 6.12.117
fast_minor, events of a fault:
     1.00  kvm:kvm_userspace_exit
     2.05  kvm:kvm_exit
  code sampled at the end of each quantum (lockstep model):
     36.0 %  spinlock code, called from __wake_up
      1.8 %  mt_find
  KVM's exits (perf kvm stat; ignore the times):
     VM-EXIT  Samples
    IRQ 0
    IRQ 1
    IRQ 2
    IRQ 3
    IRQ 4
    IRQ 5
    IRQ 6
  contended locks, start and end of the program included (perf lock contention):
    contended  total wait
    2424  5.74 s
"""


def stored(document: tables.Document) -> tables.Document:
    """As it is read back."""
    found: tables.Document = json.loads(json.dumps(document))
    return found


def row(mode: str, price: float, spread: int = 0) -> Row:
    return Row(mode, Fraction(price), Fraction(spread), 0)


def lockstep(boot: int, timeouts: float, idle: float) -> Any:
    return types.SimpleNamespace(meta={"lockstep": {"vcpus": 1, "boot": boot, "timeouts": timeouts,
                                                    "idle": idle}})


def scale(points: list[Point]) -> tables.Document:
    boots = [lockstep(1, 0.00026, 0.52), lockstep(2, 0.0001, 0.66)]
    return stored(tables.document("scale", [], [Rates(points).machine("x86/npt")],
                                  method=scaling.method(boots)))


def test_bench() -> None:
    x86 = [row("mapped", 10), row("empty_exit", 20), row("uffdio_continue", 30),
           row("uffd_minor_sharded", 200), row("fast_minor", 100.5, 1)]
    path = ("page", "kernel", "odd")
    usual, more = Fault(path, (2, 651, 17)), Fault(path, (2, 652, 18))
    tick = Fault(("page", "kernel"), (2, 5000))
    lines = {"fast_minor": Timeline([usual, tick, usual, more])}
    found = stored(tables.document("bench", [], [
        faults.machine("x86/npt", x86, lines),
        faults.machine("arm64/vhe", [row("fast_minor", 30, 2)], {})]))
    assert tables.render(found) == BENCH
    assert tables.stages(found) == STAGES


def test_scale() -> None:
    points = [("uffd_minor", 1, 250, 66.4), ("uffd_minor", 1, 500, 64.0),
              ("uffd_minor", 8, 250, 454.0), ("uffd_minor", 8, 250, 400.0),
              ("uffd_minor", 8, 500, 330.0), ("fast_minor", 1, 250, 99.0),
              ("fast_minor", 8, 250, 757.0)]
    assert tables.render(scale([Point(*point) for point in points])) == SCALE


def test_profile() -> None:
    counts = ['{"mode": "fast_minor", "vcpus": 2, "pages": 180, "warm": 20, "ns": 5}',
              "212 kvm:kvm_userspace_exit 900 100.00", "410 kvm:kvm_exit 900 100.00"]
    perf = contention.read_perf("\n".join([
        "== counts", *counts, "== exits", " VM-EXIT  Samples ", "",
        *(f"IRQ {i}" for i in range(9)), "== locks", "", "contended  total wait", "2424  5.74 s",
        "== stacks", "a 1"]))
    hot = [{"function": "spinlock code, called from __wake_up", "share": 36.0},
           {"function": "mt_find", "share": 1.8}]
    machine = {"name": "arm64/vhe", "vcpus": 16, "release": "6.12.117",
               "modes": [perf.row("fast_minor", hot)]}
    assert tables.render(stored(tables.document("profile", [], [machine]))) == PROFILE


@pytest.mark.parametrize("command", ("bench", "scale", "profile"))
def test_nothing_measured_is_no_table(command: str) -> None:
    empty = [faults.machine("x86/npt", [], {})] if command == "bench" else []
    found = tables.document(command, [], empty, method=scaling.method([]))
    assert tables.render(found) == ""


def test_a_document_says_what_was_measured(tmp_path: pathlib.Path) -> None:
    metas = [{"base": "v6.12", "release": "6.12", "compiler": "gcc 12", "qemu": "QEMU 7"},
             {"release": "later"}]
    boots: list[Any] = [types.SimpleNamespace(request=types.SimpleNamespace(name="x86/npt"),
                                              meta=meta) for meta in metas]
    found = tables.document("bench", boots, [])
    (identity,) = found["identity"]
    assert identity == {**metas[0], "name": "x86/npt", "series_sha256": None,
                        "initramfs_sha256": None}
    assert (found["unit"], found["label"]) == ("instructions per fault", "exact count")
    assert tables.identity_lines(found) == ["x86/npt: 6.12, gcc 12, QEMU 7"]


@pytest.mark.parametrize("error, spread, cell", (
    (1.0, None, "1"), (10.0, 10 / 3, "10/3!"), (0.0, 3.0, "0/3"), (None, 3.1, "-/3!")))
def test_a_point_whose_boots_differ_says_so(error: float | None, spread: float | None,
                                            cell: str) -> None:
    found = scale([Point("a", 1, 250, 1.0)])
    found["machines"][0]["rates"][0] |= {"error": error, "spread": spread}
    (line,) = re.findall(r"^error in %: .*\n(.*)$", tables.render(found), re.MULTILINE)
    assert line.split() == ["a", cell]


def test_a_screen_of_72_columns() -> None:
    modes = [case.command[1] for case in cases.load(cases.FILES["scale"])]
    points = [Point(mode, n, quantum, 23456.0) for mode in modes for n in (1, 2, 4, 8, 16, 32)
              for quantum in scaling.QUANTA]
    assert max(map(len, tables.render(scale(points)).splitlines())) <= 72


def test_a_model_says_so() -> None:
    assert "lockstep model" in tables.render(scale([Point("a", 1, 250, 1.0)]))

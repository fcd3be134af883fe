#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure what one more fault costs, in instructions, and print one table.

usage: bench.py ARCH...    (what make bench calls; knobs: see run.py)

Exit status: ci/verdict.py has the list.
"""
import fractions
import json
import sys

import run
from arch import BadInput
from verdict import Finding, Verdict

# The loop of known length has a few instructions around it.
CALIBRATION_ERROR = fractions.Fraction(1, 10000)


def read_numbers(path):
    """The JSON lines of a boot, by mode: (calibrations, batches)."""
    modes = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            calibrations, batches = modes.setdefault(record["mode"], ([], []))
            (calibrations if "calibration" in record else batches).append(record)
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}:{number}: not a record of fault_bench: {line}") from None
    return modes


def check_calibration(records, tick):
    """Ticks must be instructions; if not, say by how much."""
    for record in records:
        counted, known = record["ticks"] * tick, record["calibration"]
        if abs(counted - known) > known * CALIBRATION_ERROR:
            return f"{known} instructions took {counted} by the counter: not exact, not reported"
    return "" if records else "no calibration: not reported"


def price(batches, tick):
    """Instructions per fault: the slope between the two sizes of batch, as a Fraction.

    Returns (price, spread): spread is the difference between the dearest and the
    cheapest pair of one small and one large batch.
    """
    pairs = list(zip(batches[::2], batches[1::2]))
    slopes = [fractions.Fraction((large["ticks"] - small["ticks"]) * tick,
                                 large["pages"] - small["pages"]) for small, large in pairs]
    return sum(slopes) / len(slopes), max(slopes) - min(slopes)


def measure(boot):
    """One row a mode: (name, price, spread).  Problems become findings of the boot."""
    tick = boot.request.arch.icount_tick
    modes = read_numbers(boot.directory / "bench.jsonl")
    for case in boot.request.cases:
        if case.name not in {r.name for r in boot.outcome.stream.results if r.status == "pass"}:
            continue
        calibrations, batches = modes.get(case.name, ([], []))
        problem = check_calibration(calibrations, tick)
        if not problem and (not batches or len(batches) % 2):
            problem = f"{len(batches)} batches in bench.jsonl, want pairs"
        if problem:
            boot.findings.append(Finding(Verdict.HARNESS, case.name, problem, "bench.jsonl"))
        else:
            yield (case.name, *price(batches, tick))


def peer(name):
    """The row that a row is compared with: the same kind of fault, one userfaultfd."""
    kind = name.split("_")[1] if "_" in name else ""
    return f"uffd_{kind}" if name != f"uffd_{kind}" and kind else ""


def table(rows):
    """rows: {arch: [(mode, price, spread)]}.  Returns the lines of the table."""
    names = list(dict.fromkeys(name for measured in rows.values() for name, _, _ in measured))
    yield "instructions per fault, one vCPU, exact count under QEMU icount"
    yield f"{'':22}" + "".join(f"{arch:>10} {'spread':>7} {'vs one uffd':>12}" for arch in rows)
    for name in names:
        line = f"{name:22}"
        for measured in rows.values():
            prices = {n: (p, s) for n, p, s in measured}
            cost, spread = prices.get(name, (None, None))
            other = prices.get(peer(name), (None,))[0]
            line += f"{'-' if cost is None else round(cost):>10} " \
                    f"{'-' if cost is None else round(spread):>7} " \
                    f"{'' if other is None or cost is None else f'{float(other / cost):.2f}x':>12}"
        yield line.rstrip()


def bench(archs):
    this, rows = None, {}
    requests = run.requests(archs, "bench", default_mode=True, icount=True, cpus=1)
    this = run.Run("bench")
    try:
        for request in requests:
            rows[request.arch.name] = list(measure(this.boot(request)))
    finally:
        text = "\n".join(table(rows)) + "\n"
        (this.directory / "table.txt").write_text(text)
        if any(rows.values()):
            print("\n" + text)
        for boot in this.boots:
            run.save_verdict(boot)
        status = this.summary()
    return status


if __name__ == "__main__":
    sys.exit(run.main(bench, sys.argv[1:]))

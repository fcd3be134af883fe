#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure what one more fault costs, in instructions, and print one table.

usage: bench.py [--plan] ARCH...    (what make bench calls; knobs: see run.py)

--plan: only say what would run, or what is wrong with the knobs.

Exit status: ci/verdict.py has the list.
"""
import dataclasses
import fractions
import json
import sys

import run
from arch import BadInput
from verdict import Finding, Verdict

# The loop of known length has a few instructions around it.
CALIBRATION_ERROR = fractions.Fraction(1, 10000)
# What a record must have, besides its mode
CALIBRATION = ("calibration", "ticks", "hz")
BATCH = ("pages", "planted", "ticks")
# Of batches for each mode: ROUNDS in bench/fault_bench.c.
PAIRS = 4


def read_numbers(path):
    """The JSON lines of a boot, by mode: (calibrations, batches)."""
    modes = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            calibrations, batches = modes.setdefault(record["mode"], ([], []))
            keys, kind = (CALIBRATION, calibrations) if "calibration" in record else (BATCH, batches)
            kind.append({key: int(record[key]) for key in keys})
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}:{number}: not a record of fault_bench: {line}") from None
    return modes


def instructions_per_tick(calibrations):
    """Under icount an instruction is a nanosecond."""
    return fractions.Fraction(1000000000, calibrations[0]["hz"]) if calibrations else 0


def check_calibration(records, tick):
    """Ticks must be instructions; if not, say by how much."""
    for record in records:
        counted, known = record["ticks"] * tick, record["calibration"]
        if abs(counted - known) > known * CALIBRATION_ERROR:
            return f"{known} instructions took {float(counted):.0f} by the counter: not exact, not reported"
    return "" if records else "no calibration: not reported"


def price(batches, tick):
    """Instructions per fault: the slope between the two sizes of batch, as a Fraction.

    Returns (price, spread): spread is the difference between the dearest and the
    cheapest pair of one small and one large batch.
    """
    pairs = [sorted(pair, key=lambda b: b["pages"]) for pair in zip(batches[::2], batches[1::2])]
    slopes = [fractions.Fraction((large["ticks"] - small["ticks"]) * tick,
                                 large["pages"] - small["pages"]) for small, large in pairs]
    return sum(slopes) / len(slopes), max(slopes) - min(slopes)


def check_batches(batches):
    sizes = [tuple(sorted((a["pages"], b["pages"]))) for a, b in zip(batches[::2], batches[1::2])]
    if len(batches) != 2 * PAIRS or len(set(sizes)) != 1 or sizes[0][0] == sizes[0][1]:
        return f"{len(batches)} batches in bench.jsonl, want {PAIRS} pairs of a small and a large one"
    return ""


@dataclasses.dataclass(frozen=True)
class Row:
    mode: str
    price: fractions.Fraction   # instructions per fault
    spread: fractions.Fraction
    planted: int                # instructions that the benchmark added to each fault


def measure(boot):
    """One Row a mode.  Problems become findings of the boot."""
    try:
        modes = read_numbers(boot.directory / "bench.jsonl")
    except BadInput as error:
        boot.findings.append(Finding(Verdict.HARNESS, "", str(error), "bench.jsonl"))
        return []
    passed = {r.name for r in boot.outcome.stream.results if r.status == "pass"}
    rows = []
    for case in boot.request.cases:
        if case.name not in passed:
            continue
        calibrations, batches = modes.get(case.name, ([], []))
        tick = instructions_per_tick(calibrations)
        problem = check_calibration(calibrations, tick) or check_batches(batches)
        if problem:
            boot.findings.append(Finding(Verdict.HARNESS, case.name, problem, "bench.jsonl"))
        else:
            rows.append(Row(case.name, *price(batches, tick), batches[0]["planted"]))
    boot.findings += check_planted(rows)
    return [row for row in rows if not row.planted]


def check_planted(rows):
    """A known cost must be found again, as large as it is, within the spread."""
    prices = {row.mode: row for row in rows}
    for row in rows:
        plain = prices.get(row.mode.removesuffix("_planted"))
        if row.planted and plain:
            found, error = row.price - plain.price, row.spread + plain.spread
            if abs(found - row.planted) > error:
                yield Finding(Verdict.HARNESS, row.mode, f"{row.planted} instructions were planted, "
                              f"{float(found):.0f} were found (spread {float(error):.0f})", "bench.jsonl")


def peer(mode):
    """The row that a row is compared with: the same kind of fault, a userfaultfd per vCPU."""
    return f"uffd_{mode.split('_')[1]}_sharded" if "_" in mode else ""


def cells(row, rows):
    if row is None:
        return f"{'-':>12} {'-':>7} {'':>11}"
    other = next((r for r in rows if r.mode == peer(row.mode) and r is not row), None)
    ratio = f"{float(other.price / row.price):.2f}x" if other else ""
    return f"{round(row.price):>12} {round(row.spread):>7} {ratio:>11}"


def table(columns):
    """columns: {name of a boot: [Row]}.  Yields the lines of the table."""
    modes = list(dict.fromkeys(row.mode for rows in columns.values() for row in rows))
    yield "instructions per fault, one vCPU, counted under QEMU icount"
    yield f"{'':22}" + "".join(f"{name:>12} {'spread':>7} {'vs sharded':>11}" for name in columns)
    for mode in modes:
        line = "".join(cells(next((r for r in rows if r.mode == mode), None), rows)
                       for rows in columns.values())
        yield f"{mode:22}{line}".rstrip()


def bench(archs):
    if archs[:1] == ["--plan"]:
        return run.show_plan(run.plan(archs[1:], "bench", default_mode=True, icount=True))
    rows = {}
    requests = list(run.requests(archs, "bench", default_mode=True, icount=True))
    this = run.Run("bench")
    try:
        for request in requests:
            rows[request.name] = measure(this.boot(request))
    finally:
        status = this.finish("\n".join(table(rows)) + "\n" if any(rows.values()) else "")
    return status


if __name__ == "__main__":
    sys.exit(run.main(bench, sys.argv[1:]))

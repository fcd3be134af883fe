# SPDX-License-Identifier: GPL-2.0
"""Measure what one more fault costs, in instructions, and where they go.

usage: bench.py [--plan] ARCH...    (what make bench calls; knobs: see run.py)

--plan: only say what would run, or what is wrong with the knobs.

Exit status: ci/judge/verdict.py has the list.
"""
import dataclasses
import fractions
import json
import re
import sys

from ci.measure import plot
from ci.judge import results as run
from ci.measure import timeline
from ci.facts.arch import BadInput
from ci.judge.verdict import Finding, Verdict

# The loop of known length has a few instructions around it.
CALIBRATION_ERROR = fractions.Fraction(1, 10000)
# What a record must have, besides its mode
CALIBRATION = ("calibration", "ticks", "hz")
BATCH = ("pages", "exits", "planted", "ticks")
# Of batches for each mode: ROUNDS in bench/fault_bench.c.
PAIRS = 4
# Of them, those that are written down event by event: the last pair.
TIMED_PARTS = 2
# A kind of fault, by who delivers it
DELIVERED = re.compile(r"(?:uffd|sigbus|fast)_(missing|minor)(?:_sharded)?((?:_[a-z]+)?)")
# A fault that userspace resolves can't do without these: KVM_RUN returns and is called
# again, the page is provided, and KVM maps it.
FLOORS = {"fast_missing": ("empty_exit", "uffdio_copy", "mapped"),
          "fast_minor": ("empty_exit", "uffdio_continue", "mapped")}
# The pictures have these, since they can be told apart; the tables have all.
PICTURED = ("mapped", "empty_exit", "uffd_missing", "uffd_missing_sharded", "sigbus_missing", "fast_missing",
            "uffd_minor", "uffd_minor_sharded", "sigbus_minor", "fast_minor")


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
    match = DELIVERED.fullmatch(mode)
    return f"uffd_{match[1]}_sharded{match[2]}" if match else ""


def cells(row, rows):
    if row is None:
        return f"{'-':>10}{'-':>6}{'':>7}"
    other = next((r for r in rows if r.mode == peer(row.mode) and r is not row), None)
    ratio = f"{float(other.price / row.price):.2f}x" if other else ""
    return f"{round(row.price):>10}{round(row.spread):>6}{ratio:>7}"


def table(columns):
    """columns: {name of a boot: [Row]}.  Yields the lines of the table."""
    modes = list(dict.fromkeys(row.mode for rows in columns.values() for row in rows))
    yield "instructions per fault, one vCPU, counted under QEMU icount"
    yield f"{'':26}" + "".join(f"{name:>10}{'range':>6}{'peer':>7}" for name in columns)
    for mode in modes:
        line = "".join(cells(next((r for r in rows if r.mode == mode), None), rows)
                       for rows in columns.values())
        yield f"{mode:26}{line}".rstrip()


def merit_lines(columns):
    """How far each fast mode is from the sum of its parts."""
    for name, rows in columns.items():
        prices = {row.mode: row.price for row in rows}
        for mode, parts in FLOORS.items():
            if {mode, *parts} <= set(prices):
                floor = sum(prices[part] for part in parts)
                yield f"{name}: {mode} is {float(prices[mode] / floor):.2f} x ({' + '.join(parts)} = {round(floor)})"


def check_timeline(parts, batches, tick):
    """The events must add up to what the guest's own counter says."""
    for part, batch in zip(parts, batches[-TIMED_PARTS:]):
        counted, known = part[-1][0], batch["ticks"] * tick
        # arm64's counter ticks once in 16 instructions: where in the first and the last tick
        # it was read, nobody knows.
        error = known * CALIBRATION_ERROR + tick
        # An instruction that faults is counted twice, and then the kernel runs.
        repeated = sum(event == "kernel" for _, event in part)
        if not -error <= counted - known <= repeated + error:
            return (f"{batch['pages']} pages took {counted} instructions by the timeline, "
                    f"{float(known):.0f} by the counter")
    return ""


def read_timelines(boot):
    """{mode: Timeline} of the modes in which a guest accesses pages.  Problems become findings."""
    found = {}
    try:
        modes = read_numbers(boot.directory / "bench.jsonl")
        parts = timeline.timed_parts(boot.directory / "timeline")
        passed = [r.name for r in boot.outcome.stream.results if r.status == "pass"]
        if len(passed) < len(boot.request.cases):
            return {}  # one that failed may have left events; its verdict says enough
        if len(parts) != TIMED_PARTS * len(passed):
            raise BadInput(f"{len(passed)} cases passed, with {len(parts)} timed parts")
        for i, mode in enumerate(passed):
            mine, (calibrations, batches) = parts[TIMED_PARTS * i:TIMED_PARTS * (i + 1)], modes[mode]
            problem = check_timeline(mine, batches, instructions_per_tick(calibrations))
            if problem:
                raise BadInput(f"{mode}: {problem}")
            faults = [fault for part in mine for fault in timeline.faults_of(part)]
            if any("guest" not in fault.path for fault in faults):
                raise BadInput(f"{mode}: bench/points: \"enter\" was not seen to end in the guest")
            if faults and not batches[0]["planted"]:
                found[mode] = timeline.Timeline(faults)
    except (BadInput, OSError, KeyError) as error:
        boot.findings.append(Finding(Verdict.HARNESS, "", f"no timeline: {error}", "timeline"))
    return found


def with_timeline(request):
    points = timeline.load_points(request.arch.name, request.mode.name)
    if not points:
        return request
    return dataclasses.replace(request, timeline=timeline.plugin_arguments(points, request.kernel.with_suffix(".map")))


def tables(rows, timelines):
    """What is printed: the prices, what they are made of, and how they vary."""
    yield "\n".join(table(rows))
    yield "\n".join(merit_lines(rows))
    for name, found in timelines.items():
        yield "\n".join(timeline.distribution_table(name, found) if found else [f"{name}: no timeline"])


def write_stages(directory, timelines):
    text = "\n\n".join("\n".join(timeline.stage_table(name, mode, line))
                       for name, found in timelines.items() for mode, line in found.items())
    (directory / "stages.txt").write_text(text + "\n")


def draw(directory, timelines):
    timelines = {name: {mode: line for mode, line in found.items() if mode in PICTURED} for name, found in timelines.items()}
    timelines = {name: found for name, found in timelines.items() if found}
    if timelines:
        plot.curves("latency", {name: {mode: line.curve() for mode, line in found.items()} for name, found in timelines.items()},
                    "instructions of one fault", "per cent of the faults",
                    "set logscale x 2\nset xtics rotate by -35\nset key bottom right", directory, "steps")
        plot.stacks("stages", {name: {mode: line.kinds() for mode, line in found.items()} for name, found in timelines.items()},
                    list(timeline.KINDS), "instructions of one fault, by the event they follow", directory)


def bench(archs):
    plot.check()
    if archs[:1] == ["--plan"]:
        return run.show_plan(run.plan(archs[1:], "bench", default_mode=True, icount=True))
    rows, timelines = {}, {}
    requests = [with_timeline(r) for r in run.requests(archs, "bench", default_mode=True, icount=True)]
    this = run.Run("bench")
    try:
        for request in requests:
            boot = this.boot(request)
            rows[request.name] = measure(boot)
            timelines[request.name] = read_timelines(boot) if request.timeline else {}
    finally:
        write_stages(this.directory, timelines)
        text = "\n\n".join(filter(None, tables(rows, timelines)))
        status = this.finish(text + "\n" if any(rows.values()) else "")
    return plot.afterwards(status, draw, this.directory, timelines)


if __name__ == "__main__":
    sys.exit(run.main(bench, sys.argv[1:]))

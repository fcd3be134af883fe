# SPDX-License-Identifier: GPL-2.0
"""make bench: what one more fault costs, in instructions, and where they go."""
import dataclasses
import json
import operator
import pathlib
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from ci.boot import request as request_
from ci.boot.request import Request
from ci.build import images
from ci.config import Config
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run
from ci.measure import plot, tables, timeline
from ci.measure.timeline import Timeline

# A loop of known length calibrates the counter; it has a few instructions around it.
CALIBRATION_ERROR = Fraction(1, 10000)
# What a record must have, besides its mode
CALIBRATION = ("calibration", "ticks", "hz")
BATCH = ("pages", "exits", "planted", "ticks")
# Of batches for each mode: ROUNDS in bench/fault_bench.c.
PAIRS = 4
# The last pair is written down event by event.
TIMED_PARTS = 2
# A kind of fault, by who delivers it
DELIVERED = re.compile(r"(?:uffd|sigbus|fast)_(missing|minor)(?:_sharded)?((?:_[a-z]+)?)")
# A fault that userspace resolves needs all of these: KVM_RUN returns and is called again, the
# page is provided, and KVM maps it.
FLOORS = {"fast_missing": ("empty_exit", "uffdio_copy", "mapped"),
          "fast_minor": ("empty_exit", "uffdio_continue", "mapped")}
# The pictures have these, since they can be told apart; the tables have all.
PICTURED = ("mapped", "empty_exit", "uffd_missing", "uffd_missing_sharded", "sigbus_missing",
            "fast_missing", "uffd_minor", "uffd_minor_sharded", "sigbus_minor", "fast_minor")
Record = dict[str, int]
Timelines = dict[str, Timeline]   # by mode


def read_numbers(path: pathlib.Path) -> dict[str, tuple[list[Record], list[Record]]]:
    """The JSON lines of a boot, by mode: (calibrations, batches)."""
    modes: dict[str, tuple[list[Record], list[Record]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            kind, keys = (0, CALIBRATION) if "calibration" in record else (1, BATCH)
            of_mode = modes.setdefault(record["mode"], ([], []))
            of_mode[kind].append({key: int(record[key]) for key in keys})
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path}:{number}: not a record of fault_bench: {line}") from None
    return modes


def instructions_per_tick(calibrations: Sequence[Record]) -> Fraction:
    """Under icount an instruction is a nanosecond."""
    return Fraction(10**9, calibrations[0]["hz"]) if calibrations else Fraction(0)


def check_calibration(records: Sequence[Record], tick: Fraction) -> None:
    """Ticks must be instructions; if not, say by how much."""
    if not records:
        raise BadInput("no calibration: not reported")
    for record in records:
        counted, known = record["ticks"] * tick, record["calibration"]
        if abs(counted - known) > known * CALIBRATION_ERROR:
            raise BadInput(f"{known} instructions took {float(counted):.0f} by the counter: not "
                           "exact, not reported")


def price(batches: Sequence[Record], tick: Fraction) -> tuple[Fraction, Fraction]:
    """(price, spread): instructions per fault are the slope between the two sizes of batch.

    The spread is the difference between the dearest and the cheapest pair.
    """
    # They come in either order.
    pairs = [sorted(pair, key=operator.itemgetter("pages"))
             for pair in zip(batches[::2], batches[1::2])]
    sizes = {(small["pages"], large["pages"]) for small, large in pairs}
    if len(batches) != 2 * PAIRS or len(sizes) != 1 or any(a == b for a, b in sizes):
        raise BadInput(f"{len(batches)} batches in bench.jsonl, want {PAIRS} pairs of a small and "
                       "a large one")
    slopes = [(large["ticks"] - small["ticks"]) * tick / (large["pages"] - small["pages"])
              for small, large in pairs]
    return sum(slopes, Fraction(0)) / len(slopes), max(slopes) - min(slopes)


@dataclasses.dataclass(frozen=True)
class Row:
    mode: str
    price: Fraction   # instructions per fault
    spread: Fraction
    planted: int      # instructions that the benchmark added to each fault


def measure(boot: Boot) -> list[Row]:
    """One Row a mode.  Problems become findings of the boot."""
    rows = []
    with tables.problems(boot, "bench.jsonl"):
        modes = read_numbers(boot.directory / "bench.jsonl")
        for mode in tables.passed(boot):
            calibrations, batches = modes.get(mode, ([], []))
            tick = instructions_per_tick(calibrations)
            with tables.problems(boot, "bench.jsonl", case=mode):
                check_calibration(calibrations, tick)
                rows.append(Row(mode, *price(batches, tick), batches[0]["planted"]))
    boot.findings += check_planted(rows)
    return [row for row in rows if not row.planted]


def check_planted(rows: Sequence[Row]) -> Iterator[Check]:
    """A known cost must be found again, as large as it is, within the spread."""
    plain = {row.mode: row for row in rows}
    for row in rows:
        other = plain.get(row.mode.removesuffix("_planted"))
        if row.planted and other:
            more, error = row.price - other.price, row.spread + other.spread
            if abs(more - row.planted) > error:
                yield Check(Status.HARNESS, f"{row.planted} instructions were planted, "
                            f"{float(more):.0f} were found (spread {float(error):.0f})", row.mode,
                            "bench.jsonl")


def timeline_of(mode: str, parts: Sequence[list[timeline.Event]], batches: Sequence[Record],
                tick: Fraction) -> Timeline:
    """The events must add up to what the guest's own counter says."""
    for part, batch in zip(parts, batches[-TIMED_PARTS:]):
        counted, known = part[-1][0], batch["ticks"] * tick
        # arm64's counter ticks once in 16 instructions: where in the first and the last tick
        # it was read, nobody knows.
        error = known * CALIBRATION_ERROR + tick
        # An instruction that faults is counted twice, and then the kernel runs.
        repeated = sum(event == "kernel" for _, event in part)
        if not -error <= counted - known <= repeated + error:
            raise BadInput(f"{mode}: {batch['pages']} pages took {counted} instructions by the "
                           f"timeline, {float(known):.0f} by the counter")
    faults = [fault for part in parts for fault in timeline.faults_of(part)]
    if any("guest" not in fault.path for fault in faults):
        raise BadInput(f"{mode}: no guest entry recorded after \"enter\" (bench/points)")
    return Timeline(faults)


def read_timelines(boot: Boot) -> Timelines:
    """Of the modes in which a guest accesses pages.  Problems become findings of the boot."""
    lines = {}
    with tables.problems(boot, "timeline", "no timeline: "):
        numbers, modes = read_numbers(boot.directory / "bench.jsonl"), tables.passed(boot)
        parts = timeline.timed_parts(boot.directory / "timeline")
        if len(modes) < len(boot.request.cases):
            return {}  # one that failed may have left events; its verdict says enough
        if len(parts) != TIMED_PARTS * len(modes):
            raise BadInput(f"{len(modes)} cases passed, with {len(parts)} timed parts")
        for i, mode in enumerate(modes):
            calibrations, batches = numbers[mode]
            lines[mode] = timeline_of(mode, parts[TIMED_PARTS * i:][:TIMED_PARTS], batches,
                                      instructions_per_tick(calibrations))
        return {mode: line for mode, line in lines.items()
                if line.faults and not numbers[mode][1][0]["planted"]}
    return {}


def with_timeline(request: Request) -> Request:
    points = timeline.load_points(request.arch.name, request.mode.name)
    if not points:
        return request
    arguments = timeline.plugin_arguments(points, request.kernel.with_suffix(".map"))
    return dataclasses.replace(request, timeline=arguments)


def peer(mode: str) -> str:
    """What a mode is compared with: the same kind of fault, a userfaultfd per vCPU."""
    match = DELIVERED.fullmatch(mode)
    return f"uffd_{match[1]}_sharded{match[2]}" if match else ""


def machine(name: str, rows: Sequence[Row], lines: Timelines) -> tables.Row:
    """What a document says of one boot."""
    costs = {row.mode: row.price for row in rows}
    ratios = {mode: float(costs[peer(mode)] / cost) for mode, cost in costs.items()
              if peer(mode) in costs and peer(mode) != mode}
    floors = {mode: sum(costs[part] for part in parts) for mode, parts in FLOORS.items()
              if {mode, *parts} <= set(costs)}
    return {"name": name,
            "prices": [{"mode": row.mode, "price": float(row.price), "range": float(row.spread),
                        "ratio": ratios.get(row.mode)} for row in rows],
            "merits": [{"mode": mode, "ratio": float(costs[mode] / floor),
                        "parts": list(FLOORS[mode]), "floor": float(floor)}
                       for mode, floor in floors.items()],
            "distributions": [line.distribution_row(mode) for mode, line in lines.items()],
            "stages": [line.stages_row(mode) for mode, line in lines.items()]}


def draw(directory: pathlib.Path, timelines: dict[str, Timelines]) -> None:
    pictured = {name: {mode: line for mode, line in lines.items() if mode in PICTURED}
                for name, lines in timelines.items()}
    plot.curves("latency", {name: {mode: line.curve() for mode, line in lines.items()}
                            for name, lines in pictured.items()},
                ("instructions of one fault", "per cent of the faults"),
                "set logscale x 2\nset xtics rotate by -35\nset key bottom right", directory,
                "steps")
    plot.stacks("stages", {name: {mode: line.kinds() for mode, line in lines.items()}
                           for name, lines in pictured.items()}, timeline.kinds(),
                "instructions of one fault, by the event they follow", directory)


def bench(config: Config) -> int:
    plot.check()
    request_.show_plan(request_.plan(config, "bench", default_mode=True, icount=True))
    if not config.images:
        images.build(config)
    machines, timelines = [], {}
    with images.booting(config):
        requests = [with_timeline(request) for request in
                    request_.requests(config, "bench", default_mode=True, icount=True)]
        run = Run(config, "bench")
        try:
            for request in requests:
                boot = run.boot(request)
                rows = measure(boot)
                timelines[request.name] = read_timelines(boot) if request.timeline else {}
                machines.append(machine(request.name, rows, timelines[request.name]))
        finally:
            document = tables.document("bench", run.boots, machines)
            (run.directory / "stages.txt").write_text(tables.stages(document))
            status = tables.finish(run, document)
    return plot.afterwards(status, draw, run.directory, timelines)

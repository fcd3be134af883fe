# SPDX-License-Identifier: GPL-2.0
"""make bench: what one more fault costs, in instructions, and where they go."""
import dataclasses
import json
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

# The loop of known length has a few instructions around it.
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
    return Fraction(1000000000, calibrations[0]["hz"]) if calibrations else Fraction(0)


def check_calibration(records: Sequence[Record], tick: Fraction) -> str:
    """Ticks must be instructions; if not, say by how much."""
    for record in records:
        counted, known = record["ticks"] * tick, record["calibration"]
        if abs(counted - known) > known * CALIBRATION_ERROR:
            return (f"{known} instructions took {float(counted):.0f} by the counter: not exact, "
                    "not reported")
    return "" if records else "no calibration: not reported"


def pairs(batches: Sequence[Record]) -> list[tuple[Record, Record]]:
    """One small and one large batch each, which come in either order."""
    return [(a, b) if a["pages"] < b["pages"] else (b, a)
            for a, b in zip(batches[::2], batches[1::2])]


def check_batches(batches: Sequence[Record]) -> str:
    sizes = {(small["pages"], large["pages"]) for small, large in pairs(batches)}
    if len(batches) != 2 * PAIRS or len(sizes) != 1 or any(a == b for a, b in sizes):
        return (f"{len(batches)} batches in bench.jsonl, want {PAIRS} pairs of a small and a large "
                "one")
    return ""


def price(batches: Sequence[Record], tick: Fraction) -> tuple[Fraction, Fraction]:
    """(price, spread): instructions per fault are the slope between the two sizes of batch.

    The spread is the difference between the dearest and the cheapest pair.
    """
    slopes = [(large["ticks"] - small["ticks"]) * tick / (large["pages"] - small["pages"])
              for small, large in pairs(batches)]
    return sum(slopes, Fraction(0)) / len(slopes), max(slopes) - min(slopes)


@dataclasses.dataclass(frozen=True)
class Row:
    mode: str
    price: Fraction   # instructions per fault
    spread: Fraction
    planted: int      # instructions that the benchmark added to each fault


def passed(boot: Boot) -> list[str]:
    return [r.name for r in boot.outcome.stream.results if r.status == "pass"]


def measure(boot: Boot) -> list[Row]:
    """One Row a mode.  Problems become findings of the boot."""
    try:
        modes = read_numbers(boot.directory / "bench.jsonl")
    except BadInput as error:
        boot.findings.append(Check(Status.HARNESS, str(error), where="bench.jsonl"))
        return []
    rows = []
    names = passed(boot)
    for mode in (case.name for case in boot.request.cases if case.name in names):
        calibrations, batches = modes.get(mode, ([], []))
        tick = instructions_per_tick(calibrations)
        problem = check_calibration(calibrations, tick) or check_batches(batches)
        if problem:
            boot.findings.append(Check(Status.HARNESS, problem, mode, "bench.jsonl"))
        else:
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


def check_timeline(parts: Sequence[list[timeline.Event]], batches: Sequence[Record],
                   tick: Fraction) -> str:
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


def read_timelines(boot: Boot) -> Timelines:
    """Of the modes in which a guest accesses pages.  Problems become findings."""
    try:
        return timelines_of(boot)
    except (BadInput, OSError, KeyError) as error:
        boot.findings.append(Check(Status.HARNESS, f"no timeline: {error}", where="timeline"))
        return {}


def timelines_of(boot: Boot) -> Timelines:
    numbers = read_numbers(boot.directory / "bench.jsonl")
    parts, modes = timeline.timed_parts(boot.directory / "timeline"), passed(boot)
    if len(modes) < len(boot.request.cases):
        return {}  # one that failed may have left events; its verdict says enough
    if len(parts) != TIMED_PARTS * len(modes):
        raise BadInput(f"{len(modes)} cases passed, with {len(parts)} timed parts")
    lines = {}
    for i, mode in enumerate(modes):
        mine, (calibrations, batches) = parts[TIMED_PARTS * i:][:TIMED_PARTS], numbers[mode]
        problem = check_timeline(mine, batches, instructions_per_tick(calibrations))
        faults = [fault for part in mine for fault in timeline.faults_of(part)]
        if any("guest" not in fault.path for fault in faults):
            problem = problem or "bench/points: \"enter\" was not seen to end in the guest"
        if problem:
            raise BadInput(f"{mode}: {problem}")
        if faults and not batches[0]["planted"]:
            lines[mode] = Timeline(faults)
    return lines


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
    others = {mode: costs.get(peer(mode)) for mode in costs if peer(mode) != mode}
    floors = {mode: sum(costs[part] for part in parts) for mode, parts in FLOORS.items()
              if {mode, *parts} <= set(costs)}
    return {"name": name,
            "prices": [{"mode": row.mode, "price": float(row.price), "range": float(row.spread),
                        "ratio": float(other / row.price) if (other := others.get(row.mode))
                        else None} for row in rows],
            "merits": [{"mode": mode, "ratio": float(costs[mode] / floor),
                        "parts": list(FLOORS[mode]), "floor": float(floor)}
                       for mode, floor in floors.items()],
            "distributions": [line.distribution_row(mode) for mode, line in lines.items()],
            "stages": [line.stages_row(mode) for mode, line in lines.items()]}


def draw(directory: pathlib.Path, timelines: dict[str, Timelines]) -> None:
    charts = {name: {mode: line for mode, line in lines.items() if mode in PICTURED}
              for name, lines in timelines.items()}
    charts = {name: lines for name, lines in charts.items() if lines}
    if charts:
        curves = {name: {mode: line.curve() for mode, line in lines.items()}
                  for name, lines in charts.items()}
        plot.curves("latency", curves, ("instructions of one fault", "per cent of the faults"),
                    "set logscale x 2\nset xtics rotate by -35\nset key bottom right", directory,
                    "steps")
        kinds = {name: {mode: line.kinds() for mode, line in lines.items()}
                 for name, lines in charts.items()}
        plot.stacks("stages", kinds, list(timeline.KINDS),
                    "instructions of one fault, by the event they follow", directory)


def bench(config: Config) -> int:
    plot.check()
    request_.show_plan(request_.plan(config, "bench", default_mode=True, icount=True))
    if not config.images:
        images.build(config)
    with images.booting(config):
        return boot_all(config)


def boot_all(config: Config) -> int:
    requests = [with_timeline(request) for request in
                request_.requests(config, "bench", default_mode=True, icount=True)]
    run, machines, timelines = Run(config, "bench"), [], {}
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

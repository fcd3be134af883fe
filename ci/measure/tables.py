# SPDX-License-Identifier: GPL-2.0
"""The tables of make bench, scale and profile: table.json of a run, and its text.

Each of these commands writes one document.  table.txt, stages.txt, README and cover letter are
rendered from it; nothing parses text.  What was not measured is null.  Every document has

    command       bench, scale or profile
    unit, label   of its numbers; the label is "exact count" or "lockstep model"
    identity      [{name, base, release, compiler, qemu, series_sha256, initramfs_sha256}]: one
                  an architecture/mode, of its first boot
    machines      [{name, ...}]: the data; name is an architecture/mode, as in identity

A machine of bench, in instructions of a fault:

    prices        [{mode, price, range, ratio}]; ratio: the peer's price by this one, or null
    merits        [{mode, ratio, parts: [mode], floor}]; floor: the sum of the parts' prices
    distributions [{mode, faults, min, median, p99, max}] of single faults; [] without a timeline
    stages        [{mode, share, events: [{event, words, median, mean}]}]; share: per cent of the
                  faults that take this path

A machine of scale, and beside the machines its method:

    vcpus         [number]
    rates         [{mode, vcpus, rate, efficiency, error, spread}]; all but the rate in per cent
    ratios        [{vcpus, without, with, ratio, published, sharded, per_vcpu}]; [] unless both
                  modes were measured; published and sharded are ratios too
    method        {quanta: [instructions], boots, marked, timeouts, idle: [least, most]}; the last
                  three in per cent; marked: the spread above which a point is doubtful

A machine of profile, one for each number of vCPUs:

    vcpus, release
    modes         [{mode, events: [{event, per_fault}], hot: [{function, share}], exits: [line],
                  locks: [line]}]; share in per cent; exits and locks as perf printed them
"""
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ci.build import files
from ci.judge.results import Boot, Run

Row = dict[str, Any]
Document = dict[str, Any]

MEANING = {"bench": ("instructions per fault", "exact count"),
           "scale": ("pages per million instructions of critical path, all vCPUs",
                     "lockstep model"),
           "profile": ("events of a fault", "lockstep model")}
IDENTITY = ("base", "release", "compiler", "qemu", "series_sha256", "initramfs_sha256")
QUANTILES = ("min", "median", "p99", "max")
# Of perf's lists
MOST_LINES = 8


def document(command: str, boots: Iterable[Boot], machines: list[Row], **more: Any) -> Document:
    first: dict[str, Row] = {}
    for boot in boots:
        first.setdefault(boot.request.name, boot.meta)
    unit, label = MEANING[command]
    identity = [dict({key: meta.get(key) for key in IDENTITY}, name=name)
                for name, meta in first.items()]
    return {"command": command, "unit": unit, "label": label, "identity": identity,
            "machines": machines, **more}


def finish(run: Run, found: Document) -> int:
    """The last screen of a measurement, whose document is kept; returns the exit status."""
    text = render(found)
    if text:
        files.write_json(run.directory / "table.json", found)
    return run.finish(text)


def render(found: Document) -> str:
    """table.txt of a document; "" if nothing was measured."""
    paragraphs = RENDERERS[found["command"]](found)
    text = "\n\n".join(filter(None, map("\n".join, paragraphs)))
    return text + "\n" if text else ""


def identity_lines(found: Document) -> list[str]:
    """What was measured, for a table that leaves its run."""
    return [f"{one['name']}: {one['release']}, {one['compiler']}, {one['qemu']}"
            for one in found["identity"]]


def number(value: float | None, suffix: str = "", digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}{suffix}"


# --- bench ---

def bench(found: Document) -> Iterator[Iterable[str]]:
    """The prices, what they are made of, and how they vary."""
    machines = found["machines"]
    if not any(machine["prices"] for machine in machines):
        return
    yield prices(machines)
    yield (f"{machine['name']}: {merit['mode']} is {merit['ratio']:.2f} x "
           f"({' + '.join(merit['parts'])} = {round(merit['floor'])})"
           for machine in machines for merit in machine["merits"])
    yield from map(distributions, machines)


def prices(machines: list[Row]) -> Iterator[str]:
    modes = dict.fromkeys(row["mode"] for machine in machines for row in machine["prices"])
    yield "instructions per fault, one vCPU, counted under QEMU icount"
    yield f"{'':26}" + "".join(f"{m['name']:>10}{'range':>6}{'peer':>7}" for m in machines)
    for mode in modes:
        yield f"{mode:26}{''.join(price_cells(m['prices'], mode) for m in machines)}".rstrip()


def price_cells(rows: list[Row], mode: str) -> str:
    row = next((row for row in rows if row["mode"] == mode), None)
    if row is None:
        return f"{'-':>10}{'-':>6}{'':>7}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    return f"{round(row['price']):>10}{round(row['range']):>6}{ratio:>7}"


def distributions(machine: Row) -> Iterator[str]:
    if not machine["distributions"]:
        yield f"{machine['name']}: no timeline"
        return
    yield f"{machine['name']}: instructions of single faults, counted in QEMU"
    yield f"{'':26}{'faults':>8}" + "".join(f"{name:>8}" for name in QUANTILES)
    for row in machine["distributions"]:
        yield f"{row['mode']:26}{row['faults']:>8}" + "".join(f"{row[q]:>8}" for q in QUANTILES)


def stages(found: Document) -> str:
    """stages.txt: what follows each event, until the next."""
    return "\n\n".join("\n".join(stage_lines(machine["name"], row))
                       for machine in found["machines"] for row in machine["stages"]) + "\n"


def stage_lines(name: str, row: Row) -> Iterator[str]:
    yield (f"{name}: the path of {row['share']:.0f} % of {row['mode']}'s faults, instructions from "
           "one event to the next")
    total = {"words": "to the next page", "median": sum(e["median"] for e in row["events"]),
             "mean": sum(e["mean"] for e in row["events"])}
    yield f"{'median':>8}{'mean':>8}"
    for event in (*row["events"], total):
        yield f"{event['median']:8}{event['mean']:8.0f}  {event['words']}"


# --- scale ---

def scale(found: Document) -> Iterator[Iterable[str]]:
    for machine in found["machines"]:
        yield scale_lines(machine, found)
    if found["machines"]:
        yield [method(found["method"])]


def scale_lines(machine: Row, found: Document) -> Iterator[str]:
    yield f"{machine['name']}: {found['unit']}"
    yield f"{found['label']}: serialisation only, no caches, no coherence"
    yield from block("rate; vCPUs:", machine, lambda row: number(row["rate"]))
    yield ""
    yield from block("% of as many single vCPUs:", machine, lambda row: number(row["efficiency"]))
    yield ""
    yield from block("error in %: quanta/boots", machine,
                     lambda row: error_cell(row, found["method"]["marked"]))
    if machine["ratios"]:
        yield ""
        yield from ratio_lines(machine["ratios"])


def block(title: str, machine: Row, cell: Callable[[Row], str]) -> Iterator[str]:
    yield f"{title:30}" + "".join(f"{n:>7}" for n in machine["vcpus"])
    for mode in dict.fromkeys(row["mode"] for row in machine["rates"]):
        yield f"{mode:30}" + "".join(f"{cell(row):>7}" for row in machine["rates"]
                                     if row["mode"] == mode)


def error_cell(row: Row, marked: float) -> str:
    spread = row["spread"]
    if spread is None:
        return number(row["error"])
    return f"{number(row['error'])}/{number(spread)}{'!' if spread > marked else ''}"


def ratio_lines(rows: list[Row]) -> Iterator[str]:
    """The columns of the published table, and the fair peer's."""
    yield (f"{'vCPUs':>5}{'without':>9}{'with':>7}{'ratio':>8}{'published':>11}{'vs sharded':>12}"
           f"{'per vCPU, with':>16}")
    for row in rows:
        yield (f"{row['vcpus']:5}{number(row['without']):>9}{number(row['with']):>7}"
               f"{number(row['ratio'], 'x', 2):>8}{number(row['published'], 'x', 1):>11}"
               f"{number(row['sharded'], 'x', 2):>12}{number(row['per_vcpu']):>16}")


def method(facts: Row) -> str:
    """How the rates came about, for a screen of 72 columns."""
    first, second = facts["quanta"]
    least, most = facts["idle"]
    return textwrap.fill(
        f"rate: with a quantum of {first} instructions, mean over the boots.  Error: of the "
        f"method, which is what a quantum of {second} gives instead, and the range over "
        f"{facts['boots']} boots, \"!\" above {facts['marked']} %.  Of vCPUs that overlap, "
        f"efficiency is in single vCPUs' rate.  Time-outs: at most {facts['timeouts']:.3f} % of "
        f"quanta; idle CPUs: {least:.0f} to {most:.0f} %.  published: by its authors, on x86 "
        "hardware, 2023 (bench/published); only the ratio can be compared", 72)


# --- profile ---

def profile(found: Document) -> Iterator[Iterable[str]]:
    for machine in found["machines"]:
        for mode in machine["modes"]:
            yield profile_lines(machine, mode)


def profile_lines(machine: Row, mode: Row) -> Iterator[str]:
    yield f"{machine['name']}, {machine['vcpus']} vCPUs, {machine['release']}"
    yield f"{mode['mode']}, events of a fault:"
    yield from (f"    {event['per_fault']:5.2f}  {event['event']}" for event in mode["events"])
    yield "  what CPUs execute, at the ends of quanta (lockstep model):"
    yield from (f"    {hot['share']:5.1f} %  {hot['function']}" for hot in mode["hot"])
    yield "  KVM's exits (perf kvm stat; times are not to be believed):"
    yield from (f"    {line}" for line in mode["exits"][:MOST_LINES])
    yield "  contended locks, start and end of the program included (perf lock contention):"
    yield from (f"    {line}" for line in mode["locks"][:MOST_LINES])


RENDERERS = {"bench": bench, "scale": scale, "profile": profile}

# SPDX-License-Identifier: GPL-2.0
"""Make the series slower in known ways, and see whether the benchmarks say so.

usage: plants.py [--plan] ARCH...    (what make check-bench calls)

A plant is a patch on top of the series, kernel-patches/plants/BASE/NAME.patch.  What stands
before its diff says what is slower, and
	Arch:   where it is tried
	Bench:  MODE N: the median of single faults has to rise by N instructions, within 2 %
	Scale:  MODE N L: each fault holds a lock for L instructions; with N vCPUs the rate has
	        to be what that leaves of N times one vCPU's, within 15 %

The knobs are those of run.py, and GUEST and TREE as in mutants.py.
Exit status: 0, or 1 if a plant was not seen, 2 if one could not be tried.
"""
import dataclasses
import os
import pathlib
import re
import sys

from ci.facts import arch as arch_
from ci.measure import faults as bench
from ci.proof import mutants
from ci.judge import results as run
from ci.measure import scaling as scale
from ci.facts.arch import BadInput

HEADER = re.compile(r"(Arch|Bench|Scale): (.*)")
TOLERANCE = {"Bench": 0.02, "Scale": 0.15}


@dataclasses.dataclass(frozen=True)
class Plant:
    name: str
    archs: tuple
    kind: str       # Bench or Scale
    mode: str
    numbers: tuple  # of the header
    path: pathlib.Path


def load(path):
    head, marker, _ = path.read_text().partition("\ndiff --git ")
    words = dict(match.groups() for match in map(HEADER.fullmatch, head.splitlines()) if match)
    kinds = [kind for kind in ("Bench", "Scale") if kind in words]
    try:
        kind, = kinds
        mode, *numbers = words[kind].split()
        numbers = tuple(map(int, numbers))
        if not marker or len(numbers) != {"Bench": 1, "Scale": 2}[kind]:
            raise ValueError
        return Plant(path.stem, tuple(words["Arch"].split()), kind, mode, numbers, path)
    except (ValueError, KeyError):
        raise BadInput(f"{path}: want what is slower, Arch:, Bench: MODE N or Scale: MODE N L, and a diff") from None


def load_all(base):
    return mutants.load_all(base, (), "plants", load)


def of_the_mutant(request):
    return dataclasses.replace(request, initramfs=request.kernel.with_name(f"{request.arch.name}.cpio"))


def boot(this, request, label):
    found = this.trial(request, this.directory / f"{label}-{request.directory}")
    if found.findings:
        raise BadInput(f"{label}, {request.name}: {found.findings[0].text}")
    return found


def measure_fault(this, arch, plant, label):
    """Instructions of a fault, the median of single ones: the price of a batch has ticks in it."""
    os.environ["CASES"] = plant.mode
    request, = run.requests([arch.name], "bench", default_mode=True, icount=True)
    found = boot(this, bench.with_timeline(of_the_mutant(request)), label)
    timelines = bench.read_timelines(found)
    if plant.mode not in timelines:
        raise BadInput(f"{label}: {found.findings[0].text if found.findings else 'no faults in the timeline'}")
    return timelines[plant.mode].distribution()[1]


def measure_rates(this, arch, plant, label):
    """(pages per million instructions with one vCPU, with the plant's number)"""
    vcpus = plant.numbers[0]
    os.environ["CASES"] = plant.mode
    request, = run.requests([arch.name], "scale", default_mode=True)
    points = []
    for n in (1, vcpus):
        found = boot(this, of_the_mutant(scale.with_lockstep(request, n)), label)
        points += [p for p in scale.points_of(found) if p.quantum == scale.QUANTA[0]]
        if found.findings:
            raise BadInput(f"{label}: {found.findings[0].text}")
    rates = {p.vcpus: p.rate for p in points}
    return rates[1], rates[vcpus]


MEASURES = {"Bench": measure_fault, "Scale": measure_rates}


def judge(plant, without, measured):
    """(whether it was seen, and in words)"""
    if plant.kind == "Bench":
        wanted, found = plant.numbers[0], measured - without
        text = f"{plant.mode}: {found:+} instructions, planted {wanted}"
    else:
        vcpus, lock = plant.numbers
        alone = 1e6 / without[0]
        wanted = 100 * min(1, (alone + lock) / (vcpus * lock))
        found, before = (100 * rates[1] / rates[0] / vcpus for rates in (measured, without))
        text = (f"{plant.mode}: {found:.0f} % efficiency at {vcpus} vCPUs, {before:.0f} % without; a lock of {lock} "
                f"instructions leaves {wanted:.0f} %")
    return abs(found - wanted) <= TOLERANCE[plant.kind] * wanted, text


def try_plant(this, arch, plant, without):
    tree = run.knob("TREE")
    mutants.git(tree, "checkout", "-q", "--", ".")
    mutants.git(tree, "apply", str(plant.path))
    log = this.directory / f"{arch.name}-{plant.name}.build.log"
    if not mutants.build(arch.name, "", log):
        raise BadInput(f"{plant.path} does not build, see {log}")
    return judge(plant, without, MEASURES[plant.kind](this, arch, plant, plant.name))


def measure_without(this, arch, mine):
    mutants.git(run.knob("TREE"), "checkout", "-q", "--", ".")
    log = this.directory / f"{arch.name}.build.log"
    if not mutants.build(arch.name, "", log):
        raise BadInput(f"the series without a plant does not build, see {log}")
    return {plant: MEASURES[plant.kind](this, arch, plant, f"without-{plant.name}") for plant in mine}


def main(argv):
    found = [(arch, [p for p in load_all(run.knob("BASE")) if arch.name in p.archs])
             for arch in map(arch_.load, [a for a in argv if a != "--plan"])]
    if "--plan" in argv:
        for arch, mine in found:
            print(f"  {arch.name:<14} {len(mine)} plants")
        return 0
    os.environ.update(SERIES="mutant", MODE="", CONFIG="")
    this, lines, unseen = run.Run("plants"), [], 0
    try:
        for arch, mine in found:
            without = measure_without(this, arch, mine)
            for plant in mine:
                seen, text = try_plant(this, arch, plant, without[plant])
                unseen += not seen
                lines.append(f"{plant.name:<20} {arch.name:<6} {'seen' if seen else 'NOT SEEN':<9} {text}")
                print(f"  {lines[-1]}", flush=True)
    finally:
        mutants.git(run.knob("TREE"), "checkout", "-q", "--", ".")
    releases = dict.fromkeys(mutants.release_of(arch) for arch, _ in found)
    text = "\n".join([f"plants in {' and '.join(releases)}", "", *lines]) + "\n"
    (this.directory / "plants.txt").write_text(text)
    if len(found) == len(arch_.names()):
        table = run.results_of(run.knob("BASE")) / "plants.txt"
        table.parent.mkdir(exist_ok=True)
        table.write_text(text)
    return int(unseen > 0 or not lines)


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))

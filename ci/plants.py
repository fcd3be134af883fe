#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Make the series slower in known ways, and see whether the benchmarks say so.

usage: plants.py [--plan] ARCH...    (what make check-bench calls)

A plant is a patch on top of the series, kernel-patches/plants/BASE/NAME.patch.  What stands
before its diff says what is slower, and
	Arch:   where it is tried
	Bench:  MODE N: the price of a fault has to rise by N instructions, within 2 %
	Scale:  MODE N P: with N vCPUs, at most P per cent of N times one vCPU's rate may be
	        left, and without the plant more than that

The knobs are those of run.py, and GUEST and TREE as in mutants.py.
Exit status: 0, or 1 if a plant was not seen, 2 if one could not be tried.
"""
import dataclasses
import os
import pathlib
import re
import sys

import arch as arch_
import bench
import mutants
import run
import scale
from arch import ROOT, BadInput

HEADER = re.compile(r"(Arch|Bench|Scale): (.*)")
TOLERANCE = 0.02


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
        raise BadInput(f"{path}: want what is slower, Arch:, Bench: MODE N or Scale: MODE N P, and a diff") from None


def load_all(base):
    return [load(path) for path in sorted((ROOT / "kernel-patches" / "plants" / base).glob("*.patch"))]


def of_the_mutant(request):
    return dataclasses.replace(request, initramfs=request.kernel.with_name(f"{request.arch.name}.cpio"))


def boot(this, request, label):
    found = this.trial(request, this.directory / f"{label}-{request.directory}")
    if found.findings:
        raise BadInput(f"{label}, {request.name}: {found.findings[0].text}")
    return found


def measure_price(this, arch, plant, label):
    """Instructions per fault, as bench.py has them."""
    os.environ["CASES"] = plant.mode
    request, = run.requests([arch.name], "bench", default_mode=True, icount=True)
    found = boot(this, of_the_mutant(request), label)
    rows = bench.measure(found)
    if not rows:
        raise BadInput(f"{label}: {found.findings[0].text if found.findings else 'no price'}")
    return float(rows[0].price)


def measure_efficiency(this, arch, plant, label):
    """Per cent of the rate of one vCPU times their number."""
    vcpus = plant.numbers[0]
    os.environ["CASES"] = f"{plant.mode}_1 {plant.mode}_{vcpus}"
    points = []
    for n, request in scale.requests([arch.name]):
        if request.lockstep.quantum == scale.QUANTA[0]:
            found = boot(this, of_the_mutant(request), label)
            points += scale.points_of(found, n)
            if found.findings:
                raise BadInput(f"{label}: {found.findings[0].text}")
    rates = {p.vcpus: p.rate for p in points}
    return 100 * rates[vcpus] / rates[1] / vcpus


MEASURES = {"Bench": measure_price, "Scale": measure_efficiency}


def judge(plant, without, measured):
    """(whether it was seen, and in words)"""
    if plant.kind == "Bench":
        rise, wanted = measured - without, plant.numbers[0]
        return abs(rise - wanted) <= TOLERANCE * wanted, f"{plant.mode}: {rise:+.1f} instructions, planted {wanted}"
    vcpus, limit = plant.numbers
    return (measured <= limit < without,
            f"{plant.mode}, {vcpus} vCPUs: {measured:.0f} % efficiency, {without:.0f} % without, limit {limit} %")


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
    text = "\n".join([f"plants in {' and '.join(mutants.release_of(arch) for arch, _ in found)}", "", *lines]) + "\n"
    (this.directory / "plants.txt").write_text(text)
    if len(found) == len(arch_.names()) and run.knob("BASE") == mutants.DEFAULT_BASE:
        (ROOT / "results" / "plants.txt").write_text(text)
    return int(unseen > 0 or not lines)


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))

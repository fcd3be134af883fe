# SPDX-License-Identifier: GPL-2.0
"""ci/run-matrix: cells of ci/matrix on this machine, one make check each.

A cell is a job of its own, which any engine can run anywhere.  A pass is kept by the content of
this repository, the compilers and QEMU.
"""
import dataclasses
import json
import pathlib
import shlex
import subprocess
from collections.abc import Sequence

from ci import config as config_
from ci.build import images
from ci.build.cache import Cache
from ci.build.files import first_line, sha256
from ci.build.git import git
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import matrix
from ci.facts.matrix import Cell
from ci.facts.text import ROOT, BadInput
from ci.judge.check import Status


def command(config: Config, cell: Cell) -> list[str]:
    """With the knobs that were given, of which the cell's own win."""
    mine = dataclasses.replace(config, arch=(cell.arch,), mode=(cell.mode,), config=cell.config,
                               llvm=cell.llvm or config.llvm)
    knobs = mine.given("arch", "mode", "cache", "results", "jobs", "v")
    return ["make", "check", *shlex.split(" ".join(knobs))]


def inputs_of(config: Config, cell: Cell) -> list[object]:
    """All that a cell's result depends on."""
    arch, base = arch_.load(cell.arch), config.base_facts
    tools = images.toolchain(dataclasses.replace(config, llvm=cell.llvm or config.llvm), arch)
    new = git(ROOT, "ls-files", "--others", "--exclude-standard").splitlines()
    # The kernel's source: what is installed, or what was fetched, if it was
    fetched = pathlib.Path(config.cache, "packages").glob(f"{base.package}_*/*.tar.*")
    source = next((path for path in [base.tarball, *sorted(fetched)] if path.exists()), None)
    return [command(config, cell), git(ROOT, "rev-parse", "HEAD^{tree}"), git(ROOT, "diff", "HEAD"),
            [[name, sha256(ROOT / name)] for name in new], tools.version, tools.linker,
            first_line(config.qemu or arch.qemu, "--version"),
            sha256(source) if source else base.tested]


def run_cell(config: Config, cell: Cell) -> int:
    """The exit status of the cell's command, which is 0 if it is known to pass."""
    cache, inputs = Cache(pathlib.Path(config.cache, "matrix")), inputs_of(config, cell)
    if cache.get("cells", inputs):
        print(f"cell {cell.name}: passed before, with the same content", flush=True)
        return 0
    print(f"cell {cell.name}: {cell.command}", flush=True)
    status = subprocess.call(command(config, cell), cwd=ROOT, env=config_.environment())
    if status == 0 and inputs == inputs_of(config, cell):
        cache.put("cells", inputs, "pass")
    return status


def tried(config: Config, cell: Cell) -> int:
    """A cell that cannot be asked, for want of a compiler, is no end of the others."""
    try:
        return run_cell(config, cell)
    except BadInput as error:
        print(f"cell {cell.name}: {error}", flush=True)
        return Status.HARNESS.exit_status


def run_cells(config: Config, cells: Sequence[Cell], left: int) -> int:
    statuses = {cell.name: tried(config, cell) for cell in cells}
    failed = [name for name, status in statuses.items() if status]
    for name in failed:
        print(f"cell {name}: FAILED")
    print(f"cells: {len(cells) - len(failed)} passed, {len(failed)} failed, {left} left out")
    return statuses[failed[0]] if failed else 0


def run_matrix(config: Config, words: Sequence[str]) -> int:
    """The status of the first cell that failed; --list, --json: say which cells there are."""
    given = [field.upper() for field in ("kernel", "cases") if getattr(config, field)]
    if given:
        raise BadInput(f"{', '.join(given)} in the environment: a cell is all cases of our own "
                       "series; unset, or use make check")
    cells, left = matrix.chosen(matrix.load(config.base_facts), arch_.names(),
                                config.matrix == "all", llvm=True)
    if words == ["--json"]:
        print(json.dumps([cell.name for cell in cells]))
        return 0
    if words == ["--list"]:
        for number, cell in enumerate(cells, 1):
            print(f"{number:3} {cell.name:18} {cell.command}")
        for cell in left:
            print(f"  - {cell.name:18} {cell.why or 'slow: MATRIX=all'}")
        return 0
    names = {cell.name: cell for cell in cells} | {str(n): cell for n, cell in enumerate(cells, 1)}
    unknown = [word for word in words if word not in names]
    if unknown:
        raise BadInput(f"{unknown[0]}: no cell that is to be booted; ci/run-matrix --list has them")
    return run_cells(config, [names[word] for word in words] or cells, len(left))

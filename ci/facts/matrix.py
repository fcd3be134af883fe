# SPDX-License-Identifier: GPL-2.0
"""ci/matrix: which cells of architecture, mode and configuration there are."""
import dataclasses
import pathlib
from collections.abc import Iterable

from ci.facts import arch as arch_
from ci.facts.base import Base
from ci.facts.text import ROOT, BadInput, rows

WHEN = ("always", "slow", "never")


@dataclasses.dataclass(frozen=True)
class Cell:
    arch: str
    mode: str
    config: str   # "" for the usual one
    when: str
    why: str      # of "never"
    llvm: str = ""   # LLVM=, for a compiler that is not the usual one

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.arch, self.mode, self.config, self.llvm and "llvm")))

    @property
    def command(self) -> str:
        more = f" CONFIG={self.config}" * bool(self.config) + f" LLVM={self.llvm}" * bool(self.llvm)
        return f"make check ARCH={self.arch} MODE={self.mode}{more}"


def parse(line: str, where: str) -> Cell:
    words = line.split(None, 4)
    if len(words) < 4 or words[3] not in WHEN or (words[3] == "never") != (len(words) == 5):
        raise BadInput(f"{where}: want arch, mode, config, and always, slow, or never with its "
                       f"reason; got: {line}")
    why = words[4] if len(words) == 5 else ""
    kind, _, llvm = words[2].partition("LLVM=")
    cell = Cell(words[0], words[1], kind.strip("-"), words[3], why, llvm)
    if cell.when != "never":
        if cell.mode not in [mode.name for mode in arch_.load(cell.arch).modes]:
            raise BadInput(f"{where}: {cell.arch} has no mode {cell.mode}")
        if cell.config and not (arch_.IMAGES / f"{cell.config}.config").exists():
            raise BadInput(f"{where}: there is no guest-images/{cell.config}.config")
    return cell


def load(base: Base, path: pathlib.Path = ROOT / "ci" / "matrix") -> list[Cell]:
    """The cells; those that the base has nothing for are never booted."""
    cells = [parse(line, where) for where, line in rows(path)]
    nothing = {"when": "never", "why": "this base has nothing for it"}
    return [dataclasses.replace(cell, **nothing)
            if f"{cell.arch}/{cell.mode}" in base.lacks else cell for cell in cells]


def chosen(cells: Iterable[Cell], archs: Iterable[str], slow: bool,
           llvm: bool = False) -> tuple[list[Cell], list[Cell]]:
    """(those to boot, those that are left out), of these architectures.

    llvm: with another compiler as well, which is no part of a revision.
    """
    wanted = ("always", "slow") if slow else ("always",)
    mine = [cell for cell in cells if cell.arch in archs and (llvm or not cell.llvm)]
    return [c for c in mine if c.when in wanted], [c for c in mine if c.when not in wanted]

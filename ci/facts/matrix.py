# SPDX-License-Identifier: GPL-2.0
"""ci/matrix: which cells of architecture, mode and configuration there are."""
import dataclasses
import os

from ci.facts import arch as arch_
from ci.facts import cases
from ci.facts.arch import ROOT, BadInput

WHEN = ("always", "slow", "never")


@dataclasses.dataclass(frozen=True)
class Cell:
    arch: str
    mode: str
    config: str   # "" for the usual one
    when: str
    why: str      # of "never"

    @property
    def name(self):
        return "-".join(filter(None, (self.arch, self.mode, self.config)))

    @property
    def command(self):
        return f"make check ARCH={self.arch} MODE={self.mode}" + (f" CONFIG={self.config}" if self.config else "")


def parse(line, where):
    words = line.split(None, 4)
    if len(words) < 4 or words[3] not in WHEN or (words[3] == "never") != (len(words) == 5):
        raise BadInput(f"{where}: want arch, mode, config, and always, slow, or never with its reason; got: {line}")
    cell = Cell(words[0], words[1], "" if words[2] == "-" else words[2], words[3], words[4] if len(words) == 5 else "")
    if cell.when != "never":
        if cell.mode not in [mode.name for mode in arch_.load(cell.arch).modes]:
            raise BadInput(f"{where}: {cell.arch} has no mode {cell.mode}")
        if cell.config and not (ROOT / "guest-images" / f"{cell.config}.config").exists():
            raise BadInput(f"{where}: there is no guest-images/{cell.config}.config")
    return cell


def load(path=ROOT / "ci" / "matrix"):
    """The cells; those that the base has nothing for are never booted."""
    lacks = cases.lacking()
    cells = [parse(line, f"{path}:{number}") for number, line in enumerate(path.read_text().splitlines(), 1)
             if line.strip() and not line.startswith("#")]
    return [dataclasses.replace(cell, when="never", why="this base has nothing for it") if f"{cell.arch}/{cell.mode}" in lacks else cell
            for cell in cells]


def chosen(cells, archs):
    """(those to boot, those that are left out), of these architectures."""
    wanted = ("always", "slow") if os.environ.get("MATRIX") == "all" else ("always",)
    mine = [cell for cell in cells if cell.arch in archs]
    return [c for c in mine if c.when in wanted], [c for c in mine if c.when not in wanted]

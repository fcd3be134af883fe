# SPDX-License-Identifier: GPL-2.0
"""A flame graph, as SVG that needs nothing else: names in full where the mouse rests.

The idea is Brendan Gregg's: a frame is as wide as the samples that have it, on top of its
caller; siblings are in alphabetical order.
"""
import dataclasses
import pathlib
import zlib
from collections.abc import Iterable, Iterator

from ci.build import files
from ci.facts.text import BadInput
from ci.measure.tables import TEMPLATES

# Of all samples; a narrower frame could not be seen.
LEAST_SHARE = 0.00025


class Frame:
    def __init__(self) -> None:
        self.count = 0
        self.children: dict[str, Frame] = {}


def read_folded(lines: Iterable[str]) -> Frame:
    """The root of all stacks, from lines "frame;frame;... count", outermost first."""
    root = Frame()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdecimal():
            raise BadInput(f"not a folded stack: {line[:60]}")
        root.count += int(count)
        frame = root
        for name in stack.split(";"):
            frame = frame.children.setdefault(name, Frame())
            frame.count += int(count)
    return root


@dataclasses.dataclass(frozen=True)
class Box:
    name: str
    start: int   # in samples, as the width is
    count: int
    level: int   # 0: the lowest

    @property
    def colour(self) -> str:
        """A warm one, the same for the same name."""
        value = zlib.crc32(self.name.encode())
        return f"rgb({205 + value % 50},{80 + value // 50 % 130},{value // 6500 % 55})"


def boxes(frame: Frame, box: Box, least: float) -> Iterator[Box]:
    if box.count < least:
        return
    yield box
    start = box.start
    for name, child in sorted(frame.children.items()):
        yield from boxes(child, Box(name, start, child.count, box.level + 1), least)
        start += child.count


def draw(path: pathlib.Path, title: str, root: Frame) -> None:
    drawn = list(boxes(root, Box("all", 0, root.count, 0), LEAST_SHARE * root.count))
    path.write_text(files.render(TEMPLATES / "flame.svg.j2", title=title, boxes=drawn))

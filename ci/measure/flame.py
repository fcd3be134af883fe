# SPDX-License-Identifier: GPL-2.0
"""A flame graph, as SVG that needs nothing else: names in full where the mouse rests.

The idea is Brendan Gregg's: a frame is as wide as the samples that have it, on top of its
caller; siblings are in alphabetical order.
"""
import html
import pathlib
import zlib
from collections.abc import Iterable, Iterator

from ci.facts.text import BadInput

WIDTH, ROW, MARGIN, TITLE = 1200, 17, 10, 40
# Narrower frames are left out, and text in narrower ones
LEAST_WIDTH, LEAST_TEXT, CHARACTER = 0.3, 24, 6.8


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


class Picture:
    def __init__(self, root: Frame):
        self.root, self.total = root, max(1, root.count)
        self.scale = (WIDTH - 2 * MARGIN) / self.total
        self.height = TITLE + 2 * MARGIN + ROW * self.depth(root)

    def depth(self, frame: Frame) -> int:
        wide = [c for c in frame.children.values() if c.count * self.scale >= LEAST_WIDTH]
        return 1 + max(map(self.depth, wide), default=0)

    def boxes(self, frame: Frame, name: str, x: float, level: int) -> Iterator[str]:
        width = frame.count * self.scale
        if width < LEAST_WIDTH:
            return
        y = self.height - MARGIN - ROW * (level + 1)
        share = 100 * frame.count / self.total
        title = html.escape(f"{name}: {frame.count} samples, {share:.1f} %")
        yield (f'<g><title>{title}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
               f'height="{ROW - 1}" fill="{colour(name)}" rx="1"/>')
        if width >= LEAST_TEXT:
            fits = len(name) * CHARACTER < width
            text = name if fits else name[:max(1, int(width / CHARACTER) - 2)] + ".."
            yield f'<text x="{x + 3:.1f}" y="{y + ROW - 5}">{html.escape(text)}</text>'
        yield "</g>"
        for child_name, child in sorted(frame.children.items()):
            yield from self.boxes(child, child_name, x, level + 1)
            x += child.count * self.scale


def colour(name: str) -> str:
    """A warm one, the same for the same name."""
    value = zlib.crc32(name.encode())
    return f"rgb({205 + value % 50},{80 + value // 50 % 130},{value // 6500 % 55})"


def draw(path: pathlib.Path, title: str, root: Frame) -> None:
    picture = Picture(root)
    path.write_text("\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{picture.height}" '
        f'viewBox="0 0 {WIDTH} {picture.height}" font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{picture.height}" fill="#ffffff"/>',
        f'<text x="{WIDTH / 2}" y="24" font-size="15" text-anchor="middle">{html.escape(title)}'
        '</text>', *picture.boxes(root, "all", MARGIN, 0), "</svg>", ""]))

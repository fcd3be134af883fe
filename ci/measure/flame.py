# SPDX-License-Identifier: GPL-2.0
"""A flame graph, as SVG that needs nothing else: names in full where the mouse rests.

The idea is Brendan Gregg's: a frame is as wide as the samples that have it, on top of its
caller; siblings are in alphabetical order.
"""
import html
import zlib

from ci.facts.arch import BadInput

WIDTH, ROW, MARGIN, TITLE = 1200, 17, 10, 40
# Narrower frames are left out, and text in narrower ones
LEAST_WIDTH, LEAST_TEXT, CHARACTER = 0.3, 24, 6.8


class Frame:
    def __init__(self):
        self.count, self.children = 0, {}


def read_folded(lines):
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


def depth_of(frame, scale):
    wide = [child for child in frame.children.values() if child.count * scale >= LEAST_WIDTH]
    return 1 + max((depth_of(child, scale) for child in wide), default=0)


def colour(name):
    """A warm one, the same for the same name."""
    value = zlib.crc32(name.encode())
    return f"rgb({205 + value % 50},{80 + value // 50 % 130},{value // 6500 % 55})"


def boxes(frame, name, x, level, scale, height, total):
    width = frame.count * scale
    if width < LEAST_WIDTH:
        return
    y = height - MARGIN - ROW * (level + 1)
    title = html.escape(f"{name}: {frame.count} samples, {100 * frame.count / total:.1f} %")
    yield (f'<g><title>{title}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" '
           f'fill="{colour(name)}" rx="1"/>')
    if width >= LEAST_TEXT:
        text = name if len(name) * CHARACTER < width else name[:max(1, int(width / CHARACTER) - 2)] + ".."
        yield f'<text x="{x + 3:.1f}" y="{y + ROW - 5}">{html.escape(text)}</text>'
    yield "</g>"
    for child_name, child in sorted(frame.children.items()):
        yield from boxes(child, child_name, x, level + 1, scale, height, total)
        x += child.count * scale


def draw(path, title, root):
    scale = (WIDTH - 2 * MARGIN) / max(1, root.count)
    height = TITLE + 2 * MARGIN + ROW * depth_of(root, scale)
    path.write_text("\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{WIDTH / 2}" y="24" font-size="15" text-anchor="middle">{html.escape(title)}</text>',
        *boxes(root, "all", MARGIN, 0, scale, height, max(1, root.count)), "</svg>", ""]))

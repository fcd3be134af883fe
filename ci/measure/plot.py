# SPDX-License-Identifier: GPL-2.0
"""Pictures of what was measured, by gnuplot: NAME.svg, NAME.png, and NAME.gp, which made them."""
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ci.facts.text import BadInput
from ci.judge.check import Status

TERMINALS = {"svg": "svg size {},{} background '#ffffff' font 'sans,12'",
             "png": "pngcairo size {},{} font 'sans,10'"}
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222")
Points = Sequence[tuple[float, float]]


def check() -> None:
    """Before hours of measuring, not after."""
    if not shutil.which("gnuplot"):
        raise BadInput("gnuplot not found: run make deps")


def afterwards(status: int, function: Callable[..., None], *arguments: Any) -> int:
    """Draw when all else is saved and said; returns the exit status."""
    try:
        function(*arguments)
    except BadInput as error:
        print(f"ci: no picture: {error}", file=sys.stderr)
        return status or Status.HARNESS.exit_status
    return status


def quoted(text: str) -> str:
    return '"' + text.replace("_", "\\\\_").replace('"', "'") + '"'


def block(name: str, rows: Iterable[Iterable[object]]) -> str:
    """A gnuplot data block of rows of values."""
    return "\n".join([f"${name} << EOD", *(" ".join(map(str, row)) for row in rows), "EOD"])


def draw(directory: pathlib.Path, name: str, script: str, width: int, height: int) -> None:
    """Run the script for each format; @script draws to whatever terminal is set."""
    (directory / f"{name}.gp").write_text(script)
    for suffix, terminal in TERMINALS.items():
        head = f"set terminal {terminal.format(width, height)}\nset output '{name}.{suffix}'\n"
        done = subprocess.run(["gnuplot"], input=head + script, text=True, capture_output=True,
                              check=False, cwd=directory)
        if done.returncode or "warning" in done.stderr:
            raise BadInput(f"{directory}/{name}.gp: {done.stderr.strip()}")


def curves(name: str, charts: Mapping[str, Mapping[str, Points]], labels: tuple[str, str],
           options: str, directory: pathlib.Path,
           style: str = "linespoints pt 7 ps 0.4") -> None:
    """Charts side by side: {title: {label: [(x, y)]}}; @labels: of x and y."""
    charts = {title: found for title, found in charts.items() if any(found.values())}
    if not charts:
        return
    script = ["set grid", "set rmargin 6", options, f"set multiplot layout 1,{len(charts)}",
              f"set xlabel {quoted(labels[0])}", f"set ylabel {quoted(labels[1])}"]
    for chart, (title, found) in enumerate(charts.items()):
        parts = []
        drawn = [(label, points) for label, points in found.items() if points]
        for i, (label, points) in enumerate(drawn):
            look = f"lc rgb '{COLOURS[i % len(COLOURS)]}' dt {1 + i // len(COLOURS)} lw 2"
            script.append(block(f"d{chart}_{i}", points))
            parts.append(f"$d{chart}_{i} using 1:2 with {style} {look} title {quoted(label)}")
        script += [f"set title {quoted(title)}", "plot " + ", ".join(parts)]
    draw(directory, name, "\n".join(script) + "\nunset multiplot\n", 520 * len(charts), 420)


STACKED = """set style data histograms
set style histogram rowstacked
set style fill solid 0.9
set boxwidth 0.7
set xtics rotate by -35 nomirror
set yrange [0:]
set grid ytics
set key outside bottom center horizontal maxrows 4"""


def stacks(name: str, charts: Mapping[str, Mapping[str, Mapping[str, float]]],
           groups: Sequence[str], ylabel: str, directory: pathlib.Path) -> None:
    """Stacked bars, charts side by side: {title: {label: {group: value}}}."""
    script = [STACKED, f"set ylabel {quoted(ylabel)}", f"set multiplot layout 1,{len(charts)}"]
    looks = list(zip(COLOURS[:len(groups)], groups, strict=True))
    for i, (title, bars) in enumerate(charts.items()):
        script.append(block(f"d{i}", [(quoted(label), *(f"{bar.get(g, 0):.1f}" for g in groups))
                                      for label, bar in bars.items()]))
        script += [f"set title {quoted(title)}", "plot " + ", ".join(
            f"$d{i} using {n}{':xtic(1)' if n == 2 else ''} lc rgb '{colour}' title {quoted(group)}"
            for n, (colour, group) in enumerate(looks, 2))]
    draw(directory, name, "\n".join(script) + "\nunset multiplot\n", 520 * len(charts), 520)

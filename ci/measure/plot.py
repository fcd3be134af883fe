# SPDX-License-Identifier: GPL-2.0
"""Pictures of what was measured, by gnuplot: NAME.svg, NAME.png, and NAME.gp, which made them."""
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ci.build import files
from ci.facts.text import BadInput
from ci.judge.check import Status
from ci.measure.tables import TEMPLATES

TERMINALS = {"svg": "svg size {},{} background '#ffffff' font 'sans,12'",
             "png": "pngcairo size {},{} font 'sans,10'"}
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222")
CHART_WIDTH = 520
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


def draw(directory: pathlib.Path, name: str, text: str, width: int, height: int) -> None:
    """Run the script for each format; it draws to whatever terminal is set."""
    (directory / f"{name}.gp").write_text(text)
    for suffix, terminal in TERMINALS.items():
        head = f"set terminal {terminal.format(width, height)}\nset output '{name}.{suffix}'\n"
        done = subprocess.run(["gnuplot"], input=head + text, text=True, capture_output=True,
                              check=False, cwd=directory)
        if done.returncode or "warning" in done.stderr:
            raise BadInput(f"{directory}/{name}.gp: {done.stderr.strip()}")


def curves(name: str, charts: Mapping[str, Mapping[str, Points]], labels: tuple[str, str],
           options: str, directory: pathlib.Path,
           style: str = "linespoints pt 7 ps 0.4") -> None:
    """Charts side by side: {title: {label: [(x, y)]}}; @labels: of x and y."""
    drawn = {title: {label: points for label, points in chart.items() if points}
             for title, chart in charts.items() if any(chart.values())}
    if drawn:
        text = files.render(TEMPLATES / "curves.gp.j2", charts=drawn, labels=labels,
                            options=options, style=style, colours=COLOURS, quoted=quoted)
        draw(directory, name, text, CHART_WIDTH * len(drawn), 420)


def stacks(name: str, charts: Mapping[str, Mapping[str, Mapping[str, float]]],
           groups: Sequence[str], ylabel: str, directory: pathlib.Path) -> None:
    """Stacked bars, charts side by side: {title: {label: {group: value}}}."""
    drawn = {title: bars for title, bars in charts.items() if bars}
    colours = dict(zip(groups, COLOURS[:len(groups)], strict=True))
    if drawn:
        text = files.render(TEMPLATES / "stacks.gp.j2", charts=drawn, colours=colours,
                            ylabel=ylabel, quoted=quoted)
        draw(directory, name, text, CHART_WIDTH * len(drawn), 520)

# SPDX-License-Identifier: GPL-2.0
"""Pictures of what was measured, by gnuplot: NAME.svg, NAME.png, and NAME.gp, which made them."""
import shutil
import subprocess
import sys

from ci.facts.arch import BadInput
from ci.judge.verdict import Verdict

TERMINALS = {"svg": "svg size {width},{height} background '#ffffff' font 'sans,12'",
             "png": "pngcairo size {width},{height} font 'sans,10'"}
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222")


def check():
    """Before hours of measuring, not after."""
    if not shutil.which("gnuplot"):
        raise BadInput("gnuplot not found: run make deps")


def afterwards(status, function, *arguments):
    """Draw when all else is saved and said; returns the exit status."""
    try:
        function(*arguments)
    except BadInput as error:
        print(f"ci: no picture: {error}", file=sys.stderr)
        return status or int(Verdict.HARNESS)
    return status


def quoted(text):
    return '"' + text.replace("_", "\\\\_").replace('"', "'") + '"'


def block(name, rows):
    """A gnuplot data block of rows of values."""
    return "\n".join([f"${name} << EOD", *(" ".join(map(str, row)) for row in rows), "EOD"])


def draw(directory, name, script, size):
    """Run the script for each format; @script draws to whatever terminal is set."""
    (directory / f"{name}.gp").write_text(script)
    for suffix, terminal in TERMINALS.items():
        head = f"set terminal {terminal.format(width=size[0], height=size[1])}\nset output '{name}.{suffix}'\n"
        done = subprocess.run(["gnuplot"], input=head + script, text=True, capture_output=True, check=False, cwd=directory)
        if done.returncode or "warning" in done.stderr:
            raise BadInput(f"{directory}/{name}.gp: {done.stderr.strip()}")


def panels(titles):
    return f"set multiplot layout 1,{len(titles)}\n"


def curves(name, charts, xlabel, ylabel, options, directory, style="linespoints pt 7 ps 0.4"):
    """Charts side by side: {title: {label: [(x, y)]}}."""
    script, plots = ["set grid", "set rmargin 6", options, panels(charts), f"set xlabel {quoted(xlabel)}", f"set ylabel {quoted(ylabel)}"], 0
    for title, found in charts.items():
        parts = []
        for i, (label, points) in enumerate((label, points) for label, points in found.items() if points):
            look = f"lc rgb '{COLOURS[i % len(COLOURS)]}' dt {1 + i // len(COLOURS)} lw 2"
            script.append(block(f"d{plots}", points))
            parts.append(f"$d{plots} using 1:2 with {style} {look} title {quoted(label)}")
            plots += 1
        script += [f"set title {quoted(title)}", "plot " + ", ".join(parts)]
    draw(directory, name, "\n".join(script) + "\nunset multiplot\n", (520 * len(charts), 420))


def stacks(name, charts, groups, ylabel, directory):
    """Stacked bars, charts side by side: {title: {label: {group: value}}}."""
    script = ["set style data histograms", "set style histogram rowstacked", "set style fill solid 0.9",
              "set boxwidth 0.7", "set xtics rotate by -35 nomirror", "set yrange [0:]", "set grid ytics",
              "set key outside bottom center horizontal maxrows 4", f"set ylabel {quoted(ylabel)}", panels(charts)]
    for i, (title, bars) in enumerate(charts.items()):
        script.append(block(f"d{i}", [(quoted(label), *(f"{parts.get(g, 0):.1f}" for g in groups))
                                      for label, parts in bars.items()]))
        script += [f"set title {quoted(title)}", "plot " + ", ".join(
            f"$d{i} using {n + 2}{':xtic(1)' if not n else ''} lc rgb '{colour}' title {quoted(group)}"
            for n, (colour, group) in enumerate(zip(COLOURS[:len(groups)], groups, strict=True)))]
    draw(directory, name, "\n".join(script) + "\nunset multiplot\n", (520 * len(charts), 520))

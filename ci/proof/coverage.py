# SPDX-License-Identifier: GPL-2.0
"""Run the cases on a kernel with gcov, and say which lines of the series were executed.

usage: coverage.py ARCH...    (what make coverage calls, with CONFIG=gcov)

A line of the series is one that it adds or changes in what is built for the architecture.
Each that has a counter ("-": none, a declaration or what the compiler has merged with
another) must have been executed, in any mode, or be excused by a line of
kernel-patches/BASE/uncovered:
	architecture or all | file | text of the line | reason
which is for one line; another of the same text wants one more.  One of an architecture
that no line needs is a failure as well.

Writes results/RUN/coverage.txt and, if all cases ran, results/coverage.txt.
Exit status: as ci/judge/suite.py; 1 also for a line that was not executed and has no excuse.
"""
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from ci.judge import results as run
from ci.facts.arch import ROOT, BadInput

# "path\n", the size in hexadecimal, and the data; last "end\n" and how many there were
RECORD = re.compile(rb"([^\n]+)\n([0-9a-f]{8})\n")
HUNK = re.compile(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@")


def series_lines(tree):
    """{file: {number: text}} of the lines that the series adds to C code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    diff = subprocess.run(["git", "-C", tree, "diff", "-U0", "origin/base", "HEAD", "--", "*.c", "*.h",
                           ":!tools", ":!Documentation"], capture_output=True, text=True, check=True, env=environment).stdout
    found, path, number = collections.defaultdict(dict), "", 0
    for line in diff.splitlines():
        hunk = HUNK.match(line)
        if line.startswith("+++ b/"):
            path = line[6:]
        elif hunk:
            number = int(hunk[1])
        elif line.startswith("+") and not line.startswith("+++"):
            found[path][number] = line[1:]
            number += 1
    return found


def records(raw):
    """(path of the .gcda, its bytes) as init.c's send_counters() wrote them."""
    data, at, count = raw.read_bytes(), 0, 0
    while True:
        match = RECORD.match(data, at)
        if not match:
            raise BadInput(f"{raw} was cut off")
        size, at = int(match[2], 16), match.end()
        if match[1] == b"end":
            break
        if at + size > len(data):
            raise BadInput(f"{raw} was cut off")
        yield match[1].decode(), data[at:at + size]
        at, count = at + size, count + 1
    if size != count:
        raise BadInput(f"{raw} has {count} of {size} files")


def source_of(name, tree):
    """A source as gcov names it, relative to the tree."""
    path = os.path.normpath(os.path.join(tree, name))
    return os.path.relpath(path, tree) if path.startswith(tree + os.sep) else ""


def count_lines(gcov, objects, tree, path, data, counts):
    """Add what one .gcda says to counts[file][line]."""
    relative = path.split(f"/{objects.name}/", 1)[1]
    with tempfile.TemporaryDirectory() as directory:
        gcda = pathlib.Path(directory, pathlib.Path(relative).name)
        gcda.write_bytes(data)
        notes = (objects / relative).with_suffix(".gcno")
        gcda.with_suffix(".gcno").write_bytes(notes.read_bytes())
        text = subprocess.run([gcov, "--json-format", "--stdout", gcda.name], cwd=directory,
                              capture_output=True, check=True).stdout
    for file in json.loads(text)["files"]:
        source = source_of(os.path.join(str(objects), file["file"]), tree)
        for line in file["lines"]:
            counts[source][line["line_number"]] += line["count"]


def count_boot(boot, counts):
    objects = pathlib.Path(run.knob("OUT")).resolve() / "patched" / "linux" / f"out-{boot.request.arch.name}-gcov"
    cross = boot.request.arch.cross
    gcov = "gcov" if cross == f"{os.uname().machine}-linux-gnu-" else f"{cross}gcov"
    found = list(records(boot.directory / "gcov.raw"))
    if not found:
        raise BadInput(f"{boot.directory}/gcov.raw is empty: is the kernel one of CONFIG=gcov?")
    for path, data in found:
        count_lines(gcov, objects, str(objects.parent), path, data, counts)


def check_built(arch, lines, counts):
    """What was compiled has counters: else its lines would be missing unnoticed."""
    objects = pathlib.Path(run.knob("OUT")).resolve() / "patched" / "linux" / f"out-{arch}-gcov"
    for file in lines:
        if (objects / file).with_suffix(".o").exists() and file not in counts:
            raise BadInput(f"{file} is in the kernel of {arch}, but has no counters: GCOV_PROFILE_ in guest-images/guest.mk?")


def load_excuses(path):
    excuses = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        if line.strip() and not line.startswith("#"):
            fields = line.split(" | ")
            if len(fields) != 4:
                raise BadInput(f"{path}:{number}: want architecture | file | line | reason")
            excuses.append(fields)
    return excuses


def take_excuse(left, arch, file, text):
    """One of what is left: it is for one line, not for each of the same text."""
    for i, excuse in enumerate(left):
        if excuse[0] in ("all", arch) and excuse[1:3] == [file, text.strip()]:
            return left.pop(i)
    return None


def report(arch, lines, counts, excuses):
    """(text, number of lines with code, number of lines or excuses that want attention)"""
    out, code, executed, open_, left = [], 0, 0, 0, list(excuses)
    built = [file for file in sorted(lines) if file in counts]
    for file in built:
        for number, text in lines[file].items():
            if number not in counts[file]:
                if text.strip():
                    out.append(f"{'-':>9} {file}:{number}: {text.strip()}")
                continue
            count = counts[file][number]
            excuse = None if count else take_excuse(left, arch, file, text)
            code, executed, open_ = code + 1, executed + bool(count), open_ + (not count and not excuse)
            out.append(f"{count or '#####':>9} {file}:{number}: {text.strip()}" + (f"   [{excuse[3]}]" if excuse else ""))
    head = f"{arch}: {executed} of {code} lines with code executed, {open_} neither executed nor excused"
    idle = [e for e in left if e[0] == arch]
    out += [f"          executed, or not of the series, though excused: {e[1]}: {e[2]}" for e in idle]
    open_ += len(idle)
    absent = [f for f in sorted(lines) if f not in counts and f.endswith(".c")]
    return "\n".join([head, *out, *(f"          not built here: {f}" for f in absent), ""]), code, open_


def main(archs):
    excuses = load_excuses(ROOT / "kernel-patches" / run.knob("BASE") / "uncovered")
    lines = series_lines(pathlib.Path(run.knob("OUT")) / "patched" / "linux")
    this = run.Run("coverage")
    try:
        for request in run.requests(archs, "tests"):
            this.boot(request)
    finally:
        failed = status = this.summary()
    texts = []
    for arch in archs:
        counts = collections.defaultdict(collections.Counter)
        for boot in this.boots:
            if boot.request.arch.name == arch:
                count_boot(boot, counts)
        check_built(arch, lines, counts)
        text, code, open_ = report(arch, lines, counts, excuses)
        texts.append(text)
        status = status or int(not code or open_ > 0)
    (this.directory / "coverage.txt").write_text("\n".join(texts))
    print("\n".join(texts), end="")
    if not failed and run.knob("BASE") == run.bases()[0] and not run.knob("CASES") and not run.knob("MODE") and len(archs) > 1:
        (ROOT / "results" / "coverage.txt").write_text("\n".join(texts))
    return status


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))

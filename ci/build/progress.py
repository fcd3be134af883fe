# SPDX-License-Identifier: GPL-2.0
"""Build steps: output goes to a log, one line says how it goes."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

from ci.facts.text import BadInput

# Compilers' command lines are cut.  Our own lines are not: their end says what to do.
TAIL_LINES, TAIL_COLUMNS = 25, 160
# Of a parallel build, which goes on for more than the tail.
FIRST_ERRORS = 5
ERROR = re.compile(r"\berror: |undefined reference|\*\*\*", re.IGNORECASE)
OURS = re.compile(r"(apply|fetch|busybox|perf|guest\.mk): ")
# Between signs of life: on a terminal, and where each one is a line of a log.
TTY_SECONDS, LOG_SECONDS = 0.5, 15
# However this process ends, what it calls does too.
WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")


def show(text: str, tty: bool) -> None:
    if tty:
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("\r\033[K" + text[:width])
    else:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()


def log_lines(path: pathlib.Path) -> int:
    with open(path, "rb") as log:
        return sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 16), b""))


def watch(process: "subprocess.Popen[bytes]", name: str, path: pathlib.Path) -> int:
    """Show name, elapsed time and lines of output until the process ends."""
    tty, start, shown = sys.stdout.isatty(), time.monotonic(), time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        now = time.monotonic()
        if now - shown >= (TTY_SECONDS if tty else LOG_SECONDS):
            shown = now
            show(f"  {name:<28} {now - start:4.0f} s  {log_lines(path)} lines", tty)
    if tty:
        show("", tty)
    print(f"  {name:<28} {time.monotonic() - start:4.0f} s", flush=True)
    return process.returncode


def telling(lines: list[str]) -> list[str]:
    errors = [line for line in lines[:-TAIL_LINES] if ERROR.search(line)]
    return errors[:FIRST_ERRORS] + lines[-TAIL_LINES:]


def failure(name: str, path: pathlib.Path, status: int) -> BadInput:
    """Print what tells of it; the exception says where all of it is."""
    for line in telling(path.read_text(errors="replace").splitlines()):
        print("    " + (line if OURS.match(line) else line[:TAIL_COLUMNS]), file=sys.stderr)
    return BadInput(f"{name} failed (exit {status}); its first errors and last lines are above; "
                    f"full log: {path}")


def show_notes(path: pathlib.Path) -> None:
    """What a person has to know though all went well."""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("note: "):
            print("  " + line, flush=True)


def end(process: "subprocess.Popen[bytes]") -> None:
    """All of its session: make ends the shell that it runs, but not the compiler below that."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def start(command: Sequence[str], log: IO[Any] | None, **more: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*WITH_US, *command], stdin=subprocess.DEVNULL, stdout=log,
                            stderr=log, start_new_session=True, close_fds=False, **more)


def call(command: Sequence[str], log: IO[Any] | None, **more: Any) -> int:
    """The exit status of a command whose output goes to a log.

    An exception here, as by ctrl-C, ends all that it has begun.  A signal that ends us without
    one ends the command alone.
    """
    process = start(command, log, **more)
    try:
        return process.wait()
    except BaseException:
        end(process)
        raise


def step(name: str, path: pathlib.Path, command: Sequence[str], verbose: bool = False,
         **more: Any) -> None:
    """Run one step of a build; BadInput if it fails."""
    if verbose:
        status = call(command, None, **more)
        if status:
            raise BadInput(f"{name} failed (exit {status})")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as log:
        process = start(command, log, **more)
        try:
            status = watch(process, name, path)
        except BaseException:
            end(process)
            raise
    if status:
        raise failure(name, path, status)
    show_notes(path)


class TimeLeft:
    """How long a list of steps may still take: each has a weight, by a rule of thumb."""

    def __init__(self, weights: Iterable[float]):
        self.left, self.done, self.spent = sum(weights), 0.0, 0.0

    def __str__(self) -> str:
        minutes = self.spent / self.done * self.left / 60 if self.done else 0
        return f", some {minutes:.0f} min left" if minutes >= 1 else ""

    def add(self, weight: float, seconds: float) -> None:
        self.left -= weight
        if seconds > 1:   # else it was known before
            self.done, self.spent = self.done + weight, self.spent + seconds

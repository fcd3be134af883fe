# SPDX-License-Identifier: GPL-2.0
"""Boot a guest and follow it to its end.  No opinion on results: see ci/judge/verdict.py."""
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

from ci.boot import ktap, qemu
from ci.boot.request import Outcome, Request
from ci.build.progress import LOG_SECONDS, TTY_SECONDS, show

# For whoever has guests in other threads than the one that ctrl-C reaches
STOP = threading.Event()


class Tail:
    """Whole new lines of a file that somebody else writes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.offset, self.rest = path, 0, b""

    def lines(self) -> list[str]:
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        self.offset += len(data)
        *whole, self.rest = (self.rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


class Watch:
    """Follow one machine until it ends, with a deadline for whatever it is doing."""

    def __init__(self, request: Request, directory: pathlib.Path) -> None:
        self.request, self.stream = request, ktap.Stream()
        self.tail = Tail(directory / "tests.ktap")
        self.start = self.since = time.monotonic()
        self.stage, self.limit = "booting", request.boot_seconds * request.config.scale
        self.grace = request.grace_seconds * request.config.scale
        self.tty, self.shown = sys.stdout.isatty(), 0.0

    def poll(self) -> None:
        lines = self.tail.lines()
        for line in lines:
            self.stream.feed(line)
        if lines:
            self.restart_clock()
        self.show()

    def restart_clock(self) -> None:
        running = self.stream.running
        stage, limit = "between cases", self.grace
        if running:
            stage, limit = running[0], running[1] + self.grace
        elif self.stream.ended:
            stage = "ending"
        if stage != self.stage:
            self.stage, self.limit, self.since = stage, limit, time.monotonic()

    def overdue(self) -> bool:
        return time.monotonic() - self.since > self.limit

    def show(self) -> None:
        now = time.monotonic()
        if now - self.shown < (TTY_SECONDS if self.tty else LOG_SECONDS):
            return
        self.shown = now
        done, plan = len(self.stream.results), self.stream.plan or len(self.request.cases)
        show(f"  {self.request.name:<14} {now - self.start:4.0f} s  {done}/{plan} done, "
             f"{self.stage} for {now - self.since:.0f} s", self.tty)


def end_of(process: "subprocess.Popen[bytes]", watch: Watch) -> tuple[str, str]:
    """Wait for the end of QEMU.  Returns (how, detail)."""
    while process.poll() is None:
        time.sleep(0.02)
        watch.poll()
        if STOP.is_set():
            return "interrupted", f"interrupted during {watch.stage}"
        if watch.overdue():
            process.kill()
            process.wait()
            return "timeout", f"{watch.stage} took longer than {watch.limit} s"
    watch.poll()
    if process.returncode < 0:
        return "killed", f"QEMU was killed by {signal.Signals(-process.returncode).name}"
    if process.returncode:
        return "killed", f"QEMU exited with status {process.returncode}, see qemu.log"
    return "exited", ""


def run(request: Request, directory: pathlib.Path) -> Outcome:
    """Boot.  The directory must exist and be empty."""
    argv = qemu.command(request, directory)
    (directory / "command").write_text(shlex.join(argv) + "\n")
    watch = Watch(request, directory)
    with open(directory / "qemu.log", "wb") as log:
        # However this process dies, QEMU does not outlive it.
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
        try:
            how, detail = end_of(process, watch)
        except KeyboardInterrupt:
            how, detail = "interrupted", f"interrupted during {watch.stage}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if watch.tty:
        show("", True)
    if watch.tail.rest:
        watch.stream.problem("cut off in the middle of a line")
    return Outcome(watch.stream, how, detail, time.monotonic() - watch.start)

# SPDX-License-Identifier: GPL-2.0
"""Run one build step: its output goes to a log, one line says how it goes.

usage: step.py [--verbose] NAME LOG COMMAND...

Exit status: that of COMMAND.  If it fails, the end of the log goes to stderr, and the first
errors ahead of it.
"""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

# Compilers' command lines are cut; what we say is not, for its end says what to do.
TAIL_LINES, TAIL_COLUMNS = 25, 160
# Of a build in parallel, which goes on for more than the tail.
FIRST_ERRORS = 5
ERROR = re.compile(r"\berror: |undefined reference|\*\*\*", re.IGNORECASE)
OURS = re.compile(r"(apply|fetch|check|config_check|busybox|perf): ")
# Between signs of life: on a terminal, and where each one is a line of a log.
TTY_SECONDS, LOG_SECONDS = 0.5, 15


def show(text, tty):
    if tty:
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("\r\033[K" + text[:width])
    else:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()


def log_lines(path):
    with open(path, "rb") as log:
        return sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 16), b""))


def watch(process, name, path):
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


def telling(lines):
    errors = [line for line in lines[:-TAIL_LINES] if ERROR.search(line)]
    return errors[:FIRST_ERRORS] + lines[-TAIL_LINES:]


def fail(name, path, status):
    with open(path, errors="replace") as log:
        for line in telling(log.read().splitlines()):
            print("    " + (line if OURS.match(line) else line[:TAIL_COLUMNS]), file=sys.stderr)
    print(f"step: {name} failed (exit {status}); its first errors and last lines are above, all of it is in {path}",
          file=sys.stderr)


def show_notes(path):
    """What a person has to know though all went well."""
    with open(path, errors="replace") as log:
        for line in log:
            if line.startswith("note: "):
                print("  " + line.rstrip("\n"), flush=True)


def call(command, log, **more):
    """The exit status of a command whose output goes to a log.

    An exception here, as by ctrl-C, ends all that it has begun; a signal that ends us without
    one, the command alone.
    """
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               start_new_session=True, **more)
    try:
        return process.wait()
    except BaseException:
        # All of its session: make ends the shell that it runs, but not the compiler below that.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise


def main(argv):
    verbose = argv[:1] == ["--verbose"]
    name, path, *command = argv[verbose:]
    if verbose:
        return subprocess.call(command)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Ctrl-C reaches the command as well: let it end, then say so.  Other signals don't.
    signal.signal(signal.SIGINT, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with open(path, "wb") as log:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *command],
                                       stdout=log, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, close_fds=False)
            status = watch(process, name, path)
    except OSError as error:
        print(f"step: {name}: {error}", file=sys.stderr)
        return 2
    if status:
        fail(name, path, status)
    else:
        show_notes(path)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

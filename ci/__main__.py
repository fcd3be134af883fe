# SPDX-License-Identifier: GPL-2.0
"""usage: python3 -m ci COMMAND [WORD...]    (make COMMAND; knobs come from the environment)"""
import dataclasses
import errno
import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence

from ci import config as config_
from ci.config import Config
from ci.facts.text import ROOT, BadInput


@dataclasses.dataclass(frozen=True)
class Command:
    name: str
    place: str                   # "package.module.function" of (Config) -> exit status
    text: str                    # of make help; "" if it is for scripts
    own: tuple[str, ...] = ()    # knobs that it sets itself
    ours: bool = False           # judges our own series: refuses KERNEL=


THE_CASES = ("mode", "cases", "config")
COMMANDS = [
    Command("help", "help", ""),
    Command("deps", "deps", "install Debian's packages (as root); LLVM=1: clang too"),
    Command("check", "judge.suite.check", "boot the series, run every case: the verdict"),
    Command("bench", "measure.faults.bench", "instructions of a fault, by mode: exact counts"),
    Command("scale", "measure.scaling.scale", "faults of many vCPUs at once: lockstep model"),
    Command("profile", "measure.contention.profile", "events, locks, flame graphs of a fault",
            own=("config",)),
    Command("revision", "publish.report.revision",
            "judge each patch and the whole; mail, page, JSON",
            own=(*THE_CASES, "series"), ours=True),
    Command("check-series", "revision.judge.check_series", "checkpatch and a build of each patch",
            ours=True),
    Command("series", "publish.mail.series", "what is mailed, in O/outgoing: V=n AGAINST=REVISION",
            ours=True),
    Command("check-mutants", "proof.defects.check_mutants",
            "break the series: each case has to notice",
            own=(*THE_CASES, "series", "timeout"), ours=True),
    Command("check-bench", "proof.defects.check_bench",
            "slow it down: bench and scale have to say so",
            own=(*THE_CASES, "series"), ours=True),
    Command("check-revision", "proof.defects.check_revision",
            "spoil a patch: revision says so first",
            own=(*THE_CASES, "series", "revision", "against", "patches"), ours=True),
    Command("coverage", "proof.coverage.coverage", "lines of the series that the cases execute",
            own=("config",), ours=True),
    Command("fuzz", "judge.suite.fuzz", "a million random memslot ioctls with CONFIG=debug (hours)",
            own=THE_CASES),
    Command("check-harness", "check_harness", "test the harness itself (pytest, mypy)"),
    Command("reference", "publish.readme.reference", "put the last run into results/ and README.md",
            ours=True),
    Command("images", "build.images.images", "build what check and bench boot"),
    Command("shell", "boot.shell.shell", "a shell in the guest, with the programs and cases"),
    Command("dist", "build.images.dist", "a tarball for a machine whose kernel has the series"),
    Command("clean", "build.images.clean", "remove what was built; results and the cache stay"),
    Command("run-matrix", "revision.cells.run_matrix", ""),
    Command("b4-check", "publish.b4.b4_check", ""),
]

REMEDIES = {errno.ENOSPC: "make room",
            errno.ENOENT: "make images has not been run, or was cleaned away",
            errno.EACCES: "RESULTS= names another place",
            errno.EROFS: "RESULTS= names another place"}
# For a wrong input, an unusable machine; and for ctrl-C: as of ci/judge/check.py
HARNESS, INTERRUPTED = 2, 130


def help(config: Config) -> int:
    print("make deps check          start here: the series on x86 and arm64, on any Debian\n"
          "make check ARCH=x86 MODE=npt CASES='exit_*'\n")
    lines = [f"  {command.name:<15} {command.text}" for command in COMMANDS if command.text]
    print("\n".join(lines) + "\n\n" + "\n".join(config_.help_lines()))
    given = config.given(*(field.name for field in dataclasses.fields(Config)
                           if field.name not in ("cache", "results", "jobs")))
    if given:
        print("\nnow: " + " ".join(given))
    return 0


def deps(config: Config) -> int:
    return subprocess.call([str(ROOT / "ci" / "deps"), *(["clang"] if config.llvm else [])])


def check_harness(config: Config) -> int:
    """The tests get an environment of their own: no knob of a person reaches them."""
    environment = config_.environment(PYTHONDONTWRITEBYTECODE="1")
    types = subprocess.call([sys.executable, "-m", "mypy", "--no-error-summary",
                             "--ignore-missing-imports", "--cache-dir", f"{config.cache}/mypy",
                             "ci"], cwd=ROOT, env=environment)
    tests = subprocess.call([sys.executable, "-m", "pytest", "-q", "-n", str(config.jobs),
                             "-p", "no:cacheprovider", *(["-v"] if config.verbose else []),
                             "ci/tests"], cwd=ROOT, env=environment)
    return types or tests


def refuse(command: Command, config: Config) -> None:
    """What a command sets itself, and what is none of its business."""
    given = [name.upper() for name in command.own
             if getattr(config, name) != getattr(Config(kernel=config.kernel), name)]
    if given:
        raise BadInput(f"{command.name} sets {', '.join(given)} itself: leave it unset")
    if command.ours and config.kernel:
        raise BadInput(f"KERNEL= is for somebody's tree; {command.name} is for kernel-patches/ "
                       "alone: unset it")


def function_of(command: Command):  # type: ignore[no-untyped-def]
    module, _, name = command.place.rpartition(".")
    return getattr(importlib.import_module(f"ci.{module}"), name) if module else globals()[name]


def run(name: str, words: Sequence[str]) -> int:
    command = next((c for c in COMMANDS if c.name == name), None)
    if not command:
        raise BadInput(f"{name}: no such command; make help lists them")
    takes_words = not command.text and name != "help"
    if words and not takes_words:
        raise BadInput(f"{' '.join(words)}: {name} takes no words; knobs come from the environment "
                       f"or from make: make {name} {' '.join(words)}")
    # A script of ours runs in somebody's shell, whose variables are not meant for us.
    config = Config() if name == "b4-check" else config_.load()
    refuse(command, config)
    return function_of(command)(config, *([words] if takes_words else []))


def remedy(error: OSError) -> str:
    """A program that is missing has no directory in its name; an image has."""
    if error.errno == errno.ENOENT and "/" not in str(error.filename):
        return "run make deps"
    return REMEDIES.get(error.errno or 0, "fix that and run again")


def listen() -> None:
    """Explicitly: a shell that starts a job in the background has it ignore ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)


def main(argv: Sequence[str]) -> int:
    listen()
    try:
        return run(argv[0] if argv else "help", argv[1:])
    except BadInput as error:
        said = str(error)
    except BrokenPipeError:   # of a reader that has seen enough: head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HARNESS
    except OSError as error:
        said = f"{error}; {remedy(error)}"
    except subprocess.SubprocessError as error:
        more = getattr(error, "stderr", None) or b""
        text = more if isinstance(more, str) else more.decode(errors="replace")
        said = f"{error} {text}".rstrip()
    except ImportError as error:
        said = f"{error}: run make deps"
    except Exception:   # of ours: status 1 would be a verdict on the series
        traceback.print_exc()
        said = "a fault of this program, above"
    except KeyboardInterrupt:
        print("ci: interrupted; partial results are kept, and marked", file=sys.stderr)
        return INTERRUPTED
    print(f"ci: {said}", file=sys.stderr)
    return HARNESS


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))

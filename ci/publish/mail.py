# SPDX-License-Identifier: GPL-2.0
"""make series: the series as it is mailed, in O/outgoing/vN-*.patch; nobody sends it.

The patches of kernel-patches/BASE, our tests as the last one (selftests/ has the only copy),
and the cover letter: the tables of results/ and, with AGAINST=, git range-diff against the
revision before.  Each mail is addressed to whom MAINTAINERS names for the whole.  git am of
all this on the base has to give the tree that is tested, plus the tests.
"""
import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from typing import Any

from ci.build import git as git_
from ci.build import images
from ci.build.git import git
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import base as base_
from ci.facts import cases as cases_
from ci.facts.text import ROOT, BadInput
from ci.publish import readme, template
from ci.revision import patchcheck
from ci.revision import series as series_
from ci.revision.series import Series

OURS, KVM = ROOT / "selftests", pathlib.PurePath("tools/testing/selftests/kvm")
# Where the rules are: the last of these that a tree has
MAKEFILES = ("Makefile", "Makefile.kvm")
# Has main(), which each program includes: the kernel's library may have none
MAIN = "lib_case.c"
HEADERS = {"harness.h": "memslot_harness.h", "kvm_compat.h": "memslot_compat.h",
           MAIN: "memslot_main.h"}
SENDER = {"GIT_COMMITTER_NAME": "KVM fast-only project",
          "GIT_COMMITTER_EMAIL": "kvm-fast-only@project.invalid"}
# A line of the cover letter that begins what git format-patch writes anew
SHORTLOG = re.compile(r"^.+ \(\d+\):$", re.MULTILINE)


# --- our tests, among the kernel's ---

def our_programs() -> dict[str, set[str]]:
    """{program: architectures} of the cases in selftests/."""
    found: dict[str, set[str]] = {}
    for case in cases_.load(cases_.FILES["tests"]):
        if (OURS / f"{case.command[0]}.c").exists():
            archs = arch_.names() if "all" in case.archs else case.archs
            found.setdefault(case.command[0], set()).update(a.split("/")[0] for a in archs)
    return found


def case_lines() -> str:
    """selftests/cases, of our own cases alone."""
    lines, programs = cases_.FILES["tests"].read_text().splitlines(keepends=True), our_programs()
    return "".join(line for line in lines if not line.strip() or line.startswith("#")
                   or line.split()[4] in programs)


def text_in_tree(name: str) -> str:
    text = (OURS / name).read_text()
    for header, there in HEADERS.items():
        text = text.replace(f'#include "{header}"', f'#include "{there}"')
    return text


def after(makefile: str, variable: str, lines: Iterable[str]) -> str:
    """The Makefile with lines of ours behind the last of a block that sets the variable."""
    place = re.search(rf"(?:^{variable} \+?=.*\n)+", makefile, re.MULTILINE)
    if not place:
        raise BadInput(f"the Makefile of {KVM} has no {variable}")
    ours = "".join(f"{line}\n" for line in lines)
    return makefile[:place.end()] + ours + makefile[place.end():]


def directory_of(arch: str, makefile: str) -> str:
    """What this tree calls an architecture's tests: its Makefile names variables after it."""
    names = arch_.load(arch).kvm_tests
    for name in names.split():
        if re.search(rf"^LIBKVM_{name} ", makefile, re.MULTILINE):
            return name
    raise BadInput(f"{KVM} knows none of {names}")


def makefile_with(text: str, programs: dict[str, set[str]], libraries: Iterable[str]) -> str:
    """Our library and programs, where the kernel's library has an architecture's code."""
    for arch in arch_.names():
        name = directory_of(arch, text)
        text = after(text, f"LIBKVM_{name}", [f"LIBKVM_{name} += {path}" for path in libraries])
        text = after(text, f"TEST_GEN_PROGS_{name}", [
            f"TEST_GEN_PROGS_EXTENDED_{name} += {program}"
            for program, archs in sorted(programs.items()) if arch in archs])
    return after(text, f"TEST_GEN_PROGS_{directory_of('arm64', text)}",
                 ["TEST_PROGS_EXTENDED += memslot_tests.sh", "TEST_FILES += memslot_cases"])


def tests(kvm: pathlib.Path) -> dict[str, str]:
    """{file: text} of our tests for the kernel's directory."""
    programs, main = our_programs(), f'\n#include "{HEADERS[MAIN]}"\n'
    libraries = {f"lib/{path.name.replace('lib_', 'memslot_')}": path.name
                 for path in sorted(OURS.glob("lib_*.c")) if path.name != MAIN}
    makefile = next(name for name in reversed(MAKEFILES) if (kvm / name).exists())
    return {**{f"{name}.c": text_in_tree(f"{name}.c") + main for name in programs},
            **{there: text_in_tree(name) for there, name in libraries.items()},
            **{f"include/{there}": text_in_tree(name) for name, there in HEADERS.items()},
            "memslot_tests.sh": (ROOT / "bench/dist/run-tests").read_text(),
            "memslot_cases": case_lines(),
            ".gitignore": (kvm / ".gitignore").read_text() + "!memslot_cases\n",
            makefile: makefile_with((kvm / makefile).read_text(), programs, libraries)}


def commit_tests(tree: pathlib.Path, author: str) -> None:
    new = tests(tree / KVM)
    for name, text in new.items():
        (tree / KVM / name).write_text(text)
    (tree / KVM / "memslot_tests.sh").chmod(0o755)
    # Whatever .gitignore says
    git(tree, "add", "-f", *(str(KVM / name) for name in new))
    git(tree, "commit", "-q", f"--author={author}", "-m",
        template.render("tests.txt", author=author))


# --- the mails ---

def quoted(config: Config, kind: str) -> tuple[dict[str, Any], str]:
    """(what results/ has of this base, ""), or (what it has of the default one, " on that")."""
    tables, default = readme.committed(kind), base_.DEFAULT
    own = config.base in tables
    return tables[config.base if own else default], "" if own else f" on {default}"


def cover(config: Config, blank: str, own: Series) -> str:
    """What git format-patch wrote, with our text for its markers."""
    if own.cover is None:
        raise BadInput(f"{own.where} has no cover letter")
    (counts, counts_on), (rates, rates_on) = quoted(config, "bench"), quoted(config, "scale")
    base, blurb = config.base_facts, SHORTLOG.split(own.cover.changelog)[0].strip("\n")
    text = template.render("cover.txt", blurb=blurb, base=f"Linux {base.tested} ({base.package})",
                           counts=counts, counts_on=counts_on, rates=rates, rates_on=rates_on)
    return (blank.replace("*** SUBJECT HERE ***", own.cover.subject)
            .replace("*** BLURB HERE ***", text.rstrip("\n")))


def addressed(tree: pathlib.Path, diff: pathlib.Path) -> list[str]:
    """To those who maintain what the series changes; reviewers and lists get copies."""
    diff.write_text(git(tree, "diff", "origin/base", "HEAD") + "\n")
    people = patchcheck.addresses(tree, diff, "--no-l", "--no-r")
    others = patchcheck.addresses(tree, diff, "--no-m")
    return [*(f"--to={one}" for one in people),
            *(f"--cc={one}" for one in others if one not in people)]


def applied(tree: pathlib.Path, mails: Series) -> str:
    """What git am makes of the base, as a commit beside this tree's own."""
    head = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "-q", "--detach", "origin/base")
    git(tree, "am", "--quiet", *(str(patch.path.resolve()) for patch in mails.patches))
    found = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "-q", "--detach", head)
    return found


def compared(config: Config, tree: pathlib.Path, place: pathlib.Path) -> list[str]:
    """With the revision before."""
    if not config.against:
        return []
    earlier = series_.load(config.against, config.base, place)
    return [f"--range-diff={applied(tree, earlier)}", "--creation-factor=60"]


def write(config: Config, out: pathlib.Path, scratch: pathlib.Path) -> None:
    base, tree = config.base_facts.directory, scratch / "tree"
    own = series_.read(base, str(base))
    images.apply(config, base, "patched", tree)
    commit_tests(tree, own.patches[-1].author)
    subprocess.run(["git", "-C", str(tree), "format-patch", "-q", f"-v{config.v}", "-o", str(out),
                    "--cover-letter", "--base=origin/base", "--thread", "--signature=2.39",
                    *compared(config, tree, scratch / "against"),
                    *addressed(tree, scratch / "diff"), "origin/base"],
                   check=True, capture_output=True, env={**git_.environment(), **SENDER})
    letter = next(out.glob("v*-0000-*"))
    letter.write_text(cover(config, letter.read_text(), own))
    prove(config, out, tree, scratch / "mails")


def prove(config: Config, out: pathlib.Path, tree: pathlib.Path, place: pathlib.Path) -> None:
    """git am of what was written has to give the tree that is tested, and it with the tests."""
    again = applied(tree, series_.load(str(out), config.base, place))
    wanted, found = (git(tree, "rev-parse", f"{head}^^{{tree}}", f"{head}^{{tree}}")
                     for head in ("HEAD", again))
    if found != wanted:
        raise BadInput(f"{out}: git am of it gives {found.split()}, not {wanted.split()}")


def series(config: Config) -> int:
    if not (config.v.isdecimal() and int(config.v)):
        raise BadInput("make series: say V=n, the number of this revision")
    images.build(dataclasses.replace(config, v="0"))
    final = pathlib.Path(config.o).resolve() / "outgoing"
    out = final.with_suffix(".new")  # it gets its name when it is proven
    for place in (final, out):
        shutil.rmtree(place, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        write(config, out, pathlib.Path(name))
    out.rename(final)
    print(f"  {final}: {len(list(final.glob('*.patch'))) - 1} patches and a cover letter; git am "
          "of them gives the tree that is tested, and the tests")
    return 0

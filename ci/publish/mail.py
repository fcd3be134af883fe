# SPDX-License-Identifier: GPL-2.0
"""make series: the series as it is mailed, in O/outgoing/vN-*.patch; nobody sends it.

Its last patch has our tests, of which selftests/ has the only copy; its cover letter quotes
results/.  git am of it on the base has to give the tree that is tested, plus the tests.
"""
import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable

from ci.build import git as git_
from ci.build import images
from ci.build.git import git
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import cases as cases_
from ci.facts.text import ROOT, BadInput
from ci.publish import readme, template
from ci.revision import patchcheck
from ci.revision import series as series_
from ci.revision.series import Series

OURS, KVM = ROOT / "selftests", pathlib.PurePath("tools/testing/selftests/kvm")
# Has main(), which the kernel's library may not have
MAIN = "lib_case.c"
HEADERS = {"harness.h": "memslot_harness.h", "kvm_compat.h": "memslot_compat.h",
           MAIN: "memslot_main.h"}
SENDER = {"GIT_COMMITTER_NAME": "KVM fast-only project",
          "GIT_COMMITTER_EMAIL": "kvm-fast-only@project.invalid"}


# --- our tests, among the kernel's ---

def our_programs() -> dict[str, set[str]]:
    """{architecture: programs in selftests/ that its cases run}"""
    cases = [case for case in cases_.load(cases_.FILES["tests"])
             if (OURS / f"{case.command[0]}.c").exists()]
    return {arch: {case.command[0] for case in cases
                   if {"all", arch} & {place.split("/")[0] for place in case.archs}}
            for arch in arch_.names()}


def case_lines(programs: set[str]) -> str:
    """selftests/cases, without the cases of other programs."""
    lines = cases_.FILES["tests"].read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.strip() or line.startswith("#")
                   or line.split()[4] in programs)


def text_in_tree(name: str) -> str:
    """As the kernel's tests include it: there main() is a header of each program."""
    text = (OURS / name).read_text() + f'\n#include "{MAIN}"\n' * name.endswith("_test.c")
    for header, there in HEADERS.items():
        text = text.replace(f'#include "{header}"', f'#include "{there}"')
    return text


def after(makefile: str, arch: str, variable: str, lines: Iterable[str]) -> str:
    """The Makefile with our lines behind the block that sets an architecture's variable.

    Trees differ in what they call an architecture, and so its variables: ARCH in our lines.
    """
    names = arch_.load(arch).kvm_tests.split()
    block = re.search(rf"(?:^{variable}_({'|'.join(names)}) \+?=.*\n)+", makefile, re.MULTILINE)
    if not block:
        raise BadInput(f"the Makefile of {KVM} has none of "
                       f"{', '.join(f'{variable}_{name}' for name in names)}")
    ours = "".join(f"{line}\n" for line in lines).replace("ARCH", block[1])
    return makefile[:block.end()] + ours + makefile[block.end():]


def makefile_with(text: str, programs: dict[str, set[str]], libraries: Iterable[str]) -> str:
    """Our library and programs, where the Makefile has those of an architecture."""
    for arch, ours in programs.items():
        text = after(text, arch, "LIBKVM", (f"LIBKVM_ARCH += {path}" for path in libraries))
        text = after(text, arch, "TEST_GEN_PROGS",
                     (f"TEST_GEN_PROGS_EXTENDED_ARCH += {program}" for program in sorted(ours)))
    return after(text, "arm64", "TEST_GEN_PROGS",
                 ["TEST_PROGS_EXTENDED += memslot_tests.sh", "TEST_FILES += memslot_cases"])


def tests(kvm: pathlib.Path) -> dict[str, str]:
    """{file: text} of our tests for the kernel's directory."""
    programs = our_programs()
    names = set[str]().union(*programs.values())
    libraries = {f"lib/{path.name.replace('lib_', 'memslot_')}": path.name
                 for path in sorted(OURS.glob("lib_*.c")) if path.name != MAIN}
    makefile = "Makefile.kvm" if (kvm / "Makefile.kvm").exists() else "Makefile"
    return {**{f"{name}.c": text_in_tree(f"{name}.c") for name in names},
            **{there: text_in_tree(name) for there, name in libraries.items()},
            **{f"include/{there}": text_in_tree(name) for name, there in HEADERS.items()},
            "memslot_tests.sh": (ROOT / "bench/dist/run-tests").read_text(),
            "memslot_cases": case_lines(names),
            ".gitignore": (kvm / ".gitignore").read_text() + "!memslot_cases\n",
            makefile: makefile_with((kvm / makefile).read_text(), programs, libraries)}


def commit_tests(tree: pathlib.Path, author: str) -> None:
    new = tests(tree / KVM)
    for name, text in new.items():
        (tree / KVM / name).write_text(text)
    (tree / KVM / "memslot_tests.sh").chmod(0o755)
    git(tree, "add", "-f", *(str(KVM / name) for name in new))  # whatever .gitignore says
    git(tree, "commit", "-q", f"--author={author}", "-m",
        template.render("tests.txt", author=author))


# --- the mails ---

def cover(config: Config, blank: str, own: Series) -> str:
    """What git format-patch wrote, with our text for its markers."""
    if own.cover is None:
        raise BadInput(f"{own.where} has no cover letter")
    # Up to the shortlog, which git format-patch writes anew
    blurb = re.split(r"^.+ \(\d+\):$", own.cover.changelog, flags=re.MULTILINE)[0].strip("\n")
    text = template.render("cover.txt", blurb=blurb, base=config.base_facts,
                           bench=readme.committed("bench"), scale=readme.committed("scale"))
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


def write(config: Config, out: pathlib.Path, scratch: pathlib.Path) -> None:
    directory, tree = config.base_facts.directory, scratch / "tree"
    own = series_.read(directory, str(directory))
    images.apply(config, directory, "patched", tree)
    merged = git(tree, "log", "--format=%s", "--grep=(in the base already)", "origin/base..HEAD")
    if merged:   # git format-patch leaves out a commit without a change
        raise BadInput(f"{config.base_facts.package} here has a patch already: {merged}; mails are "
                       f"written on {config.base_facts.tested}")
    commit_tests(tree, own.patches[-1].author)
    options = ["--cover-letter", "--base=origin/base", "--thread", "--signature=2.39",
               *addressed(tree, scratch / "diff")]
    if config.against:
        earlier = series_.load(config.against, config.base, scratch / "against")
        # As a range: of a tip, it would leave out patches that are the same commit in both
        options += [f"--range-diff=origin/base..{applied(tree, earlier)}", "--creation-factor=60"]
    subprocess.run(["git", "-C", str(tree), "format-patch", "-q", f"-v{config.v}", "-o", str(out),
                    *options, "origin/base"],
                   check=True, capture_output=True, env=git_.environment(**SENDER))
    letter = next(out.glob("v*-0000-*"))
    letter.write_text(cover(config, letter.read_text(), own))
    again = applied(tree, series_.load(str(out), config.base, scratch / "mails"))
    wanted, found = (git(tree, "rev-parse", f"{head}^^{{tree}}", f"{head}^{{tree}}").split()
                     for head in ("HEAD", again))
    if found != wanted:
        raise BadInput(f"{out}: git am of the mails gives trees {' '.join(found)}, "
                       f"expected {' '.join(wanted)}")


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

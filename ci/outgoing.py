#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The series as it is mailed: patches, the tests of this repository, a cover letter with figures.

usage: outgoing.py V    (what make series V=n calls; knobs: BASE, AGAINST)

Writes build/outgoing/vN-*.patch: the patches of kernel-patches/BASE, our tests as the last one
(selftests/ has the only copy), and the cover letter, with the tables of results/ and, with
AGAINST=, git range-diff against the revision before.  Then applies what it wrote to the base,
and refuses it unless that is the tree that is tested, plus the tests.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import cases
import run
import series as series_
from arch import ROOT, BadInput
from git import git

KVM = pathlib.PurePath("tools/testing/selftests/kvm")
SUBJECT = "KVM: selftests: Test memslots with KVM_MEM_ABSENT_MAPPING_FAULT"
CHANGELOG = """
Add a case for each property that the documentation of the flag promises:
what is an exit and what is not, for each state that a page can be in and
for each way that leads to a page; what KVM does for itself and has to
wait; changes of the flag under load.  A case is a process of its own, so
that memslot_tests.sh, which runs those that memslot_cases lists for the
architecture and the mode, can tell which of them failed.

memslot_tests.sh wants a machine that may be rebooted: its head says why.

"""
# A line of the cover letter that begins what git format-patch writes anew
SHORTLOG = re.compile(r"^.+ \(\d+\):$", re.MULTILINE)
NUMBERS = re.compile(r"^ *vCPUs  without.*(?:\n +\d.*)+", re.MULTILINE)
MERIT = re.compile(r"^.*: fast_\w+ is .* x \(.*\)$", re.MULTILINE)


def our_programs():
    """{program: architectures} of the cases that are this repository's."""
    found = {}
    for case in cases.load(cases.default_path("tests")):
        if (ROOT / "selftests" / f"{case.command[0]}.c").exists():
            found.setdefault(case.command[0], set()).update({"x86", "arm64"} if "all" in case.archs else {a.split("/")[0] for a in case.archs})
    return found


def case_lines():
    """selftests/cases, of our own cases alone."""
    text = (ROOT / "selftests" / "cases").read_text().splitlines(keepends=True)
    return "".join(line for line in text if not line.strip() or line.startswith("#") or line.split()[4] in our_programs())


def makefile_with(text, programs):
    """The selftests' Makefile with our library and programs, after the last lines of their kind."""
    libraries = "".join(f"LIBKVM += lib/{path.name}\n" for path in sorted((ROOT / "selftests").glob("lib_*.c")))
    text = re.sub(r"((?:^LIBKVM \+= .*\n)+)", lambda m: m[1] + libraries, text, count=1, flags=re.MULTILINE)
    for name, directory in (("x86", "x86_64"), ("arm64", "aarch64")):
        mine = "".join(f"TEST_GEN_PROGS_EXTENDED_{directory} += {program}\n" for program, archs in sorted(programs.items()) if name in archs)
        mine += f"TEST_PROGS_{directory} += memslot_tests.sh\nTEST_FILES += memslot_cases\n" if name == "x86" else \
            f"TEST_PROGS_{directory} += memslot_tests.sh\n"
        place = re.search(rf"(?:^TEST_GEN_PROGS_{directory} \+?= .*\n)+", text, re.MULTILINE)
        if not place:
            raise BadInput(f"{KVM}/Makefile has no TEST_GEN_PROGS_{directory}")
        text = text[:place.end()] + "\n" + mine + text[place.end():]
    return text


def add_tests(tree):
    """Our tests, where the kernel's are."""
    kvm, programs = tree / KVM, our_programs()
    for program in programs:
        shutil.copy(ROOT / "selftests" / f"{program}.c", kvm)
    for path in (ROOT / "selftests").glob("lib_*.c"):
        shutil.copy(path, kvm / "lib")
    shutil.copy(ROOT / "selftests" / "harness.h", kvm / "include")
    shutil.copy(ROOT / "bench" / "dist" / "run-tests", kvm / "memslot_tests.sh")
    (kvm / "memslot_cases").write_text(case_lines())
    ignore = kvm / ".gitignore"
    ignore.write_text(ignore.read_text() + "!memslot_cases\n")
    makefile = kvm / "Makefile"
    makefile.write_text(makefile_with(makefile.read_text(), programs))


def figures():
    """The tables that the cover letter quotes, with where they come from."""
    scaling, reference = ((ROOT / "results" / name).read_text() for name in ("scaling.txt", "reference.txt"))
    names = re.findall(r"^(\S+): pages per million", scaling, re.MULTILINE)
    parts = ["Measured under emulation, with exact counts and a model of serialisation\n(no caches, no coherence); none of it is a time.",
             "Instructions of a fault, relative to the least that it can take:\n\n" +
             "\n".join(re.sub(r"\(.* = (\d+)\)", r"its floor (\1)", line) for line in MERIT.findall(reference))]
    for name, table in zip(names, NUMBERS.findall(scaling), strict=True):
        parts.append(f"{name}, pages per million instructions of critical path, one userfaultfd\nwithout the flag:\n\n{table}")
    return "\n\n".join(parts)


def cover(blank, own, measured):
    """What git format-patch wrote, with our text for its markers."""
    text = own.text.partition("\n\n")[2]
    end = SHORTLOG.search(text)
    blurb = text[:end.start()].rstrip("\n") if end else text
    return (blank.replace("*** SUBJECT HERE ***", own.subject)
            .replace("*** BLURB HERE ***", f"{blurb}\n\n{measured}"))


def commit(tree, author):
    name, _, address = author.partition(" <")
    identity = ["-c", f"user.name={name}", "-c", f"user.email={address.rstrip('>')}"]
    # Whatever .gitignore says: nothing has been built here.
    git(tree, "add", "-Af")
    git(tree, *identity, "commit", "-q", "-m", f"{SUBJECT}\n{CHANGELOG}Signed-off-by: {author}")


def earlier_head(tree, where, place):
    """The head of the revision before, in this tree."""
    series = series_.load(where, run.knob("BASE"), place)
    head = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "-q", "--detach", "origin/base")
    for patch in series.patches:
        git(tree, "-c", "user.name=a", "-c", "user.email=a@localhost", "am", "--quiet", str(patch.path.resolve()))
    found = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "-q", "--detach", head)
    return found


def apply(directory, series, tree):
    done = subprocess.run([str(ROOT / "kernel-patches" / "apply"), str(directory), series, run.knob("CACHE"), str(tree)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(done.stderr.strip().splitlines()[-1])


def prove(out, tested, whole, scratch):
    """git am of what was written, on the base, has to give these two trees."""
    shutil.copy(ROOT / "kernel-patches" / run.knob("BASE") / "base", scratch)
    for path in out.glob("*.patch"):  # as apply wants them named
        shutil.copy(path, scratch / re.sub(r"^v\d+-", "", path.name))
    apply(scratch, "patched", scratch / "linux")
    found = [git(scratch / "linux", "rev-parse", f"{commit}^{{tree}}") for commit in ("HEAD^", "HEAD")]
    if found != [tested, whole]:
        raise BadInput(f"{out}: git am of it gives {found}, not {tested} and {whole}")


def outgoing(argv):
    version = int(argv[0]) if argv and argv[0].isdecimal() else 0
    if not version:
        raise BadInput("make series: say V=n, the number of this revision")
    base = ROOT / "kernel-patches" / run.knob("BASE")
    own, out = series_.read(base, str(base)), pathlib.Path(run.knob("O")).resolve() / "outgoing"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        scratch = pathlib.Path(name)
        tree = scratch / "tree"
        apply(base, "patched", tree)
        tested = git(tree, "rev-parse", "HEAD^{tree}")
        add_tests(tree)
        commit(tree, str(own.patches[-1].message["from"]))
        options = [f"--range-diff={earlier_head(tree, run.knob('AGAINST'), scratch / 'against')}"] if run.knob("AGAINST") else []
        options += ["--creation-factor=60"] if options else []
        git(tree, "-c", "user.name=KVM fast-only project", "-c", "user.email=kvm-fast-only@project.invalid", "format-patch", "-q", f"-v{version}",
            "--cover-letter", "--base=origin/base", "--thread", "--signature=2.39", "-o", str(out), *options, "origin/base")
        letter = next(out.glob(f"v{version}-0000-*"))
        letter.write_text(cover(letter.read_text(), own.cover, figures()))
        (scratch / "proof").mkdir()
        prove(out, tested, git(tree, "rev-parse", "HEAD^{tree}"), scratch / "proof")
    print(f"  {out}: {len(list(out.glob('*.patch'))) - 1} patches and a cover letter; git am of them gives the tree that is tested, and the tests")
    return 0


if __name__ == "__main__":
    sys.exit(run.main(outgoing, sys.argv[1:]))

# SPDX-License-Identifier: GPL-2.0
"""The series as it is mailed: patches, the tests of this repository, a cover letter with figures.

usage: outgoing.py V    (what make series V=n calls; knobs: BASE, AGAINST)

Writes build/outgoing/vN-*.patch: the patches of kernel-patches/BASE, our tests as the last one
(selftests/ has the only copy), and the cover letter, with the tables of results/ and, with
AGAINST=, git range-diff against the revision before.  Each mail is addressed to whom MAINTAINERS
names for the whole.  Then applies what it wrote to the base,
and refuses it unless that is the tree that is tested, plus the tests.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from ci.facts import arch as arch_
from ci.facts import cases
from ci.judge import results as run
from ci.revision import series as series_
from ci.revision import patchcheck as static
from ci.facts.arch import ROOT, BadInput
from ci.build.git import git

KVM = pathlib.PurePath("tools/testing/selftests/kvm")
# Where the rules are: the last of these that a tree has
MAKEFILES = ("Makefile", "Makefile.kvm")
HEADERS = ("harness.h", "kvm_compat.h")
# Of selftests/: has main(), which nothing else of the kernel's library may have
MAIN = "lib_case.c"
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
ROW = re.compile(r"^ +(\d+) +(\d+) +(\d+) +(\S+x) +\S+ +(\S+x) +\d+$", re.MULTILINE)
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


def after(text, pattern, lines):
    """The text with lines of ours behind the last of a block of the same kind."""
    place = re.search(rf"(?:^{pattern} .*\n)+", text, re.MULTILINE)
    if not place:
        raise BadInput(f"the Makefile of {KVM} has no {pattern}")
    return text[:place.end()] + "".join(f"{line}\n" for line in lines) + text[place.end():]


def directory_of(name, makefile):
    """What this tree calls an architecture's tests: the variables of its Makefile are named after it."""
    facts = arch_.read_facts(ROOT / "guest-images" / f"{name}.mk")
    found = [word for word in facts["kvm_tests"].split() if re.search(rf"^LIBKVM_{word} ", makefile, re.MULTILINE)]
    if not found:
        raise BadInput(f"{KVM} knows none of {facts['kvm_tests']}")
    return found[0]


def makefile_with(text, programs):
    """The selftests' Makefile with our library and programs: only where the library has an architecture's code."""
    for name in arch_.names():
        directory = directory_of(name, text)
        text = after(text, f"LIBKVM_{directory} \\+=", [f"LIBKVM_{directory} += lib/{in_tree(path.name)}" for path in libraries()])
        text = after(text, f"TEST_GEN_PROGS_{directory} \\+?=", [
            f"TEST_GEN_PROGS_EXTENDED_{directory} += {program}" for program, archs in sorted(programs.items()) if name in archs])
    return after(text, f"TEST_GEN_PROGS_{directory_of('arm64', text)} \\+?=", ["TEST_PROGS_EXTENDED += memslot_tests.sh", "TEST_FILES += memslot_cases"])


def libraries():
    """What is linked with each program; main() is included by each instead, and stays out of the library."""
    return [path for path in sorted((ROOT / "selftests").glob("lib_*.c")) if path.name != MAIN]


def in_tree(name):
    """What a file of selftests/ is called among the kernel's."""
    return {"harness.h": "memslot_harness.h", "kvm_compat.h": "memslot_compat.h", MAIN: "memslot_main.h"}.get(name, name.replace("lib_", "memslot_"))


def text_in_tree(path, program=False):
    text = path.read_text()
    for name in HEADERS:
        text = text.replace(f'#include "{name}"', f'#include "{in_tree(name)}"')
    return text + f'\n#include "{in_tree(MAIN)}"\n' * program


def add_tests(tree):
    """Our tests, where the kernel's are."""
    kvm, programs, ours = tree / KVM, our_programs(), ROOT / "selftests"
    new = {f"{program}.c": text_in_tree(ours / f"{program}.c", True) for program in programs}
    new |= {f"lib/{in_tree(path.name)}": text_in_tree(path) for path in libraries()}
    new |= {f"include/{in_tree(name)}": text_in_tree(ours / name) for name in (*HEADERS, MAIN)}
    makefile = next(name for name in reversed(MAKEFILES) if (kvm / name).exists())
    new |= {"memslot_tests.sh": (ROOT / "bench" / "dist" / "run-tests").read_text(), "memslot_cases": case_lines(),
            ".gitignore": (kvm / ".gitignore").read_text() + "!memslot_cases\n",
            makefile: makefile_with((kvm / makefile).read_text(), programs)}
    for name, text in new.items():
        (kvm / name).write_text(text)
    (kvm / "memslot_tests.sh").chmod(0o755)
    return {str(KVM / name) for name in new}


def table(name):
    """(what results/ has of this base, "") or (what it has of the default one, " on that")."""
    path, default = run.results_of(run.knob("BASE")) / name, run.bases()[0]
    return (path.read_text(), "") if path.exists() else ((run.results_of(default) / name).read_text(), f" on {default}")


def figures():
    """The tables that the cover letter quotes, with where they come from."""
    (scaling, of_scaling), (reference, of_reference) = (table(name) for name in ("scaling.txt", "reference.txt"))
    parts = ["Measured under emulation (QEMU's TCG); none of it is a time.\n\n"
             f"Exact count of instructions{of_reference}: a fault with the flag that the vCPU's thread\nresolves by UFFDIO_COPY (fast_missing) or "
             "UFFDIO_CONTINUE (fast_minor),\ncompared with the sum of an empty exit to userspace, the ioctl, and a fault\n"
             "that KVM resolves alone, each measured by itself:\n\n" +
             "\n".join(re.sub(r"\(.* = (\d+)\)", r"that sum (\1)", line) for line in MERIT.findall(reference)),
             f"Lockstep model of serialisation{of_scaling} (no caches, no coherence): pages per million\ninstructions of critical path, MINOR faults; "
             "without the flag there is one\nuserfaultfd, with as many readers as vCPUs, or one per vCPU (sharded)."]
    for section in re.split(r"^(?=\S+: pages per million)", scaling, flags=re.MULTILINE)[1:]:
        rows = [f"  {n:>5} {without:>8} {with_:>8} {ratio:>8} {sharded:>12}" for n, without, with_, ratio, sharded in ROW.findall(section)]
        if not rows:
            raise BadInput("results/scaling.txt has no table of ratios")
        parts.append("\n".join([f"  {section.partition(':')[0]}", f"  {'vCPUs':>5} {'without':>8} {'with':>8} {'ratio':>8} {'vs sharded':>12}", *rows]))
    return "\n\n".join(parts)


def cover(blank, own, measured, base):
    """What git format-patch wrote, with our text for its markers."""
    text = own.text.partition("\n\n")[2]
    end = SHORTLOG.search(text)
    blurb = text[:end.start()].rstrip("\n") if end else text
    return (blank.replace("*** SUBJECT HERE ***", own.subject)
            .replace("*** BLURB HERE ***", f"{blurb}\n\nThe last patch has the tests of all this.  Applies to {base}.\n\n{measured}"))


def base_in_words():
    facts = arch_.read_facts(ROOT / "kernel-patches" / run.knob("BASE") / "base")
    return f"Linux {facts['tested']} ({facts['package']})"


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


def addressed(tree, diff):
    """git format-patch's options: to those who maintain what the series changes; reviewers and lists get copies."""
    diff.write_text(git(tree, "diff", "origin/base", "HEAD") + "\n")
    people = static.addresses(tree, diff, "--no-l", "--no-r")
    return [*(f"--to={one}" for one in people), *(f"--cc={one}" for one in static.addresses(tree, diff, "--no-m") if one not in people)]


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
    final, out = out, out.with_suffix(".new")  # it gets its name when it is proven
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        scratch = pathlib.Path(name)
        tree = scratch / "tree"
        apply(base, "patched", tree)
        tested = git(tree, "rev-parse", "HEAD^{tree}")
        written = add_tests(tree)
        commit(tree, str(own.patches[-1].message["from"]))
        if set(git(tree, "diff", "--name-only", "HEAD^", "HEAD").split()) != written:
            raise BadInput(f"{tree}: the last commit is not the tests alone, or not all of them")
        options = [f"--range-diff={earlier_head(tree, run.knob('AGAINST'), scratch / 'against')}"] if run.knob("AGAINST") else []
        options += ["--creation-factor=60"] if options else []
        options += addressed(tree, scratch / "diff")
        git(tree, "-c", "user.name=KVM fast-only project", "-c", "user.email=kvm-fast-only@project.invalid", "format-patch", "-q", f"-v{version}",
            "--cover-letter", "--base=origin/base", "--thread", "--signature=2.39", "-o", str(out), *options, "origin/base")
        letter = next(out.glob(f"v{version}-0000-*"))
        letter.write_text(cover(letter.read_text(), own.cover, figures(), base_in_words()))
        (scratch / "proof").mkdir()
        prove(out, tested, git(tree, "rev-parse", "HEAD^{tree}"), scratch / "proof")
    out = out.rename(final)
    print(f"  {out}: {len(list(out.glob('*.patch'))) - 1} patches and a cover letter; git am of them gives the tree that is tested, and the tests")
    return 0


if __name__ == "__main__":
    sys.exit(run.main(outgoing, sys.argv[1:]))

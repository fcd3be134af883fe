# SPDX-License-Identifier: GPL-2.0
"""What is said of a patch without booting it: style, sign-off, documentation, warnings.

A check returns what is wrong, a text each; BadInput if the tool that it calls has died.
"""
import collections
import functools
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence

from ci import config as config_
from ci.build import images
from ci.build.cache import Cache
from ci.build.files import digest, first_line, sha256
from ci.config import Config
from ci.facts.arch import Arch
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.revision.series import Patch, Series
from ci.revision.states import Tree

# Complaints of checkpatch that are not about the patch.  UNKNOWN_COMMIT_ID: the base is a
# tarball, which has no history to look up.
IGNORE = "UNKNOWN_COMMIT_ID,AVOID_EXTERNS"
COMPLAINT = re.compile(r"(ERROR|WARNING|CHECK):")
WARNING = re.compile(r"(?:\.\./)*(?P<file>[\w./+-]+?):\d+(?::\d+)?: "
                     r"(?P<text>(?:warning|error): .*)")
# Docutils and sphinx say it in capitals.
DOC_WARNING = re.compile(r"(?P<file>\S+?):(?:\d+:)? (?P<text>(?:WARNING|ERROR|CRITICAL): .*)")
WERROR = re.compile(r"^(CONFIG_\w*WERROR)=y$", re.MULTILINE)
CODE = (".c", ".h")
# The checks themselves are an input of what they say.
MINE = pathlib.Path(__file__)
Said = tuple[list[str], list[str]]   # warnings, files that are not compiled


def output_of(*argv: str, cwd: pathlib.Path | None = None, **environment: str) -> tuple[int, str]:
    """(exit status, all that it said)"""
    done = subprocess.run(argv, cwd=cwd, text=True, errors="replace", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False,
                          env=config_.environment(**environment))
    return done.returncode, done.stdout


def refuse(tool: str, status: int, said: str) -> BadInput:
    return BadInput(f"{tool} failed with status {status}: {said.strip()[-200:]}")


def checks(status: Status, *texts: str) -> list[Check]:
    return [Check(status, text) for text in texts]


# --- of a patch alone ---

def checkpatch(tree: pathlib.Path, patch: Patch) -> list[str]:
    # Without git: a patch that is tracked, as these are here, is taken for a source file.
    status, said = output_of("perl", f"{tree}/scripts/checkpatch.pl", f"--root={tree}", "--strict",
                             "--terse", "--no-summary", "--ignore", IGNORE, str(patch.path),
                             GIT_DIR="none")
    found = [line.partition(": ")[2] or line for line in said.splitlines() if line.strip()]
    if status not in (0, 1) or status and not any(map(COMPLAINT.match, found)):
        raise refuse("checkpatch.pl", status, said)
    return found


def signed_off(_: pathlib.Path, patch: Patch) -> list[str]:
    signers = re.findall(r"^Signed-off-by: (.*)$", patch.changelog, re.MULTILINE)
    return [] if patch.author in signers else [f"From: {patch.author} has not signed it off"]


def subject_form(_: pathlib.Path, patch: Patch) -> list[str]:
    if not re.match(r"[\w/+:. -]+: \S", patch.subject):
        return [f"the subject names no subsystem: {patch.subject}"]
    return ["the subject ends with a full stop"] if patch.subject.endswith(".") else []


def addresses(tree: pathlib.Path, diff: pathlib.Path, *kinds: str) -> list[str]:
    """Whom this tree's MAINTAINERS names for a patch; kinds: get_maintainer.pl's options."""
    status, said = output_of("perl", "scripts/get_maintainer.pl", "--no-git", "--no-git-fallback",
                             "--no-rolestats", *kinds, str(diff.resolve()), cwd=tree)
    found = [line for line in said.splitlines() if "@" in line]
    if status or not found:
        raise BadInput(f"get_maintainer.pl names nobody: {said.strip()[:200]}")
    return found


def recipients(tree: pathlib.Path, patch: Patch) -> list[str]:
    """A person has to be among them: some entries have a list where a person should be."""
    try:
        found = addresses(tree, patch.path, "--no-l")
    except BadInput as error:
        return [str(error)]
    people = [one for one in found if "@vger.kernel.org" not in one and "@lists." not in one]
    return [] if people else ["get_maintainer.pl names lists alone"]


OF_PATCH: dict[str, Callable[[pathlib.Path, Patch], list[str]]] = {
    "checkpatch": checkpatch, "sign-off": signed_off, "subject": subject_form,
    "maintainers": recipients}


def cover_letter(series: Series, base_commit: str) -> list[str]:
    if series.cover is None:
        return ["no cover letter"] if len(series.patches) > 1 else []
    text, found = series.cover.text, []
    if f"base-commit: {base_commit}" not in text:
        found.append(f"cover letter has no base-commit: {base_commit}, the base that was used")
    if "*** BLURB HERE ***" in text or "*** SUBJECT HERE ***" in text:
        found.append("the cover letter has no text")
    numbers = [patch.number for patch in series.patches]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"patches are numbered {numbers}")
    return found


# --- of a tree before and after it ---

def grown(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """What is said after and was not before, or not as often."""
    return list((collections.Counter(after) - collections.Counter(before)).elements())


def warnings_in(text: str, files: Sequence[str],
                pattern: re.Pattern[str] = WARNING) -> list[str]:
    """["file: text"], without line numbers, of these files."""
    found = []
    for match in filter(None, map(pattern.search, text.splitlines())):
        name = os.path.normpath(match["file"])
        mine = [f for f in files if name == f or name.endswith(f"/{f}")]
        found += [f"{mine[0]}: {match['text']}"] if mine else []
    return sorted(found)


def kernel_doc(tree: pathlib.Path, files: Sequence[str]) -> Said:
    there = [name for name in files if (tree / name).exists()]
    if not there:
        return [], []
    status, said = output_of("perl", "scripts/kernel-doc", "-none", *there, cwd=tree)
    found = warnings_in(said, there)
    if status and not found:
        raise refuse("scripts/kernel-doc", status, said)
    return found, []


def documentation(tree: pathlib.Path, files: Sequence[str], place: pathlib.Path) -> Said:
    """Sphinx' warnings on the documents among files, each built alone."""
    found, source = [], place / "rst"
    for name in (f for f in files if f.endswith(".rst") and (tree / f).exists()):
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        shutil.copy(tree / name, source / "index.rst")
        (source / "conf.py").write_text("extensions = []\n")
        status, said = output_of("sphinx-build", "-q", "-E", "-b", "html", str(source),
                                 str(source / "html"), LC_ALL="C.UTF-8")
        if status:
            raise refuse(f"sphinx-build of {name}", status, said)
        found += [f"{name}: {line.partition(': ')[2]}"
                  for line in warnings_in(said, ["index.rst"], DOC_WARNING)]
    return found, []


# --- what is compiled ---

def built_here(files: Iterable[str], arch: Arch) -> list[str]:
    """Those that a kernel of this architecture is made of: headers and Kconfig as well."""
    return [f for f in files if not f.startswith(("tools/", "samples/", "Documentation/"))
            and (not f.startswith("arch/") or f.startswith(f"arch/{arch.kernel_arch}/"))]


def compiled_here(files: Iterable[str], arch: Arch) -> list[str]:
    return [f for f in built_here(files, arch) if f.endswith(".c")]


def foreign(files: Iterable[str], archs: Iterable[Arch]) -> list[str]:
    """Those that nobody compiles here."""
    here = tuple(f"arch/{arch.kernel_arch}/" for arch in archs)
    return [f for f in files if f.startswith("arch/") and f.endswith((*CODE, ".S"))
            and not f.startswith(here)]


def compiled(config: Config, arch: Arch, objects: pathlib.Path, kernel_config: str,
             files: Iterable[str], *arguments: str) -> tuple[int, str]:
    """(status, what it says) of kbuild in the directories of these files.

    KVM's generic code is built with the architecture's.  @objects is below the tree.
    """
    kvm = f"arch/{arch.kernel_arch}/kvm/"
    goals = {kvm if f.startswith(("virt/kvm/", kvm)) else f"{os.path.dirname(f)}/" for f in files}
    objects.mkdir(exist_ok=True)
    kept = objects / ".config"
    if not kept.exists() or kept.read_text() != kernel_config:
        kept.write_text(kernel_config)
    return images.kernel_make(config, arch, objects.parent, objects.name, *arguments,
                              *sorted(goals))


def compile_again(config: Config, arch: Arch, tree: pathlib.Path, files: Sequence[str],
                  kernel_config: str, tools: Sequence[str]) -> Said:
    """Compile these files with W=1, and with sparse if @tools asks for it.

    A warning is not made an error here, and a failure is one more of them.  A file without an
    object is not compiled in this configuration.
    """
    objects, tolerant = tree / f"out-{arch.name}-w1", WERROR.sub(r"# \1 is not set", kernel_config)
    make = functools.partial(compiled, config, arch, objects, tolerant, files, "W=1", *tools)
    status, said = make()
    if not status:
        for path in (tree / name for name in files if (tree / name).exists()):
            os.utime(path)
        status, said = make()
    found = warnings_in(said, files)
    if status:
        return [*found, f"{files[0]}: error: make W=1 failed"], []
    return found, [f for f in files if not (objects / f).with_suffix(".o").exists()]


# --- kept by content ---

class Static:
    """What needs no boot, by tool."""

    def __init__(self, config: Config, tree: Tree, cache: Cache):
        self.config, self.tree, self.cache = config, tree, cache

    def of_patch(self, patch: Patch) -> Iterator[tuple[str, list[Check]]]:
        """All that needs no architecture."""
        tree = self.tree.path
        code = [name for name in patch.files if name.endswith(CODE)]
        documents = [name for name in patch.files if name.startswith("Documentation/")]
        scripts = self.tree.identity(patch.number, "scripts", "MAINTAINERS",
                                     ".get_maintainer.ignore")
        self.tree.go_to(patch.number)
        for tool, function in OF_PATCH.items():
            said = self.cache.once("static", [tool, patch.text, scripts, sha256(MINE)],
                                   functools.partial(function, tree, patch))
            yield tool, checks(Status.FAIL, *said)
        unknown = foreign(patch.files, self.config.archs)
        if unknown:
            yield "other architectures", checks(Status.NOT_CHECKED,
                                                f"not compiled: {' '.join(unknown)}")
        if code:
            yield "kernel-doc", self.grown("kernel-doc", patch, [], lambda: kernel_doc(tree, code))
        if documents and not shutil.which("sphinx-build"):
            yield "docs", checks(Status.NOT_CHECKED, 
                                 "sphinx-build is not installed: run make deps")
        elif documents:
            yield "docs", self.grown("docs", patch, [first_line("sphinx-build", "--version")],
                                     lambda: documentation(tree, documents, tree.parent))

    def warnings(self, arch: Arch, patch: Patch,
                 kernel: pathlib.Path) -> Iterator[tuple[str, list[Check]]]:
        """W=1 and sparse over the files that the patch changes."""
        files, sparse = compiled_here(patch.files, arch), shutil.which("sparse")
        text = images.Image(kernel).config.read_text()
        inputs = [arch.name, images.toolchain(self.config, arch).version, digest(text),
                  first_line("sparse", "--version") if sparse else ""]
        tool, tools = ("W=1, sparse", ["C=1"]) if sparse else ("W=1", [])
        if files:
            yield tool, self.grown(tool, patch, inputs, lambda: compile_again(
                self.config, arch, self.tree.path, files, text, tools))

    def grown(self, tool: str, patch: Patch, inputs: Sequence[str],
              function: Callable[[], Said]) -> list[Check]:
        """What a tool says after a patch and did not say before it."""
        def ask(place: int) -> Said:
            self.tree.go_to(place)
            return function()
        (before, _), (after, left) = (self.cache.once("warnings", [
            tool, self.tree.identity(place), patch.files, sha256(MINE), *inputs],
            functools.partial(ask, place)) for place in (patch.number - 1, patch.number))
        return (checks(Status.FAIL, *grown(before, after))
                + checks(Status.NOT_CHECKED,
                         *(f"{name} is not compiled in this configuration" for name in left)))

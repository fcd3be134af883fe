# SPDX-License-Identifier: GPL-2.0
"""What is said of a patch without booting it: style, sign-off, documentation, warnings.

Each check is a function of (tree, patch, ...) that returns [(status, what is wrong)]:
"pass" is an empty list, "skip" says what is missing here.
"""
import os
import pathlib
import re
import shutil
import subprocess

from ci.facts.arch import BadInput

# Complaints of checkpatch that are not about the patch; kernel-patches/check has the reason.
IGNORE = "UNKNOWN_COMMIT_ID"
COMPLAINT = re.compile(r"^(ERROR|WARNING|CHECK):(.*)")
WARNING = re.compile(r"(?:\.\./)*(?P<file>[\w./+-]+?):\d+(?::\d+)?: (?P<text>(?:warning|error): .*)")
# Docutils and sphinx say it in capitals.
DOC_WARNING = re.compile(r"(?P<file>\S+?):(?:\d+:)? (?P<text>(?:WARNING|ERROR|CRITICAL): .*)")


def output_of(*argv, cwd=None, stdin="", environment=None):
    """(exit status, all that it said)"""
    done = subprocess.run(argv, cwd=cwd, input=stdin, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, env=environment)
    return done.returncode, done.stdout


def checkpatch(tree, patch):
    # Without git: a patch that is tracked, as these are here, is taken for a source file.
    status, said = output_of("perl", f"{tree}/scripts/checkpatch.pl", f"--root={tree}", "--strict", "--terse", "--no-summary", "--ignore", IGNORE,
                             str(patch.path), environment={**os.environ, "GIT_DIR": "none"})
    found = [line.partition(": ")[2] or line for line in said.splitlines() if line.strip()]
    if status not in (0, 1) or status and not any(re.match(r"(ERROR|WARNING|CHECK):", line) for line in found):
        return [("harness", f"checkpatch.pl failed with status {status}: {' '.join(found[:1])}")]
    return [("fail", line) for line in found]


def signed_off(_, patch):
    """From has to sign off, last: who posts the series answers for it."""
    author = str(patch.message["from"])
    signers = re.findall(r"^Signed-off-by: (.*)$", patch.text.partition("\n---\n")[0], re.MULTILINE)
    if author not in signers:
        return [("fail", f"From: {author} has not signed it off")]
    return []


def subject_form(_, patch):
    subject = patch.subject
    if not re.match(r"[\w/+:. -]+: \S", subject):
        return [("fail", f"the subject names no subsystem: {subject}")]
    return [("fail", "the subject ends with a full stop")] if subject.endswith(".") else []


def addresses(tree, diff, *kinds):
    """Whom this tree's MAINTAINERS names for a patch; kinds: get_maintainer.pl's options."""
    status, said = output_of("perl", "scripts/get_maintainer.pl", "--no-git", "--no-git-fallback", "--no-rolestats", *kinds, str(diff.resolve()), cwd=tree)
    found = [line for line in said.splitlines() if "@" in line]
    if status or not found:
        raise BadInput(f"get_maintainer.pl names nobody: {said.strip()[:200]}")
    return found


def recipients(tree, patch):
    """There has to be a person to send it to, besides the lists, of which some stand where a person should."""
    try:
        people = [one for one in addresses(tree, patch.path, "--no-l") if "@vger.kernel.org" not in one and "@lists." not in one]
    except BadInput as error:
        return [("fail", str(error))]
    return [] if people else [("fail", "get_maintainer.pl names lists alone")]


OF_PATCH = {"checkpatch": checkpatch, "sign-off": signed_off, "subject": subject_form, "maintainers": recipients}


def grown(before, after):
    """What is said after and was not before, by file, whatever the line."""
    left = list(before)
    new = []
    for line in after:
        if line in left:
            left.remove(line)
        else:
            new.append(line)
    return new


def warnings_in(text, files, pattern=WARNING):
    """["file: text"], without line numbers, of these files."""
    found = []
    for line in text.splitlines():
        match = pattern.search(line)
        if match:
            name = os.path.normpath(match["file"])
            mine = [f for f in files if name == f or name.endswith(f"/{f}")]
            found += [f"{mine[0]}: {match['text']}"] if mine else []
    return sorted(found)


def kernel_doc(tree, files):
    """Its warnings on files, as they are in the tree now."""
    files = [f for f in files if f.endswith((".c", ".h")) and (pathlib.Path(tree) / f).exists()]
    if not files:
        return {"warnings": [], "left": []}
    status, said = output_of("perl", "scripts/kernel-doc", "-none", *files, cwd=tree)
    if status and not warnings_in(said, files):
        raise BadInput(f"scripts/kernel-doc failed with status {status}: {said.strip()[:200]}")
    return {"warnings": warnings_in(said, files), "left": []}


def documentation(tree, files, place):
    """Sphinx' warnings on the documents among files, each built alone; None without Sphinx."""
    if not shutil.which("sphinx-build"):
        return None
    found = []
    for name in (f for f in files if f.startswith("Documentation/") and f.endswith(".rst")):
        source = pathlib.Path(place) / "rst"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        shutil.copy(pathlib.Path(tree) / name, source / "index.rst")
        (source / "conf.py").write_text("extensions = []\n")
        status, said = output_of("sphinx-build", "-q", "-E", "-b", "html", str(source), str(source / "html"),
                            environment={**os.environ, "LC_ALL": "C.UTF-8"})
        if status:
            raise BadInput(f"sphinx-build of {name} failed with status {status}: {said.strip()[-200:]}")
        found += [f"{name}: {w.partition(': ')[2]}" for w in warnings_in(said, ["index.rst"], DOC_WARNING)]
    return {"warnings": found, "left": []}


def compiled_here(files, kernel_arch):
    """Those of a patch's files that a kernel of this architecture compiles."""
    return [f for f in files if f.endswith(".c") and not f.startswith(("tools/", "samples/"))
            and (not f.startswith("arch/") or f.startswith(f"arch/{kernel_arch}/"))]


def built_here(files, kernel_arch):
    """Those that a kernel of this architecture is made of: headers and Kconfig as well."""
    return [f for f in files if not f.startswith(("tools/", "samples/", "Documentation/"))
            and (not f.startswith("arch/") or f.startswith(f"arch/{kernel_arch}/"))]


def directories(files, kernel_arch):
    """What to ask kbuild for: KVM's generic code is built with the architecture's."""
    return sorted({f"arch/{kernel_arch}/kvm/" if f.startswith(("virt/kvm/", f"arch/{kernel_arch}/kvm/")) else str(pathlib.PurePath(f).parent) + "/"
                   for f in files})


def foreign(files, kernel_archs):
    """Those that nobody compiles here."""
    return [f for f in files if f.startswith("arch/") and f.endswith((".c", ".h", ".S")) and f.split("/")[1] not in kernel_archs]


def cover_letter(series, base_commit):
    """What is wrong with the whole series as mail."""
    if series.cover is None:
        return [("fail", "no cover letter")] if len(series.patches) > 1 else []
    text, found = series.cover.text, []
    if f"base-commit: {base_commit}" not in text:
        found.append(("fail", f"no base-commit: {base_commit}, which is what it was applied to"))
    if "*** BLURB HERE ***" in text or "*** SUBJECT HERE ***" in text:
        found.append(("fail", "the cover letter has no text"))
    numbers = [patch.number for patch in series.patches]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(("fail", f"patches are numbered {numbers}"))
    return found


def kernel_make(tree, objects, arch, prefix, *arguments):
    cache = os.environ.get("CACHE", "")
    return output_of("make", "-s", f"-j{os.cpu_count()}", "-C", str(tree), f"O={objects}", f"ARCH={arch}", f"CROSS_COMPILE={prefix}",
                     f"CC=ccache {prefix}gcc", "HOSTCC=ccache gcc", "LOCALVERSION=-check", *arguments,
                     environment={**os.environ, "CCACHE_DIR": f"{cache}/ccache", "MAKEFLAGS": ""})


WERROR = re.compile(r"^(CONFIG_\w*WERROR)=y$", re.MULTILINE)


def compile_again(tree, objects, arch, prefix, files, tools):
    """{"warnings": [...], "left": [...]} of compiling these files with W=1, and with sparse if @tools asks for it.

    A warning is not made an error here, and a failure is one more of them; left: files
    that have no object, since the configuration does not compile them.
    """
    config = pathlib.Path(tree) / objects / ".config"
    config.write_text(WERROR.sub(r"# \1 is not set", config.read_text()))
    command = (tree, objects, arch, prefix, "W=1", *tools, *directories(files, arch))
    status, said = kernel_make(*command)
    for path in (pathlib.Path(tree) / name for name in files):
        if path.exists() and not status:
            os.utime(path)
    if not status:
        status, said = kernel_make(*command)
    found = warnings_in(said, files) + [f"{files[0]}: error: make W=1 failed"] * bool(status)
    left = [f for f in files if not status and not (pathlib.Path(tree) / objects / f).with_suffix(".o").exists()]
    return {"warnings": found, "left": left}

# SPDX-License-Identifier: GPL-2.0
"""The series as it is mailed."""
import dataclasses
import pathlib
import re

import pytest

from ci.build.git import git
from ci.config import Config
from ci.facts.base import Base
from ci.facts.text import BadInput
from ci.publish import mail

MAKEFILE = """LIBKVM += lib/a.c
LIBKVM_{x86} += lib/x/a.c
LIBKVM_{x86} += lib/x/b.c
LIBKVM_{arm64} += lib/a/a.c
TEST_GEN_PROGS_{x86} = x/a_test
TEST_GEN_PROGS_{x86} += x/b_test
TEST_GEN_PROGS_{arm64} += a/a_test
"""
# What a person may have set, and what would become of the mails
GITCONFIG = """[commit]
	gpgsign = true
[core]
	autocrlf = true
	hooksPath = /dev/null/none
[diff]
	noprefix = true
[format]
	signOff = true
	attach = true
	subjectPrefix = RFC
"""


def makefile(x86="x86_64", arm64="aarch64"):
    return MAKEFILE.format(x86=x86, arm64=arm64)


# --- our tests, among the kernel's ---

@pytest.mark.parametrize("x86, arm64", [("x86_64", "aarch64"), ("x86", "arm64")])
def test_the_makefile_of_each_base(x86, arm64):
    programs = {"arm64": {"a_test"}, "x86": {"a_test", "b_test"}}
    text = mail.makefile_with(makefile(x86, arm64), programs, ["lib/memslot_harness.c"])
    for name in (x86, arm64):
        assert f"\nLIBKVM_{name} += lib/memslot_harness.c\n" in text
        assert f"\nTEST_GEN_PROGS_EXTENDED_{name} += a_test\n" in text
    assert f"\nTEST_GEN_PROGS_EXTENDED_{x86} += b_test\n" in text
    assert f"_{arm64} += b_test" not in text
    assert text.count("\nTEST_PROGS_EXTENDED += memslot_tests.sh\n") == 1
    assert text.count("\nTEST_FILES += memslot_cases\n") == 1
    assert [line for line in text.splitlines() if line in makefile(x86, arm64)] == (
        makefile(x86, arm64).splitlines())


def test_a_makefile_that_is_another():
    with pytest.raises(BadInput, match="has none of LIBKVM_x86, LIBKVM_x86_64$"):
        mail.makefile_with("LIBKVM_riscv += a.c\n", {"x86": set()}, [])
    with pytest.raises(BadInput, match="has none of TEST_GEN_PROGS_arm64, TEST_GEN_PROGS_aarch64"):
        mail.makefile_with("LIBKVM_aarch64 += a.c\n", {"arm64": set()}, [])


def test_only_our_cases_are_mailed():
    programs = mail.our_programs()
    names = set().union(*programs.values())
    assert set(programs) == {"x86", "arm64"} and all(programs.values())
    rows = [line.split() for line in mail.case_lines(names).splitlines()
            if line and not line.startswith("#")]
    assert {row[4] for row in rows} == names
    assert all((mail.OURS / f"{program}.c").exists() for program in names)


def test_what_a_program_includes_is_there(kernel):
    new = mail.tests(kernel)
    headers = {name.removeprefix("include/") for name in new if name.startswith("include/")}
    for name, text in new.items():
        if name.endswith((".c", ".h")):
            included = set(re.findall(r'#include "(memslot_\w+\.h)"', text))
            assert included <= headers, name
            assert not re.search(r'#include "(harness|kvm_compat|lib_case)\.', text), name
    mains = [name for name, text in new.items() if '#include "memslot_main.h"' in text]
    assert set(mains) == {f"{program}.c" for program in set().union(*mail.our_programs().values())}


# --- the cover letter ---

def own(text="Why.\n\nMore.\n\nA Person (2):\n  KVM: Do 1\n\n file | 2 +-\n"):
    cover = type("Cover", (), {"subject": "KVM: Do it", "changelog": text})
    return type("Own", (), {"cover": cover, "where": "here"})


def cover(base):
    blank = "Subject: [PATCH 0/2] *** SUBJECT HERE ***\n\n*** BLURB HERE ***\n\nA Person (3):\n"
    return mail.cover(Config(base=base), blank, own())


def test_the_cover_letter_has_the_figures_of_results():
    text = cover("v6.12")
    assert text.startswith("Subject: [PATCH 0/2] KVM: Do it\n\nWhy.\n\nMore.\n\nThe last patch")
    assert text.endswith("\n\nA Person (3):\n") and "KVM: Do 1" not in text
    assert re.search(r"^Exact count of instructions: a fault", text, re.MULTILINE)
    for name in ("arm64/vhe", "x86/npt"):
        assert re.search(rf"^{name}: fast_minor is \d\.\d\d x that sum \(\d+\)$", text,
                         re.MULTILINE)
        assert re.search(rf"^  {name}\n  vCPUs  without     with    ratio   vs sharded\n"
                         r"      1 +\d+ +\d+ +\d\.\d\dx +\d\.\d\dx$", text, re.MULTILINE)


def test_figures_of_another_base_say_so():
    text = cover("mainline")
    assert "Exact count of instructions: a fault" in text
    assert "Lockstep model of serialisation on v6.12 (no caches" in text


def test_without_a_cover_letter():
    no_cover = type("Own", (), {"cover": None, "where": "here"})
    with pytest.raises(BadInput, match="here has no cover letter"):
        mail.cover(Config(), "", no_cover)


# --- the mails ---

@pytest.fixture
def kernel(tmp_path):
    """The kernel's directory of tests, in a tree."""
    kvm = tmp_path / "kernel" / mail.KVM
    for name in ("lib", "include"):
        (kvm / name).mkdir(parents=True)
        (kvm / name / "a.c").write_text("")
    (kvm / "Makefile").write_text("all:\n")
    (kvm / "Makefile.kvm").write_text(makefile())
    (kvm / ".gitignore").write_text("*\n!/**/\n!*.c\n!*.h\n!*.sh\n!.gitignore\n!Makefile*\n")
    return kvm


class World:
    """A kernel of a few files, a series of two patches for it, and no kernel-patches/apply."""

    def __init__(self, root: pathlib.Path, base: Base) -> None:
        self.root, self.tree, self.series = root, root / "kernel", root / "series"
        self.base = dataclasses.replace(base, directory=self.series)
        (self.tree / "file").write_text("1\n2\n3\n4\n5\n6\n7\n8\n9\n")
        git(self.tree, "init", "-q", ".")
        git(self.tree, "add", "-Af")
        git(self.tree, "commit", "-q", "-m", "base")
        git(self.tree, "update-ref", "refs/remotes/origin/base", "HEAD")
        for n in (3, 7):
            path = self.tree / "file"
            path.write_text(path.read_text().replace(f"{n}\n", f"{n}{n}\n"))
            git(self.tree, "commit", "-qam", f"KVM: Do {n}", "--author=A Person <a@example.org>")
        git(self.tree, "format-patch", "-q", "--cover-letter", "-o", str(self.series),
            "origin/base")
        letter = next(self.series.glob("0000-*"))
        letter.write_text(letter.read_text().replace("*** SUBJECT HERE ***", "KVM: Do it")
                          .replace("*** BLURB HERE ***", "Why."))
        (self.series / "base").write_text("")

    def apply(self, config, directory, series, tree):
        git(self.root, "clone", "-q", str(self.tree), str(tree))
        git(tree, "update-ref", "refs/remotes/origin/base", "HEAD~2")
        git(tree, "reset", "-q", "--hard", "origin/base")
        patches = sorted(p for p in directory.glob("*.patch") if not p.name.startswith("0000"))
        git(tree, "am", "-q", *map(str, patches))

    def config(self, **more):
        config = Config(o=str(self.root / "o"), v="2", **more)
        config.__dict__["base_facts"] = self.base
        return config

    def mails(self):
        paths = sorted((self.root / "o" / "outgoing").iterdir())
        return {path.name[:7]: path.read_text() for path in paths}


@pytest.fixture
def world(tmp_path, kernel, monkeypatch):
    found = World(tmp_path, Config().base_facts)
    monkeypatch.setattr("ci.build.images.build", lambda config: None)
    monkeypatch.setattr("ci.build.images.apply", found.apply)
    monkeypatch.setattr("ci.revision.patchcheck.addresses", lambda tree, diff, *kinds: {
        "--no-l": ["M <m@example.org>"]}.get(kinds[0], ["M <m@example.org>", "list@example.org"]))
    return found


def test_the_series_as_mail(world, capsys):
    assert mail.series(world.config()) == 0
    mails = world.mails()
    assert list(mails) == ["v2-0000", "v2-0001", "v2-0002", "v2-0003"]
    for number, text in enumerate(mails.values()):
        assert f"Subject: [PATCH v2 {number}/3] KVM: " in text
        assert "To: M <m@example.org>\nCc: list@example.org\n" in text
    assert "\nFrom: KVM fast-only project <kvm-fast-only@project.invalid>\n" in mails["v2-0000"]
    assert "kvm-fast-only@project.invalid" in re.search("^Message-I[Dd]: .*", mails["v2-0000"],
                                                        re.MULTILINE)[0]
    assert "base-commit: " in mails["v2-0000"] and "***" not in mails["v2-0000"]
    last = mails["v2-0003"]
    assert "\nFrom: A Person <a@example.org>\n" in last
    assert "\nSigned-off-by: A Person <a@example.org>\n" in last
    assert "\n+++ b/tools/testing/selftests/kvm/memslot_cases\n" in last
    assert "new file mode 100755" in last
    assert "3 patches and a cover letter" in capsys.readouterr().out
    assert [path.name for path in (world.root / "o").iterdir()] == ["outgoing"]


def test_nobodys_configuration_is_in_it(world, monkeypatch):
    home = world.root / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(GITCONFIG)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(world.root / "nowhere"))
    assert mail.series(world.config()) == 0
    first = world.mails()["v2-0001"]
    assert "[PATCH v2 1/3]" in first and "\n+++ b/file\n" in first
    assert "boundary" not in first and "Signed-off-by" not in first
    assert first.count("-- \n2.39\n") == 1


def test_against_an_earlier_revision(world):
    earlier = world.root / "earlier"
    earlier.mkdir()
    for path in world.series.glob("*.patch"):
        (earlier / path.name).write_text(path.read_text().replace("+77", "+777"))
    assert mail.series(world.config(against=str(earlier))) == 0
    letter = world.mails()["v2-0000"]
    assert "Range-diff" in letter
    assert re.search(r"^1: +\w+ = 1: +\w+ KVM: Do 3$", letter, re.MULTILINE)
    assert re.search(r"^2: +\w+ ! 2: +\w+ KVM: Do 7$", letter, re.MULTILINE)


def test_what_does_not_give_the_tree_is_not_kept(world, monkeypatch):
    def spoil(config, blank, own):
        path, = (world.root / "o" / "outgoing.new").glob("v2-0002-*")
        path.write_text(path.read_text().replace("+77", "+78"))
        return blank
    monkeypatch.setattr(mail, "cover", spoil)
    with pytest.raises(BadInput, match="git am of the mails gives"):
        mail.series(world.config())
    assert not (world.root / "o" / "outgoing").exists()


@pytest.mark.parametrize("number", ["0", "x", "", "-1"])
def test_a_series_has_a_number(number):
    with pytest.raises(BadInput, match="say V=n"):
        mail.series(Config(v=number))


def test_a_base_that_has_a_patch_is_refused(world, monkeypatch):
    """git format-patch would leave it out without a word."""
    apply = mail.images.apply

    def merged(config, directory, series, tree):
        apply(config, directory, series, tree)
        git(tree, "commit", "-q", "--allow-empty", "-m", "Do 3", "-m", "(in the base already)")
    monkeypatch.setattr(mail.images, "apply", merged)
    with pytest.raises(BadInput, match="has a patch already: Do 3; mails are written on"):
        mail.series(world.config())

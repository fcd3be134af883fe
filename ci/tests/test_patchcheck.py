# SPDX-License-Identifier: GPL-2.0
"""What is said of a patch without a boot."""
import pathlib
import types
from typing import Any

import pytest

from ci.build import images
from ci.build.cache import Cache
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts.text import BadInput
from ci.judge.check import Status
from ci.revision import patchcheck, series
from ci.revision.series import Patch, Series
from ci.tests.test_series import MAIL, patch_text

NOWHERE = pathlib.Path()
MAIN = "virt/kvm/kvm_main.c"


@pytest.fixture
def patch(tmp_path: pathlib.Path) -> Any:
    """Makes a patch of a text."""
    def make(text: str, number: int = 1) -> Patch:
        path = tmp_path / f"{number:04}-a.patch"
        path.write_text(text)
        return series.parse(path, number)
    return make


def says(monkeypatch: pytest.MonkeyPatch, status: int, text: str) -> None:
    """What any tool says."""
    monkeypatch.setattr(patchcheck, "output_of", lambda *argv, **more: (status, text))


def test_sign_off(patch: Any) -> None:
    assert patchcheck.signed_off(NOWHERE, patch(patch_text(1))) == []
    for old, new in (("Signed-off-by: A", "Signed-off-by: B"), ("Signed-off", "Acked")):
        assert patchcheck.signed_off(NOWHERE, patch(patch_text(1).replace(old, new)))


@pytest.mark.parametrize("name", ["author-with-dot", "author-in-body", "author-by-relay"])
def test_the_author_is_whom_git_am_takes(tmp_path: pathlib.Path, name: str) -> None:
    found = series.load(str(MAIL / f"{name}.mbox"), "v6.12", tmp_path / "series")
    assert patchcheck.signed_off(NOWHERE, found.patches[0]) == []


@pytest.mark.parametrize("status, said, wrong", [
    (0, "A <a@example.org>\n", ""),
    (0, "linux-block@vger.kernel.org\nkvmarm@lists.linux.dev\n", "lists alone"),
    (1, "no file", "nobody")])
def test_recipients(monkeypatch: pytest.MonkeyPatch, patch: Any, status: int, said: str,
                    wrong: str) -> None:
    says(monkeypatch, status, said)
    found = patchcheck.recipients(NOWHERE, patch(patch_text(1)))
    assert bool(found) == bool(wrong) and wrong in "".join(found)


def test_subject(patch: Any) -> None:
    assert patchcheck.subject_form(NOWHERE, patch(patch_text(1))) == []
    for new in ("Do 1", "KVM: x86: Do 1."):
        text = patch_text(1).replace("KVM: x86: Do 1", new)
        assert patchcheck.subject_form(NOWHERE, patch(text))


def test_checkpatch(monkeypatch: pytest.MonkeyPatch, patch: Any) -> None:
    says(monkeypatch, 1, "/a/0001-a.patch:3: WARNING: line is long\n\n")
    assert patchcheck.checkpatch(NOWHERE, patch(patch_text(1))) == ["WARNING: line is long"]
    says(monkeypatch, 0, "")
    assert patchcheck.checkpatch(NOWHERE, patch(patch_text(1))) == []


def test_what_a_dying_tool_said_is_not_kept(monkeypatch: pytest.MonkeyPatch, patch: Any,
                                            tmp_path: pathlib.Path) -> None:
    cache, mine = Cache(tmp_path / "cache"), patch(patch_text(1))
    for status, said in ((1, "Can't locate a.pm\n"), (255, "WARNING: cut\n")):
        says(monkeypatch, status, said)
        with pytest.raises(BadInput, match="checkpatch.pl failed with status"):
            cache.once("static", ["a"], lambda: patchcheck.checkpatch(NOWHERE, mine))
    assert cache.get("static", ["a"]) is None
    for tool in (patchcheck.kernel_doc, patchcheck.documentation):
        (tmp_path / "Documentation").mkdir(exist_ok=True)
        for name in ("a.h", "Documentation/a.rst"):
            (tmp_path / name).touch()
        with pytest.raises(BadInput, match="failed with status 255"):
            tool(tmp_path, ["a.h", "Documentation/a.rst"],  # type: ignore[operator]
                 *([tmp_path] if tool == patchcheck.documentation else []))


def test_the_cover_letter(patch: Any, tmp_path: pathlib.Path) -> None:
    patches = tuple(patch(patch_text(n), n) for n in (1, 2))
    one, both = Series("", tmp_path, patches[:1]), Series("", tmp_path, patches)
    assert patchcheck.cover_letter(one, "abc") == []
    assert patchcheck.cover_letter(both, "abc") == ["no cover letter"]
    for text, wrong in (("base-commit: abc", ""), ("Text.", "no base-commit: abc"),
                        ("base-commit: abc\n*** BLURB HERE ***", "no text")):
        cover = patch(f"From: a <a@b>\nSubject: [PATCH 0/2] a\n\n{text}\n", 0)
        found = patchcheck.cover_letter(Series("", tmp_path, patches, cover), "abc")
        assert bool(found) == bool(wrong) and wrong in "".join(found)
    second = Series("", tmp_path, patches[1:], patch(f"Subject: a\n\nbase-commit: abc\n", 0))
    assert patchcheck.cover_letter(second, "abc") == ["patches are numbered [2]"]


def test_warnings_are_compared_without_lines() -> None:
    before = patchcheck.warnings_in(
        f"{MAIN}:10:5: warning: unused variable 'a' [-Wunused]\n", [MAIN])
    after = patchcheck.warnings_in(
        f"arch/x86/kvm/../../../{MAIN}:12:5: warning: unused variable 'a' [-Wunused]\n"
        f"arch/x86/kvm/../../../{MAIN}:13:5: warning: unused variable 'b' [-Wunused]\n"
        "include/linux/other.h:1:1: warning: none of ours\n", [MAIN])
    assert patchcheck.grown(before, after) == [f"{MAIN}: warning: unused variable 'b' [-Wunused]"]
    assert patchcheck.grown(after, after) == []
    # A second one of the same words is new.
    assert len(patchcheck.grown(before, before * 2)) == 1


def test_what_is_compiled_where() -> None:
    x86, arm64 = arch_.load("x86"), arch_.load("arm64")
    files = ["arch/x86/kvm/x86.c", "arch/arm64/kvm/mmu.c", MAIN, "tools/a.c", "kernel/irq/manage.c",
             "arch/powerpc/kvm/b.c", "include/linux/a.h", "Documentation/a.rst"]
    assert patchcheck.compiled_here(files, x86) == ["arch/x86/kvm/x86.c", MAIN,
                                                    "kernel/irq/manage.c"]
    assert patchcheck.built_here(files, arm64) == ["arch/arm64/kvm/mmu.c", MAIN,
                                                   "kernel/irq/manage.c", "include/linux/a.h"]
    assert patchcheck.foreign(files, [x86, arm64]) == ["arch/powerpc/kvm/b.c"]


def test_compiled_with_more_warnings(monkeypatch: pytest.MonkeyPatch,
                                     tmp_path: pathlib.Path) -> None:
    """Twice, as the first time compiles what is around; no warning ends it."""
    calls = []

    def make(*argv: Any) -> tuple[int, str]:
        calls.append(argv[4:])
        return 0, f"{MAIN}:1:1: warning: a\n"
    monkeypatch.setattr(images, "kernel_make", make)
    files = [MAIN, "kernel/irq/manage.c"]
    said = patchcheck.compile_again(Config(), arch_.load("x86"), tmp_path, files,
                                    "CONFIG_WERROR=y\nCONFIG_KVM=y\n", ["C=1"])
    assert said == ([f"{MAIN}: warning: a"], files)
    assert calls == [("W=1", "C=1", "arch/x86/kvm/", "kernel/irq/")] * 2
    assert (tmp_path / "out-x86-w1" / ".config").read_text() == (
        "# CONFIG_WERROR is not set\nCONFIG_KVM=y\n")
    monkeypatch.setattr(images, "kernel_make", lambda *argv: (2, "make: no\n"))
    said = patchcheck.compile_again(Config(), arch_.load("x86"), tmp_path, [MAIN], "", [])
    assert said == ([f"{MAIN}: error: make W=1 failed"], [])


def test_what_has_grown_since_the_patch_before(tmp_path: pathlib.Path, patch: Any) -> None:
    tree = types.SimpleNamespace(identity=lambda place: f"tree {place}", places=[])
    tree.go_to = tree.places.append
    static = patchcheck.Static(Config(), tree, Cache(tmp_path / "cache"))  # type: ignore[arg-type]

    def ask() -> patchcheck.Said:
        return ["a", "b"][:len(tree.places)], ["c.c"]
    for _ in range(2):  # The second time it is known.
        failed, left = static.grown("tool", patch(patch_text(1)), [], ask)
        assert (failed.status, failed.summary) == (Status.FAIL, "b")
        assert (left.status, left.summary[:3]) == (Status.NOT_CHECKED, "c.c")
        assert tree.places == [0, 1]


def test_a_document_that_a_patch_adds_is_not_there_before(tmp_path: pathlib.Path) -> None:
    assert patchcheck.documentation(tmp_path, ["Documentation/new.rst"], tmp_path) == ([], [])

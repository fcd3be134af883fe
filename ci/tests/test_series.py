# SPDX-License-Identifier: GPL-2.0
"""The same series from a directory, a mailbox and git; and what git am takes that is not tidy."""
import email
import mailbox
import pathlib
import subprocess

import pytest

from ci.build import git as git_
from ci.facts.text import ROOT, BadInput
from ci.revision import series
from ci.revision.series import Series

MAIL = ROOT / "ci" / "tests" / "data" / "mail"
BASE = "v6.12"
PATCH = """From 1234567890123456789012345678901234567890 Mon Sep 17 00:00:00 2001
From: A Person <a@example.org>
Date: Wed, 25 Nov 2026 14:26:21 +0000
Subject: [PATCH v3 {n}/2] KVM: x86: Do {n}

Because of {n}.

Signed-off-by: A Person <a@example.org>
---
 file | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/file b/file
index 1111111..2222222 100644
--- a/file
+++ b/file
@@ -{n} +{n} @@
-{n}
+{n}{n}
--{space}
2.39

"""
COVER = "From: A Person <a@example.org>\nSubject: [PATCH v3 0/2] KVM: Do both\n\nText.\n"


def patch_text(n: int) -> str:
    return PATCH.format(n=n, space=" ")


def write(directory: pathlib.Path, **texts: str) -> str:
    """A directory of files, named by what stands before their number."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        (directory / f"{name.replace('_', '-')}.patch").write_text(text)
    return str(directory)


def box(path: pathlib.Path, *texts: str) -> str:
    mails = mailbox.mbox(str(path))
    for text in texts:
        mails.add(mailbox.mboxMessage(text))
    mails.close()
    return str(path)


def load(where: str, tmp_path: pathlib.Path) -> Series:
    return series.load(where, BASE, tmp_path / "loaded")


def idents_of_two(found: Series) -> list[str]:
    assert [p.subject for p in found.patches] == ["KVM: x86: Do 1", "KVM: x86: Do 2"]
    assert [p.number for p in found.patches] == [1, 2]
    assert found.patches[0].files == ["file"]
    assert found.version == 3
    return [p.ident for p in found.patches]


def two(tmp_path: pathlib.Path, prefix: str = "") -> str:
    return write(tmp_path / "in", **{f"{prefix}{n:04}_do_{n}": patch_text(n) for n in (1, 2)})


def test_directory_and_mailbox_are_the_same_patches(tmp_path: pathlib.Path) -> None:
    idents = idents_of_two(load(two(tmp_path), tmp_path))
    mails = [text for n in (2, 1) for text in (  # in no order, and with replies between
        patch_text(n), f"Subject: Re: [PATCH v3 {n}/2] KVM: x86: Do {n}\n\nNo.\n",
        f"Subject: Re: [PATCH v3 {n}/2] KVM: x86: Do {n}\n\nThis:\n\n{patch_text(n)[-90:]}")]
    found = load(box(tmp_path / "box", *mails, COVER), tmp_path)
    assert idents_of_two(found) == idents
    assert found.cover and found.first.title == "[PATCH v3 0/2] KVM: Do both"


def test_a_mail_in_base64(tmp_path: pathlib.Path) -> None:
    message = email.message_from_string(patch_text(1).replace("Because", "Weil's größer ist"))
    body = message.get_payload()
    message.set_payload(str(body).replace("\n", "\r\n"), "utf-8")
    assert message["content-transfer-encoding"] == "base64"
    found = load(box(tmp_path / "box", message.as_string()), tmp_path)
    assert "+11\n" in found.patches[0].text
    assert found.patches[0].changelog.startswith("Weil's größer ist of 1.\n")


def test_patches_as_make_series_names_them(tmp_path: pathlib.Path) -> None:
    idents_of_two(load(two(tmp_path, "v3_"), tmp_path))


def test_the_newest_of_two_versions(tmp_path: pathlib.Path) -> None:
    """git format-patch -v10 -o leaves the files of -v9 where they are."""
    old = {f"{prefix}{n:04}_{name}": text.replace("v3 ", "").replace("+11", "+old")
           for prefix in ("", "v9_") for n, name, text in (
               (0, "cover_letter", COVER), (1, "do_1", patch_text(1)), (3, "more", patch_text(1)))}
    write(tmp_path / "in", v10_0000_cover_letter=COVER, **old)
    found = load(two(tmp_path, "v10_"), tmp_path)
    idents_of_two(found)
    assert "+11" in found.patches[0].text
    assert found.cover and "v3" in found.cover.title


@pytest.mark.parametrize("text", ["diff --git a/a b/a\n",
                                  "Subject: [PATCH 1/1] a: b\n\nNothing.\n"])
def test_what_is_no_patch(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(BadInput, match="no Subject|no diff"):
        load(write(tmp_path / "in", **{"0001_a": text}), tmp_path)


def test_two_mails_for_one_patch(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match="two mails are patch 1"):
        load(box(tmp_path / "box", patch_text(1), patch_text(1)), tmp_path)


def test_a_mail_that_has_lost_its_diff(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match="0002-.*: no diff"):
        load(box(tmp_path / "box", patch_text(1), patch_text(2).partition("\n---")[0]), tmp_path)


def test_a_revision_of_this_repository(tmp_path: pathlib.Path) -> None:
    found = load("HEAD", tmp_path)
    assert len(found.patches) > 1
    assert found.cover and "KVM" in found.cover.subject


def test_what_is_none_of_these(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match="neither a directory, nor a mailbox, nor a revision"):
        load("no/such/thing", tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("Hello.\n")
    for name in ("empty", "text"):
        with pytest.raises(BadInput, match="no patches"):
            load(str(tmp_path / name), tmp_path)


def test_who_is_named_and_hashed(tmp_path: pathlib.Path) -> None:
    text = patch_text(1).replace("Date:", "Message-Id: <1@example.org>\nDate:")
    first, second = (load(write(tmp_path / name, **{"0001_a": t}), tmp_path / f"{name}-loaded")
                     for name, t in (("a", text), ("b", text.replace("Because", "Thanks"))))
    assert first.first.message_id == "<1@example.org>"
    assert "Message" not in first.first.changelog
    assert first.first.ident == second.first.ident
    assert first.patchset_hash != second.patchset_hash


# --- as git am takes it ---

def am(directory: pathlib.Path, tmp_path: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """The patches of a directory onto a tree with one file."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "base"]):
        git_.git(tree, *words)
    return subprocess.run(["git", "am", "-q", *map(str, sorted(directory.glob("*.patch")))],
                          cwd=tree, env=git_.environment(), capture_output=True, text=True)


@pytest.mark.parametrize("path", sorted(MAIL.glob("*.mbox")), ids=lambda path: path.stem)
def test_a_mailbox_that_is_not_tidy(tmp_path: pathlib.Path, path: pathlib.Path) -> None:
    """In each there is one patch, by somebody who has signed it off."""
    found = load(str(path), tmp_path)
    patch, = found.patches
    assert (patch.number, found.version, found.cover) == (1, 3, None)
    assert (patch.subject, patch.files) == ("KVM: x86: Do 1", ["file"])
    assert f"Signed-off-by: {patch.author}\n" in patch.changelog
    assert patch.author == f"A{'.' * (path.stem == 'author-with-dot')} Person <a@example.org>"
    if path.stem == "latin1":
        assert "Wegen der Größe." in patch.text
    done = am(found.directory, tmp_path)
    if path.stem == "cut":
        assert "corrupt patch" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tree" / "file").read_text() == "11\n"
    author = git_.git(tmp_path / "tree", "log", "-1", "--format=%an <%ae>")
    assert author == patch.author


@pytest.mark.parametrize("before, after", [
    ("[PATCH v3 ", "]"), ("[PATCHv3 ", "]"), ("[RFC PATCH v3 ", "]"), ("[RFC][PATCH v3 ", "]"),
    ("[RESEND][PATCH v3 ", "]"), ("[PATCH v3 ", " RESEND]"), ("[EXTERNAL] [PATCH v3 ", "]"),
    ("[patch V3 ", "]"), ("[RFC v3 ", "]"), ("[PATCH 5.10/5.15 v3 ", "]")])
def test_prefixes_of_subjects(tmp_path: pathlib.Path, before: str, after: str) -> None:
    mails = [text.replace("[PATCH v3 ", before).replace("/2]", f"/2{after}")
             for text in (COVER, patch_text(1), patch_text(2))]
    found = load(box(tmp_path / "box", *mails), tmp_path)
    idents_of_two(found)
    assert found.cover and found.cover.subject == "KVM: Do both"


def test_an_encoded_subject(tmp_path: pathlib.Path) -> None:
    text = patch_text(1).replace("[PATCH v3 1/2] KVM: x86: Do 1",
                                 "=?UTF-8?B?W1BBVENIIHYzIDEvMV0gS1ZNOiB4ODY6IERvIDE=?=")
    found = load(box(tmp_path / "box", text), tmp_path)
    assert (found.first.subject, found.version) == ("KVM: x86: Do 1", 3)


def test_patches_without_numbers_are_in_order(tmp_path: pathlib.Path) -> None:
    mails = [patch_text(n).replace(f" v3 {n}/2]", " v3]") for n in (1, 2)]
    idents_of_two(load(box(tmp_path / "box", *mails), tmp_path))

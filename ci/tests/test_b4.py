# SPDX-License-Identifier: GPL-2.0
"""What b4 review is told of a mail."""
import io
import json
import os
import pathlib
import subprocess
import types

import pytest

from ci.config import Config
from ci.facts.text import ROOT, BadInput
from ci.publish import b4, report
from ci.tests.judged import document

HEAD = """From: A Person <a@example.org>
Subject: [PATCH v3 1/2] KVM: x86: Do 1
MIME-Version: 1.0
Content-Type: text/plain; charset={charset}
Content-Transfer-Encoding: 8bit

"""
BODY = """Grüße.
---
diff --git a/file b/file
index 1111111..2222222 100644
--- a/file
+++ b/file
@@ -1 +1 @@
-1
+11
--\x20
2.39
"""
COVER = b"From: a@example.org\nSubject: [PATCH v3 0/2]\n KVM: Do both\n\nAll of it.\n"


def mail(charset):
    return (HEAD.format(charset=charset) + BODY).encode(charset)


@pytest.fixture
def results(tmp_path):
    """Of one run, of a series whose first patch is that mail."""
    run(tmp_path / "20260101-000000-revision")
    return tmp_path


def run(directory: pathlib.Path, **more: object) -> None:
    directory.mkdir()
    found = document(**more)
    found["patches"][0]["patch_id"], _ = b4.read(mail("utf-8"))
    (directory / "revision.json").write_text(json.dumps(found))
    (directory / "b4.json").write_text(json.dumps(b4.answers(found, report.checks_of(found))))


def ask(results, text, monkeypatch, capsys, words=()):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))
    assert b4.b4_check(Config(results=str(results)), words) == 0
    return [(row["tool"], row["status"]) for row in json.loads(capsys.readouterr().out)]


FIRST = [("kvm-fast-only:checkpatch", "pass"), ("kvm-fast-only:boot-x86", "pass"),
         ("kvm-fast-only:boot-arm64", "pass")]


def test_answers():
    found = document()
    answers = b4.answers(found, report.checks_of(found))
    assert {row["tool"]: row["status"] for row in answers["2" * 40]} == {
        "kvm-fast-only:build-x86": "fail", "kvm-fast-only:boot-arm64": "fail"}
    assert answers["1" * 40][0]["status"] == "pass"
    assert answers[""] == [{"tool": "kvm-fast-only:x86-ept-x86", "status": "warn",
                            "summary": "because", "details": "because"}]


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "iso-8859-15"])
def test_a_patch_in_any_character_set(results, monkeypatch, capsys, charset):
    assert ask(results, mail(charset), monkeypatch, capsys) == FIRST


def test_the_cover_letter_is_known_by_its_subject(results, monkeypatch, capsys):
    assert ask(results, COVER, monkeypatch, capsys) == [("kvm-fast-only:x86-ept-x86", "warn")]


@pytest.mark.parametrize("text", [COVER.replace(b"both", b"more"),
                                  mail("utf-8").replace(b"+11", b"+12")])
def test_what_is_not_known(results, monkeypatch, capsys, text):
    assert ask(results, text, monkeypatch, capsys) == []


def test_a_run_of_a_few_patches_is_not_the_last(results, monkeypatch, capsys):
    run(results / "20260102-000000-revision", patches=[
        {**document()["patches"][0], "judged": False}])
    assert ask(results, COVER, monkeypatch, capsys) == [("kvm-fast-only:x86-ept-x86", "warn")]


def test_no_run(tmp_path):
    with pytest.raises(BadInput, match="no b4.json there of a whole series: make revision"):
        b4.b4_check(Config(results=str(tmp_path)))
    with pytest.raises(BadInput, match="nowhere: no b4.json there: make revision"):
        b4.b4_check(Config(), [str(tmp_path / "nowhere")])


def test_the_script_takes_a_run_of_the_callers_directory(results):
    """From anywhere, by any name, whatever CDPATH says."""
    (results / "ci").mkdir()
    (results / "check").symlink_to(ROOT / "ci" / "b4-check")
    (results / "a run").symlink_to("20260101-000000-revision")
    done = subprocess.run(["./check", "a run"], cwd=results, input=mail("iso-8859-1"),
                          env={**os.environ, "CDPATH": f"{results}:."}, capture_output=True,
                          check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(json.loads(done.stdout)) == len(FIRST)

# SPDX-License-Identifier: GPL-2.0
"""What is said of a revision that was judged."""
import copy
import json

import pytest

from ci.config import Config
from ci.facts.text import BadInput
from ci.judge import results
from ci.judge.check import Status
from ci.publish import report, template
from ci.tests.judged import CHECKS, GOOD, document

RATE = {"name": "fast_minor, 4 vCPUs", "blocks": 8, "change": -1.0, "low": -2.0, "high": 0.5,
        "p": 0.4, "control_p": 0.9, "smallest": 2.2, "least": 2.0, "verdict": "inconclusive"}
EXACT = {"mode": "fast_minor", "metric": "median", "spread": 0, "exact": True, "base": 7180,
         "against": 7187, "series": 7188}


def mail(found):
    return report.render("mail.txt", found)


def headline(found):
    return report.render("headline.txt", found).rstrip("\n")


def words(found):
    """The mail without its line breaks."""
    return " ".join(mail(found).split())


def rates(rows, **more):
    return {"x86": {"rows": rows, "given_up": [], "measured_by": ["abc"], "blocks": {}, **more}}


def too_wide(text):
    """Commands and paths are not broken."""
    whole = ("  make ", "      /", "Subject:", "References:", "In-Reply-To:")
    return [line for line in text.splitlines() if len(line) > template.WIDTH
            and not line.startswith(whole) and " " in line.strip()]


def test_the_mail_has_the_gravest_first_and_fits():
    text = mail(document())
    lines = text.splitlines()
    assert lines[:2] == ["Subject: Re: [PATCH v3 0/2] KVM: Do both",
                         "In-Reply-To: <1@example.org>"]
    first = lines.index("") + 1
    assert lines[first] == "verdict: splat: 2 findings, in patch 2"
    assert lines[first + 1].startswith("  SPLAT patch 2/2 arm64 boot: WARNING")
    assert "  FAIL patch 2/2 x86 build: error: no" in lines
    assert "  make revision PATCHES=2 ARCH=x86" in lines
    assert [line for line in too_wide(text) if "xxx" not in line] == []


@pytest.mark.parametrize("checks, wanted", [
    (CHECKS, "2 findings, in patch 2"),
    ([*CHECKS, (0, "x86", "x86-npt", "fail", "a fails")],
     "3 findings, in patch 2 and in the series as a whole"),
    ([(0, "x86", "cost", "fail", "dearer")], "1 finding, in the series as a whole"),
    ([(0, "x86", "base", "fail", "a fails")], "1 finding")])
def test_where_the_findings_are(checks, wanted):
    assert headline(document(checks)).partition(": ")[2].partition(": ")[2] == wanted


def test_a_series_without_a_cover_letter_is_no_reply():
    assert mail(document(cover_message_id="")).startswith("Subject: [PATCH v3 0/2]")


def test_all_good():
    text = mail(document(GOOD, verdict="pass"))
    assert ("verdict: pass, on arm64 and x86: 2 patches, each built, and booted where\n"
            "    kernel or tests changed\n") in text
    assert "To repeat:\n  make revision\n" in text


def test_patches_that_were_not_judged_are_not_praised():
    some = document(GOOD, verdict="pass")
    some["patches"][1]["judged"] = False
    assert "patch 1 alone" in headline(some)
    assert "Not judged: patches 2; the modes and the cost of the whole series." in words(some)


def test_a_log_is_quoted_up_to_the_line(tmp_path):
    (tmp_path / "log").write_text("".join(f"line {n}\n" for n in range(1, 20)))
    text = mail(document([(2, "x86", "build", "fail", "no", f"{tmp_path}/log:9")]))
    assert "      | line 9\n" in text
    assert "line 10" not in text
    whole = mail(document([(2, "x86", "build", "fail", "no", f"{tmp_path}/log")]))
    assert whole.count("      | ") == results.EXCERPT
    assert "| " not in mail(document([(2, "x86", "build", "fail", "no", "no/such/file:3")]))


def test_the_table_of_patches():
    checks = [*CHECKS, (2, "x86", "W=1", "not-checked", "c.c"), (1, "x86", "build", "pass"),
              (2, "arm64", "cost", "known", "more")]
    rows = [line for line in mail(document(checks)).splitlines() if "KVM: x86: Do" in line]
    assert [row.split()[5:] for row in rows] == [
        ["ok", "-", "=", "-", "ok", "60", "-"], ["-", "-", "splat", "ok*", "fail", "-", "-"]]


def test_what_has_moved():
    found = document(GOOD, against="HEAD~3", dropped=["KVM: Old"], exact={"x86": [EXACT]})
    found["patches"][1]["since"] = "changed"
    text = mail(found)
    assert "Since HEAD~3: 1 of 2 patches changed or new, 1 dropped\n   2 ! KVM: x86: Do 2\n" in text
    assert "     - KVM: Old\n" in text
    assert "x86 fast_minor: 7187 -> 7188 instructions of a fault, median (exact count)" in words(
        found)


def test_cells():
    row = {"arch": "x86", "mode": "npt", "config": ""}
    text = mail(document(GOOD, matrix=[
        {**row, "status": "known", "summary": "", "pass": 88, "failed": 0, "skip": 1, "known": 2,
         "base": ["a same"], "against": ["b fixed"]},
        {**row, "config": "debug", "status": "not-checked", "summary": "slow: MATRIX=all"},
        {**row, "mode": "shadow", "status": "fail", "summary": "the kernel does not build"}]))
    assert ("  x86-npt         known: 88 pass, 0 fail, 2 known; vs base: a same; vs\n"
            "                  earlier: b fixed\n") in text
    assert "  x86-npt-debug   not booted: slow: MATRIX=all\n" in text
    assert "  x86-shadow      fail: the kernel does not build\n" in text


def test_exact_counts_that_do_not_repeat_are_named():
    found = document(GOOD, exact={"x86": [{**EXACT, "exact": False, "spread": 2}]})
    assert ("0 of 1 rows repeat exactly; not judged, as they do not: fast_minor median "
            "(differs by 2)") in words(found)
    assert "(exact count)" not in mail({**found, "against": "HEAD~3"})
    assert "  fast_minor               median           7180     7187     7188\n" in mail(
        document(GOOD, exact={"x86": [EXACT]}))


def test_what_could_not_have_been_seen_is_not_no_change():
    found = document(GOOD, rates=rates([RATE, {**RATE, "verdict": "within threshold"}]))
    assert headline(found).endswith("; 1 of 2 rates inconclusive")
    assert too_wide(mail(found)) == []
    assert "inconclusive: -1.00 % [-2.00, +0.50], p = 0.400 (Holm)" in words(found)


def test_rates_that_were_measured_twice():
    found = document(GOOD, rates=rates([RATE], given_up=[[{"control_p": 0.01}]],
                                       measured_by=["abc", "other"]))
    assert "measurement 1 was given up" in words(found)
    assert "what follows is measurement 2" in words(found)
    assert too_wide(mail(found)) == []
    assert "Measured with other of this repository, judged with abc." in words(found)
    once = words(document(GOOD, rates=rates([RATE])))
    assert "given up" not in once and "Measured with" not in once


def test_rates_that_there_are_none_of():
    flagged = [{"name": "x", "blocks": 8, "control_p": 0.01, "verdict": "not usable"}]
    assert "x86: rates: not usable\n" in mail(document(GOOD, rates=rates(flagged)))
    assert "x86: rates were not compared: no reason\n" in mail(
        document(GOOD, rates={"x86": {"why": "no reason"}}))


def test_a_page_escapes_what_it_quotes():
    checks = [*CHECKS, (2, "x86", "W=1", "fail", "<script>alert(1)</script>")]
    found = document(checks, against="<b>")
    text = report.render("report.html", found)
    assert "<script>" not in text and "<b>:" not in text
    assert text.count("&lt;script&gt;") == 2, "in the table, and in the mail"


def test_a_page_has_the_pictures_that_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "stages.svg").write_text("<?xml?>\n<!DOCTYPE svg>\n<svg><a/></svg>\n")
    text = report.render("report.html", document())
    assert "\n<svg><a/></svg>\n" in text and "?xml" not in text and text.count("DOCTYPE") == 1
    assert "make bench" in text and "make scale" not in text


@pytest.mark.parametrize("broken", [{"version": 2}, {"verdict": "green"}, {"checks": []},
                                    {"patches": []}], ids=str)
def test_what_the_schema_refuses(broken):
    report.validate(document())
    with pytest.raises(BadInput, match="revision.json"):
        report.validate(document(**broken))


def test_what_kcidb_would_refuse_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("ci.publish.kcidb.report", lambda *args: {"checkouts": []})
    with pytest.raises(BadInput, match="kcidb.json"):
        report.write(tmp_path, document())
    assert not (tmp_path / "kcidb.json").exists()


def test_the_exit_status_is_the_verdict(tmp_path, monkeypatch, capsys):
    found = document()
    monkeypatch.setattr("ci.revision.judge.revision", lambda config: (tmp_path, found))
    assert report.revision(Config()) == Status.FAIL.exit_status
    assert json.loads((tmp_path / "revision.json").read_text()) == found
    assert {path.name for path in tmp_path.iterdir()} == {
        "revision.json", "mail.txt", "report.html", "kcidb.json", "b4.json"}
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "3 passed, 2 failed, 1 skipped"
    assert "verdict: splat" in said


def test_a_text_is_made_of_the_document_alone():
    found = document()
    before = copy.deepcopy(found)
    assert mail(found) == mail(found)
    assert found == before

# SPDX-License-Identifier: GPL-2.0
"""What KernelCI's database is told."""
import json

import pytest

from ci.facts.text import BadInput
from ci.publish import kcidb, report
from ci.tests.judged import CHECKS, document


def told(found):
    return kcidb.report(found, report.checks_of(found))


def test_a_test_for_each_check_of_an_architecture():
    found = told(document())
    assert [(b["architecture"], b["status"]) for b in found["builds"]] == [("x86", "FAIL")]
    assert len(found["tests"]) == 3, "only of what was built"
    assert {t["build_id"] for t in found["tests"]} == {b["id"] for b in found["builds"]}
    assert [t["status"] for t in found["tests"]] == ["PASS", "FAIL", "SKIP"]


def test_a_series_that_does_not_apply_is_not_valid():
    checks = [*CHECKS, (1, "", "apply", "fail", "does not apply")]
    assert not told(document(checks))["checkouts"][0]["valid"]
    assert told(document())["checkouts"][0]["valid"]


@pytest.mark.parametrize("table, broken", [
    ("tests", {"status": "same"}), ("tests", {"path": "patch 1"}), ("tests", {"log": "x"}),
    ("builds", {"id": "no colon"}), ("builds", {"architecture": "x86-64"}),
    ("checkouts", {"message_id": "<1@example.org>"}), ("checkouts", {"valid": None})], ids=str)
def test_what_it_would_refuse(table, broken):
    found = told(document())
    report.validate(found, "kcidb")
    spoiled = {**found, table: [{**found[table][0], **broken}, *found[table][1:]]}
    with pytest.raises(BadInput, match="kcidb.json"):
        report.validate(spoiled, "kcidb")


@pytest.mark.parametrize("cover, wanted", [
    ("<1@example.org>", "1@example.org"), ("<1@x> (added by postmaster@relay)", "1@x"),
    ("<nohost>", None), ("", None)])
def test_a_message_id_that_it_would_refuse_costs_no_verdict(tmp_path, cover, wanted):
    report.write(tmp_path, document(cover_message_id=cover))
    written = json.loads((tmp_path / "kcidb.json").read_text())["checkouts"][0]
    assert written.get("message_id") == wanted

# SPDX-License-Identifier: GPL-2.0
"""How a stream of results can be broken."""
import pytest

from ci.boot import ktap

HEAD = "KTAP version 1\n1..2\n# fact cpus=2\n"
FIRST = "# case first 30\n# some output\nok 1 first\n"
SECOND = "# case second 30\nok 2 second\n"
END = "# end\n"


def test_whole() -> None:
    stream = ktap.parse(HEAD + FIRST + SECOND + END)
    assert stream.problems == []
    assert [result.status for result in stream.results] == ["pass", "pass"]
    assert stream.results[0].output == "some output"
    assert stream.facts == {"cpus": "2"}


def test_lines_are_read_when_they_are_whole() -> None:
    stream = ktap.Stream()
    stream.feed(b"")
    assert stream.lines == 0
    stream.feed(b"KTAP version 1\n1.")
    assert (stream.lines, stream.plan) == (1, None)
    stream.feed(b".2\n")
    stream.close()
    assert (stream.lines, stream.plan, stream.problems) == (2, 2, [])


def test_no_end() -> None:
    assert not ktap.parse(HEAD + FIRST + SECOND).ended


@pytest.mark.parametrize("text, problem", [
    (HEAD + FIRST + END, "2 results planned, 1 seen"),
    (HEAD + FIRST + SECOND + "# case x 1\nok 3 x\n" + END, "2 results planned, 3 seen"),
    (HEAD + FIRST + END + SECOND, "after the end record"),
    ("KTAP version 1\nok 1 first\n", "expected the plan"),
    ("Hello\n", "want \"KTAP version 1\""),
    (HEAD + SECOND + FIRST + END, "result 2, expected 1"),
    (HEAD + "# case first 3\nok 1 second\n", "which was not running"),
    (HEAD + "Segmentation fault\n", "not KTAP: Segmentation fault"),
    (HEAD + FIRST + "# case sec", "cut off"),
])
def test_problems(text: str, problem: str) -> None:
    assert problem in "\n".join(ktap.parse(text).problems)


def test_a_case_cannot_end_the_stream() -> None:
    assert not ktap.parse(HEAD + "# case first 3\n" + END).ended


def test_output_cannot_pass_for_ours() -> None:
    forged = "# case first 30\n# fact cpus=9\n# case second 5\n# # end\nok 1 first\n"
    stream = ktap.parse(HEAD + forged + SECOND + END)
    assert (stream.problems, stream.facts) == ([], {"cpus": "2"})


def test_failed_skip_is_a_failure() -> None:
    stream = ktap.parse(HEAD + "# case first 30\nnot ok 1 first # SKIP but failed\n")
    assert stream.results[0].status == "fail"

# SPDX-License-Identifier: GPL-2.0
"""Read what PID 1 of the guest reports (guest-images/init.c has the format).

A result counts only if the stream earned it: plan first, numbers in order, the end
record last.  Anything else is a problem, and a stream with problems is broken.
"""
import dataclasses
import re

PLAN = re.compile(r"1\.\.(\d+)")
FACT = re.compile(r"# fact (\w+)=(.*)")
CASE = re.compile(r"# case (\w+) (\d+)")
RESULT = re.compile(r"(ok|not ok) (\d+) (\w+)(?: # (.*))?")


@dataclasses.dataclass
class Result:
    name: str
    status: str       # pass, fail, skip, timeout
    reason: str
    line: int         # of the stream, for a pointer into the log
    output: str = ""  # what the case printed


class Stream:
    """Fed while the guest runs."""

    def __init__(self) -> None:
        self.plan: int | None = None
        self.facts: dict[str, str] = {}
        self.results: list[Result] = []
        self.problems: list[str] = []
        self.running: tuple[str, int] | None = None  # (name, seconds) of the case under way
        self.ended = False
        self.bail = ""
        self.lines = 0
        self.rest = b""  # of a line without its end
        self.output: list[str] = []

    def problem(self, text: str) -> None:
        self.problems.append(f"line {self.lines}: {text}")

    def feed(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.lines += 1
            self.read(line.decode(errors="replace"))

    def close(self) -> None:
        if self.rest:
            self.problem(f"cut off in the middle of a line: {self.rest.decode(errors='replace')}")

    def read(self, line: str) -> None:
        plan = PLAN.fullmatch(line)
        if self.ended:
            self.problem(f"after the end record: {line}")
        elif self.lines == 1:
            if line != "KTAP version 1":
                self.problem(f"want \"KTAP version 1\", got: {line}")
        elif self.plan is None and plan:
            self.plan = int(plan[1])
        elif self.plan is None:
            self.problem(f"expected the plan \"1..N\", got: {line}")
        elif line == "# end" and self.running is None:
            self.ended = True
            if len(self.results) != self.plan:
                self.problem(f"{self.plan} results planned, {len(self.results)} seen")
        else:
            self.read_body(line)

    def read_body(self, line: str) -> None:
        fact, case, result = FACT.fullmatch(line), CASE.fullmatch(line), RESULT.fullmatch(line)
        # Output of a case is also "# "-prefixed: it must not pass for ours.
        if self.running is None and fact:
            self.facts[fact[1]] = fact[2]
        elif self.running is None and case:
            self.running, self.output = (case[1], int(case[2])), []
        elif result:
            self.add_result(result[1], int(result[2]), result[3], result[4] or "")
        elif line.startswith("Bail out!"):
            self.bail = line
        elif line.startswith("#"):
            self.output.append(line[2:])
        else:
            self.problem(f"not KTAP: {line}")

    def add_result(self, word: str, number: int, name: str, directive: str) -> None:
        if number != len(self.results) + 1:
            self.problem(f"result {number}, expected {len(self.results) + 1}")
        if self.running is None or self.running[0] != name:
            self.problem(f"a result for {name}, which was not running")
        self.running = None
        status = "pass" if word == "ok" else "fail"
        if directive.startswith("SKIP") and word == "ok":
            status = "skip"
        elif directive.startswith("TIMEOUT"):
            status = "timeout"
        self.results.append(Result(name, status, directive, self.lines, "\n".join(self.output)))


def parse(text: str) -> Stream:
    stream = Stream()
    stream.feed(text.encode())
    stream.close()
    return stream

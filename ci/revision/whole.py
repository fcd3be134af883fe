# SPDX-License-Identifier: GPL-2.0
"""What is said of the series as a whole: in each cell of ci/matrix, and what it costs."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ci.config import Config
from ci.facts import matrix
from ci.facts.arch import Arch
from ci.facts.matrix import Cell
from ci.facts.text import BadInput
from ci.judge import upstream
from ci.judge.check import Check, Status
from ci.judge.results import Boot
from ci.revision import cost, patchcheck
from ci.revision.series import Series
from ci.revision.states import Place, States, under

Row = dict[str, Any]   # as revision.json has it


class Whole:
    def __init__(self, config: Config, series: Series, states: States, say: Callable[..., None],
                 parts: Row):
        """@parts: of the document, each there as soon as it is known."""
        self.config, self.series, self.states = config, series, states
        self.say, self.parts, self.last = say, parts, len(series.patches)
        earlier: dict[str, Place] = {"against": "against"} if config.against else {}
        self.ends: dict[str, Place] = {"base": 0, **earlier, "series": self.last}

    def judge(self) -> None:
        """Of some patches alone, what AGAINST= can be asked."""
        modes, rates = cost.load_metrics()
        if not self.config.patches:
            self.parts["matrix"] = self.matrix()
        if self.config.against or not self.config.patches:
            self.each("exact", lambda arch: self.exact(arch, modes))
        if not self.config.patches:
            self.each("rates", lambda arch: self.rates(arch, rates))

    def each(self, part: str, function: Callable[[Arch], Any]) -> None:
        """By architecture.  What cannot be measured is a finding."""
        self.parts[part] = {}
        for arch in self.config.archs:
            try:
                self.parts[part][arch.name] = function(arch)
            except BadInput as error:
                status = getattr(error, "status", Status.HARNESS)
                self.say("cost", [Check(status, str(error))], 0, arch.name)

    # --- cells ---

    def matrix(self) -> list[Row]:
        archs = {arch.name: arch for arch in self.config.archs}
        cells, left = matrix.chosen(matrix.load(self.config.base_facts), archs,
                                    self.config.matrix == "all")
        self.states.prepare([(archs[cell.arch], place, cell.mode, cell.config)
                             for cell in cells for place in self.ends.values()])
        found = []
        for cell in cells:
            found.append(self.cell(cell, archs[cell.arch]))
            print(f"  {cell.name:<18} {found[-1]['status']}", flush=True)
        return found + [row(cell, Status.NOT_CHECKED, summary=cell.why or "slow: MATRIX=all")
                        for cell in left]

    def cell(self, cell: Cell, arch: Arch) -> Row:
        states = {kind: self.states.state(arch, place, cell.mode, cell.config)
                  for kind, place in self.ends.items()}
        now = states.pop("series")
        if not now.boot:
            self.say(cell.name, [now.check], 0, arch.name)
            return row(cell, Status.FAIL, summary=now.problem)
        boot = now.boot
        words = {kind: compared(boot, state.boot) for kind, state in states.items() if state.boot}
        checks = [with_history(check, words) for check in under(boot, boot.findings)]
        passes = [Check(Status.PASS)] if boot.verdict == Status.KNOWN else []
        self.say(cell.name, checks + passes, 0, arch.name)
        counts = {status: boot.count(status) for status in ("pass", "failed", "skip", "known")}
        return row(cell, boot.verdict, summary="", **counts,
                   **{kind: sorted(f"{case} {word}" for case, word in of_kind.items())
                      for kind, of_kind in words.items()})

    # --- what it costs ---

    def exact(self, arch: Arch, modes: Sequence[str]) -> list[Row]:
        """A change is laid at the door of the only patch that it can be of."""
        measured = {kind: [cost.values_of(self.states.measure(arch, place, "bench", modes, again=n))
                           for n in (0, 1)] for kind, place in self.ends.items()
                    if kind != "base" or not self.config.patches}
        rows, accepted = cost.exact_rows(measured), cost.load_accepted()
        differ = [Check(Status.HARNESS, f"{r['mode']}: two boots of one image differ in "
                        f"{r['metric']}") for r in rows if not r["exact"]]
        if differ:
            self.say("cost", differ, 0, arch.name)
        for other in sorted(measured.keys() - {"series"}):
            suspects = self.suspects(arch) if other == "against" else []
            changes = cost.exact_changes(arch.name, rows, accepted, other)
            self.say("cost", cost.as_one(changes, suspects),
                     suspects[0] if len(suspects) == 1 else 0, arch.name)
        return rows

    def suspects(self, arch: Arch) -> list[int]:
        """The patches that have changed since AGAINST= in what this architecture's kernel has.

        All of them, if one was dropped: its effect is in none of them.
        """
        moved = self.states.tree.moved()
        dropped = any(number is None for number, _, _ in moved)
        changed = {number for number, word, _ in moved if word != "same" or dropped}
        return [patch.number for patch in self.series.patches
                if patch.number in changed and patchcheck.built_here(patch.files, arch)]

    def rates(self, arch: Arch, rates: Sequence[cost.Rate]) -> Row:
        if not self.config.against:
            return {"why": "no earlier revision was given (AGAINST=)"}
        places: dict[str, Place] = {"A": "against", "B": self.last}
        kernels = {self.states.state(arch, place).images[0] for place in places.values()}
        if len(kernels) == 1:
            return {"why": "the two revisions' kernels are the same file"}
        found = cost.Blocks(self.states, arch, places, rates).measure()
        self.say("cost", cost.rate_changes(found["rows"], found["given_up"]), 0, arch.name)
        return found


def row(cell: Cell, status: Status, **more: object) -> Row:
    return {"arch": cell.arch, "mode": cell.mode, "config": cell.config, "status": status.word,
            **more}


def compared(boot: Boot, other: Boot) -> dict[str, str]:
    """{case: new, fixed, same or different}, of those that do not pass on both."""
    there = {r.name: upstream.result_of(r) for r in other.outcome.stream.results
             if r.status != "skip"}
    words = {r.name: upstream.compare(r, there[r.name]) for r in boot.outcome.stream.results
             if r.name in there}
    return {case: word for case, word in words.items() if word}


def with_history(check: Check, words: Mapping[str, Mapping[str, str]]) -> Check:
    """What fails on the base in the same way is known."""
    same = words.get("base", {}).get(check.case) == "same" and check.status == Status.FAIL
    history = "".join(f"; {of_kind[check.case]} against {cost.WORDS[kind]}"
                      for kind, of_kind in words.items() if check.case in of_kind)
    return dataclasses.replace(check, status=Status.KNOWN if same else check.status,
                               summary=check.summary + history)

# SPDX-License-Identifier: GPL-2.0
"""Prove that every line of the fragments survived in a kernel's .config."""
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

from ci.facts.text import BadInput

LINE = re.compile(r"(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set")


def parse(path: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """(line number, symbol, value); a symbol that is not set has value "n"."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = LINE.fullmatch(line)
        if match:
            yield number, match[1] or match[3], match[2] or "n"
        elif line and not line.startswith("#"):
            raise BadInput(f"{path}:{number}: not a Kconfig line: {line}")


def lost(config: pathlib.Path, fragments: Iterable[pathlib.Path]) -> Iterator[str]:
    """The requests of the fragments that the configuration does not grant, as text."""
    have = {symbol: value for _, symbol, value in parse(config)}
    # Of two requests for one symbol the later counts, as in merge_config.sh.
    want = {symbol: (value, f"{path}:{number}")
            for path in fragments for number, symbol, value in parse(path)}
    for symbol, (value, where) in want.items():
        if have.get(symbol, "n") != value:
            yield (f"{where}: {symbol}={value} did not survive, the kernel has "
                   f"{have.get(symbol, 'n')}")


def check(config: pathlib.Path, fragments: Iterable[pathlib.Path]) -> None:
    problems = list(lost(config, fragments))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise BadInput(f"{len(problems)} lines of the configuration are lost: a dependency is "
                       "missing, or this base has no such option; mend the fragment")

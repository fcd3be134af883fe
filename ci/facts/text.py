# SPDX-License-Identifier: GPL-2.0
"""The text tables of this repository, read in one place.

A table has one row a line; blank lines and lines that begin with "#" are for people.  A file
of facts has lines "name = value".
"""
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FACT = re.compile(r"(\w+)\s*=\s*(.*)")


class BadInput(Exception):
    """What the user gave cannot be used; the message says what to do."""


def rows(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, the line) of each row."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield f"{path}:{number}", line


def facts(path: pathlib.Path) -> dict[str, str]:
    """The "name = value" lines of a file; any other row is an error."""
    found = {}
    for where, line in rows(path):
        match = FACT.fullmatch(line)
        if not match:
            raise BadInput(f"{where}: neither a comment nor \"name = value\": {line}")
        found[match[1]] = match[2].strip()
    return found

# SPDX-License-Identifier: GPL-2.0
"""System.map: ci/measure/symbols.py."""
import pathlib

import pytest

from ci.facts.text import BadInput
from ci.measure.symbols import Symbols

MAP = "ffff800000000100 T one\nffff800000000200 t two\nffff800000000300 d data\n"
START = 0xffff800000000000


@pytest.fixture
def symbols(tmp_path: pathlib.Path) -> Symbols:
    (tmp_path / "map").write_text(MAP)
    return Symbols(tmp_path / "map")


def test_addresses(symbols: Symbols) -> None:
    assert (symbols.address("one"), symbols.end("one")) == (START + 0x100, START + 0x200)
    assert (symbols.first(["gone", "two"]), symbols.first(["gone"])) == ("two", "")


def test_names(symbols: Symbols) -> None:
    names = [symbols.name(START + offset) for offset in (0, 0x100, 0x1fc, 0x200, 0x999)]
    assert names == [None, "one", "one", "two", "data"]


def test_what_is_missing(symbols: Symbols) -> None:
    with pytest.raises(BadInput, match="has no gone: this kernel lacks it"):
        symbols.address("gone")
    with pytest.raises(BadInput, match="nothing behind data: it was cut off"):
        symbols.end("data")

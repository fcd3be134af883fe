# SPDX-License-Identifier: GPL-2.0
"""The kernel's System.map: where functions are, and whose an address is."""
import bisect
import pathlib
from collections.abc import Iterable

from ci.facts.text import BadInput


class Symbols:
    def __init__(self, path: pathlib.Path):
        rows = sorted((int(address, 16), name)
                      for address, _, name in map(str.split, path.read_text().splitlines()))
        self.path = path
        self.addresses = [address for address, _ in rows]
        self.names = [name for _, name in rows]
        self.by_name = {name: address for address, name in rows}

    def address(self, name: str) -> int:
        if name not in self.by_name:
            raise BadInput(f"{self.path} has no {name}: this kernel lacks it")
        return self.by_name[name]

    def first(self, names: Iterable[str]) -> str:
        """The first of these that there is, or ""."""
        return next((name for name in names if name in self.by_name), "")

    def end(self, name: str) -> int:
        """Where the next symbol begins."""
        at = bisect.bisect_right(self.addresses, self.address(name))
        if at == len(self.addresses):
            raise BadInput(f"{self.path} has nothing behind {name}: it was cut off")
        return self.addresses[at]

    def name(self, address: int) -> str | None:
        """The symbol that the address belongs to; None below all."""
        at = bisect.bisect_right(self.addresses, address) - 1
        return self.names[at] if at >= 0 else None

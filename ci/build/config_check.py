# SPDX-License-Identifier: GPL-2.0
"""Prove that every line of the fragments survived in a kernel's .config.

usage: config_check.py CONFIG FRAGMENT...

Exit status 2, and each lost line with its origin on stderr, if one did not.
"""
import re
import sys

LINE = re.compile(r"(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set")


def parse(path):
    """Yield (line number, symbol, value); a symbol that is not set has value "n"."""
    with open(path) as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\n")
            match = LINE.fullmatch(line)
            if match:
                yield number, match[1] or match[3], match[2] or "n"
            elif line and not line.startswith("#"):
                sys.exit(f"{path}:{number}: not a Kconfig line: {line}")


def lost(config, fragments):
    """The requests of the fragments that the configuration does not grant, as text."""
    have = {symbol: value for _, symbol, value in parse(config)}
    # Of two requests for one symbol the later counts, as in merge_config.sh.
    want = {symbol: (value, f"{path}:{number}")
            for path in fragments for number, symbol, value in parse(path)}
    for symbol, (value, where) in want.items():
        if have.get(symbol, "n") != value:
            yield f"{where}: {symbol}={value} did not survive, the kernel has {have.get(symbol, 'n')}"


def main(config, *fragments):
    problems = list(lost(config, fragments))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("config_check: a dependency is missing, or this base has no such option; "
              "mend the fragment", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

# SPDX-License-Identifier: GPL-2.0
"""What a kernel is built from: a base, and the series on it or not."""
import dataclasses
import functools
import hashlib
import pathlib

from ci.build.git import git
from ci.config import Config
from ci.facts.base import Base
from ci.facts.text import BadInput


@dataclasses.dataclass(frozen=True)
class Source:
    base: Base
    series: str                # "patched" or "base"
    kernel: str                # KERNEL=, or ""
    commits: tuple[str, ...]   # of KERNEL=: the base, and the end of a range
    identity: str              # of what is built, in its release: commits and patches
    series_sha256: str         # over the patches, in order; "" if it is somebody's commits


@functools.cache
def of(config: Config) -> Source:
    """As it is now: what is committed or edited while this builds is for the next run."""
    commits = kernel_commits(config.kernel, config.range) if config.kernel else ()
    if not config.patched:
        commits = commits[:1]
    paths = config.base_facts.patches if config.patched and not config.range else []
    patches = b"".join(map(pathlib.Path.read_bytes, paths))
    head = "".join(f"{line}\n" for line in [" ".join(commits)] if line).encode()
    return Source(config.base_facts, config.series_name, config.kernel, commits,
                  hashlib.sha256(head + patches).hexdigest()[:8],
                  "" if len(commits) > 1 else hashlib.sha256(patches).hexdigest())


@functools.cache
def kernel_commits(kernel: str, span: str) -> tuple[str, ...]:
    """What cannot be resolved is left to kernel-patches/apply, which says what is wrong."""
    try:
        names = [name for name in span.split("..") if name] or ["HEAD"]
        return tuple(git(kernel, "rev-parse", *names).split())
    except (BadInput, OSError):
        return ()

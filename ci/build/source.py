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
    patches: tuple[pathlib.Path, ...]

    @property
    def identity(self) -> str:
        """Of what is built, in its release: commits and patches."""
        total = hashlib.sha256("".join(f"{line}\n" for line in [" ".join(self.commits)]
                                       if line).encode())
        for patch in self.patches:
            total.update(patch.read_bytes())
        return total.hexdigest()[:8]

    @property
    def series_sha256(self) -> str:
        """Over the patches, in order; "" if the series is somebody's commits."""
        if len(self.commits) > 1:
            return ""
        return hashlib.sha256(b"".join(map(pathlib.Path.read_bytes, self.patches))).hexdigest()


@functools.cache
def of(config: Config) -> Source:
    """The commits are those of now: what is committed while this builds is for the next run."""
    commits = kernel_commits(config) if config.kernel else ()
    patched = config.patched and not config.range
    return Source(config.base_facts, config.series_name, config.kernel,
                  commits if config.patched else commits[:1],
                  tuple(config.base_facts.patches) if patched else ())


def kernel_commits(config: Config) -> tuple[str, ...]:
    """What cannot be resolved is left to kernel-patches/apply, which says what is wrong."""
    try:
        names = [name for name in config.range.split("..") if name] or ["HEAD"]
        return tuple(git(config.kernel, "rev-parse", *names).split())
    except (BadInput, OSError):
        return ()

# SPDX-License-Identifier: GPL-2.0
"""git, called in one place: no person's configuration, no repository that a hook is about."""
import functools
import pathlib
import subprocess

from ci import config as config_
from ci.facts.text import ROOT, BadInput

IDENTITY = {"NAME": "harness", "EMAIL": "harness@localhost"}
# The only setting: a repository may be another user's, as in a container.
SETTINGS = {"safe.directory": "*"}


def environment(**more: str) -> dict[str, str]:
    """For git, and for what calls it: kernel-patches/apply."""
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER")
           for key, value in IDENTITY.items()}
    settings = {f"GIT_CONFIG_{word}_{i}": text for i, pair in enumerate(SETTINGS.items())
                for word, text in zip(("KEY", "VALUE"), pair)}
    return config_.environment(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null",
                               GIT_CONFIG_COUNT=str(len(SETTINGS)), GIT_OPTIONAL_LOCKS="0",
                               LC_ALL="C.UTF-8", **{**settings, **who, **more})


def git(tree: pathlib.Path | str, *argv: str, input: str | None = None) -> str:
    """What it prints; BadInput if it fails."""
    done = subprocess.run(["git", "-C", str(tree), *argv], input=input, capture_output=True,
                          text=True, errors="replace", check=False, env=environment())
    if done.returncode:
        raise BadInput(f"git {argv[0]} in {tree}: {done.stderr.strip()}")
    return done.stdout.strip()


@functools.cache
def repository() -> str:
    """The revision of this repository, or "" if it is none."""
    try:
        return git(ROOT, "describe", "--always", "--dirty")
    except BadInput:
        return ""

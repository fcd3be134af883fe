# SPDX-License-Identifier: GPL-2.0
"""A series of patches, from wherever a revision of it is: a directory, git, a mailbox.

git reads the mail: author, subject and text are those that git am takes.
"""
import dataclasses
import functools
import hashlib
import pathlib
import re
import shutil
import subprocess
import tempfile

from ci.build import git as git_
from ci.build.files import sha256
from ci.build.git import git
from ci.facts.text import ROOT, BadInput

# As git format-patch names them, with -v or without
NAME = re.compile(r"(?:v(?P<version>\d+(?:\.\d+)*)-)?(?P<rest>(?P<number>\d{4})-.*\.patch)")
# [PATCH v2 1/3], [RFC][PATCH 1/3 RESEND], [PATCHv2], [EXTERNAL] [patch V2 01/15]
PREFIX = re.compile(r"^(?:\[[^\]]*\]\s*)+")
NUMBER = re.compile(r"(?<![\d.])(\d+)/\d+(?![\d.])")
VERSION = re.compile(r"(?:\b|patch)v(\d+)\b", re.IGNORECASE)
REPLY = re.compile(r"(?:re|aw|fwd?)\s*:", re.IGNORECASE)
MESSAGE_ID = re.compile(r"^Message-I[Dd]: (.*)\n\Z", re.MULTILINE)
DIFF = re.compile(rb"^(?:diff |\+\+\+ )", re.MULTILINE)


def ask_about(path: pathlib.Path, *argv: str) -> str:
    """What git says of a file, which is in any character set."""
    with open(path, "rb") as stream:
        done = subprocess.run(["git", *argv], stdin=stream, capture_output=True, text=True,
                              errors="replace", check=False, env=git_.environment())
    if done.returncode:
        raise BadInput(f"{path}: git {argv[0]}: {done.stderr.strip()}")
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Patch:
    number: int      # from 1, in the order in which they apply; 0 is the cover letter
    path: pathlib.Path
    title: str       # the subject, with the brackets before it
    author: str
    date: str
    message_id: str  # or "": git format-patch names none without --thread
    changelog: str
    diff: bytes      # with the text around it

    @property
    def prefix(self) -> str:
        return self.title.removesuffix(self.subject)

    @property
    def subject(self) -> str:
        return PREFIX.sub("", self.title, count=1)

    @property
    def text(self) -> str:
        return self.path.read_text(errors="replace")

    @property
    def files(self) -> list[str]:
        """What it changes, relative to the kernel's tree."""
        found = re.findall(rb"^\+\+\+ b/(\S+)", self.diff, re.MULTILINE)
        return list(dict.fromkeys(name.decode(errors="replace") for name in found))

    @functools.cached_property
    def ident(self) -> str:
        """git's stable patch-id, which survives a change of line numbers and of the changelog."""
        return ask_about(self.path, "patch-id", "--stable").partition(" ")[0]

    @property
    def plain(self) -> bytes:
        """The mail, without what it was wrapped in on its way."""
        heads = {"From": self.author, "Date": self.date, "Message-ID": self.message_id,
                 "Subject": self.title, "Content-Type": "text/plain; charset=UTF-8",
                 "Content-Transfer-Encoding": "8bit"}
        text = "".join(f"{name}: {value}\n" for name, value in heads.items() if value)
        rule = "" if not self.diff or self.diff.startswith(b"---\n") else "---\n"
        return (f"From {'0' * 40} Mon Sep 17 00:00:00 2001\n{text}\n{self.changelog}{rule}".encode()
                + self.diff)


@dataclasses.dataclass(frozen=True)
class Series:
    where: str       # as it was asked for
    directory: pathlib.Path
    patches: tuple[Patch, ...]
    cover: Patch | None = None

    @property
    def first(self) -> Patch:
        """What an answer to the series replies to."""
        return self.cover or self.patches[0]

    @property
    def patchset_hash(self) -> str:
        """KCIDB's: of the hashes of the patches, in order."""
        sums = "".join(f"{sha256(patch.path)}\n" for patch in self.patches)
        return hashlib.sha256(sums.encode()).hexdigest()

    @property
    def version(self) -> int:
        match = VERSION.search(self.first.prefix)
        return int(match[1]) if match else 1


def parse(path: pathlib.Path, number: int = 0) -> Patch:
    with tempfile.TemporaryDirectory() as name:
        message, diff = pathlib.Path(name, "message"), pathlib.Path(name, "diff")
        said = ask_about(path, "mailinfo", "-k", "-m", "--quoted-cr=strip", str(message), str(diff))
        info = dict(line.partition(": ")[::2] for line in said.splitlines())
        text, data = message.read_text(errors="replace"), diff.read_bytes()
    message_id = MESSAGE_ID.search(text)
    return Patch(number, path, " ".join(info.get("Subject", "").split()),
                 f"{info.get('Author', '')} <{info.get('Email', '')}>", info.get("Date", ""),
                 message_id[1].strip() if message_id else "", MESSAGE_ID.sub("", text), data)


def read(directory: pathlib.Path, where: str) -> Series:
    found = [parse(path, int(match["number"])) for path in sorted(directory.iterdir())
             if (match := NAME.fullmatch(path.name))]
    patches = tuple(patch for patch in found if patch.number)
    if not patches:
        raise BadInput(f"{where}: no patches there")
    for patch in found:
        if not patch.title:
            raise BadInput(f"{patch.path}: no Subject: line; git format-patch writes one")
        if patch.number and not patch.ident:
            raise BadInput(f"{patch.path}: no diff in it")
    return Series(where, directory, patches, next((p for p in found if not p.number), None))


def from_directory(source: pathlib.Path, place: pathlib.Path) -> None:
    """The newest version of those that are there, under the names that apply wants."""
    names = {path: NAME.fullmatch(path.name) for path in source.glob("*.patch")}
    versions = {path: [int(word) for word in (match["version"] or "1").split(".")]
                for path, match in names.items() if match}
    newest: list[int] = max(versions.values(), default=[])
    for path, match in names.items():
        if not match or versions[path] == newest:
            shutil.copy(path, place / (match["rest"] if match else path.name))


def from_git(where: str, base: str, place: pathlib.Path) -> None:
    """kernel-patches/BASE as a revision of this repository has it."""
    said = f"{where}: neither a directory, nor a mailbox, nor a revision of this repository"
    with tempfile.TemporaryDirectory() as name:
        try:
            git(ROOT, "rev-parse", "--verify", "--quiet", f"{where}^{{commit}}")
            said = f"{where} has no kernel-patches/{base}"
            git(ROOT, "archive", "-o", f"{name}/tar", f"{where}:kernel-patches/{base}")
        except BadInput:
            raise BadInput(said) from None
        shutil.unpack_archive(f"{name}/tar", f"{name}/series", "tar")
        from_directory(pathlib.Path(name, "series"), place)


def from_mailbox(source: pathlib.Path, place: pathlib.Path) -> None:
    """As git am takes them, but for replies, and for mail without a number and a diff."""
    titles: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as name:
        git(name, "mailsplit", "-b", f"-o{name}", str(source.resolve()))
        for patch in map(parse, sorted(pathlib.Path(name).iterdir())):
            match = NUMBER.search(patch.prefix)
            if REPLY.match(patch.title) or not (match or DIFF.search(patch.diff)):
                continue
            number = int(match[1]) if match else max(titles, default=0) + 1
            if number in titles:
                raise BadInput(f"{source}: two mails are patch {number}: {titles[number]} and "
                               f"{patch.title}")
            titles[number] = patch.title
            word = re.sub(r"[^A-Za-z0-9]+", "-", patch.subject)[:52].strip("-")
            (place / f"{number:04}-{word}.patch").write_bytes(patch.plain)


def load(where: str, base: str, place: pathlib.Path) -> Series:
    """The series, copied to a directory, with the file that names its base."""
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    source = pathlib.Path(where)
    if source.is_dir():
        from_directory(source, place)
    elif source.is_file():
        from_mailbox(source, place)
    else:
        from_git(where, base, place)
    shutil.copy(ROOT / "kernel-patches" / base / "base", place)
    return read(place, where)

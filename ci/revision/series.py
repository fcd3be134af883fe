# SPDX-License-Identifier: GPL-2.0
"""A series of patches, from wherever a revision of it is: a directory, git, a mailbox."""
import contextlib
import dataclasses
import email
import email.policy
import hashlib
import mailbox
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile

from ci.facts.arch import ROOT, BadInput
from ci.build.git import git

SUBJECT = re.compile(r"\[[^\]]*PATCH(?P<tag>[^\]]*?)(?:\s+(?P<number>\d+)/(?P<total>\d+))?\]\s*(?P<subject>.*)", re.DOTALL)
VERSION = re.compile(r"\bv(\d+)\b")


def header(text):
    return email.message_from_string(text, policy=email.policy.default)


@dataclasses.dataclass(frozen=True)
class Patch:
    number: int    # from 1, in the order in which they apply; 0 is the cover letter
    path: pathlib.Path

    @property
    def text(self):
        return self.path.read_text(errors="replace")

    @property
    def message(self):
        return header(self.text)

    @property
    def subject(self):
        match = SUBJECT.fullmatch(" ".join(self.message["subject"].split()))
        return match["subject"] if match else self.message["subject"]

    @property
    def message_id(self):
        """As its sender named it, or "": git format-patch names none without --thread."""
        return (self.message["message-id"] or "").strip()

    @property
    def files(self):
        """What it changes, relative to the kernel's tree."""
        return list(dict.fromkeys(re.findall(r"^\+\+\+ b/(\S+)", self.text, re.MULTILINE)))

    @property
    def ident(self):
        """git's own stable patch-id, which survives a change of line numbers and of the changelog."""
        done = subprocess.run(["git", "patch-id", "--stable"], input=self.text, text=True, capture_output=True, check=True)
        return done.stdout.partition(" ")[0]


@dataclasses.dataclass(frozen=True)
class Series:
    where: str       # as it was asked for
    directory: pathlib.Path
    patches: tuple
    cover: Patch = None

    @property
    def patchset_hash(self):
        """KCIDB's: of the hashes of the patches, in order."""
        sums = "".join(hashlib.sha256(patch.path.read_bytes()).hexdigest() + "\n" for patch in self.patches)
        return hashlib.sha256(sums.encode()).hexdigest()

    @property
    def version(self):
        match = VERSION.search(re.match(r"\[.*?\]|", self.cover.message["subject"])[0]) if self.cover else None
        return int(match[1]) if match else 1


NAME = re.compile(r"(?:v\d+-)?(\d{4})-.*\.patch")


def read(directory, where):
    found = [Patch(int(match[1]), path) for path in sorted(directory.iterdir()) if (match := NAME.fullmatch(path.name))]
    if not any(patch.number for patch in found):
        raise BadInput(f"{where}: no patches there")
    for patch in found:
        if not patch.message["subject"]:
            raise BadInput(f"{patch.path}: no Subject: line; git format-patch writes one")
        if patch.number and not patch.ident:
            raise BadInput(f"{patch.path}: no diff in it")
    cover = next((patch for patch in found if not patch.number), None)
    return Series(where, directory, tuple(patch for patch in found if patch.number), cover)


def from_git(where, base, place):
    """kernel-patches/BASE as a revision of this repository has it."""
    try:
        git(ROOT, "rev-parse", "--verify", "--quiet", f"{where}^{{commit}}")
    except BadInput:
        raise BadInput(f"{where}: neither a directory, nor a mailbox, nor a revision of this repository") from None
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        try:
            git(ROOT, "archive", "-o", archive.name, where, f"kernel-patches/{base}")
        except BadInput:
            raise BadInput(f"{where} has no kernel-patches/{base}") from None
        with tarfile.open(archive.name) as tar:
            for member in tar:
                if member.isfile():
                    (place / pathlib.PurePath(member.name).name).write_bytes(tar.extractfile(member).read())


def plain(message):
    """A mail as bytes, whatever it was wrapped in on its way."""
    if (message["content-transfer-encoding"] or "").lower() in ("base64", "quoted-printable") and not message.is_multipart():
        text = message.get_payload(decode=True)
        del message["content-transfer-encoding"]
        message["Content-Transfer-Encoding"] = "8bit"
        heads = "".join(f"{name}: {value}\n" for name, value in message.items())
        return b"From git@z Mon Sep 17 00:00:00 2001\n" + heads.encode() + b"\n" + text.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"
    return message.as_bytes(unixfrom=True).rstrip(b"\n") + b"\n"


def from_mailbox(path, place):
    """The patches of a mailbox, as git am takes them; replies are left out."""
    numbers = {}
    with contextlib.closing(mailbox.mbox(path, create=False)) as box:
        messages = list(box)
    for message in messages:
        subject = " ".join(str(message["subject"]).split())
        match = SUBJECT.fullmatch(subject)
        if not match:
            continue
        number = int(match["number"] or 1)
        if number in numbers:
            raise BadInput(f"{path}: two mails are patch {number}: {numbers[number]} and {subject}")
        numbers[number] = subject
        name = re.sub(r"[^A-Za-z0-9]+", "-", match["subject"])[:52].strip("-")
        (place / f"{number:04}-{name}.patch").write_bytes(plain(message))


def load(where, base, place):
    """The series at @where, of which a copy is made in @place, a directory, with what names its base."""
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    source = pathlib.Path(where)
    if source.is_dir():
        for path in source.glob("*.patch"):  # make series writes v2-0001-...: apply wants 0001-...
            shutil.copy(path, place / re.sub(r"^v\d+-(?=\d{4}-)", "", path.name))
    elif source.is_file():
        from_mailbox(source, place)
    else:
        from_git(where, base, place)
    shutil.copy(ROOT / "kernel-patches" / base / "base", place)
    return read(place, where)


MOVED = re.compile(r"\s*(?P<old>\d+|-):\s+\S+ (?P<mark>[=!<>]) \s*(?P<new>\d+|-):\s+\S+ (?P<subject>.*)")
WORDS = {"=": "same", "!": "changed", ">": "new", "<": "dropped"}


def moved(tree, old, new):
    """[(number in new or None, word, subject)], by git range-diff of two heads on one base."""
    said = git(tree, "range-diff", "--no-color", "--no-patch", f"origin/base..{old}", f"origin/base..{new}")
    rows = []
    for line in said.splitlines():
        match = MOVED.fullmatch(line)
        if not match:
            raise BadInput(f"not a line of git range-diff: {line}")
        rows.append((None if match["new"] == "-" else int(match["new"]), WORDS[match["mark"]], match["subject"]))
    return rows

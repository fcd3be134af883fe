# SPDX-License-Identifier: GPL-2.0
"""A judged revision, as people and their tools read it.

usage: report.py RUN    makes the files below anew from RUN/revision.json

	mail.txt      plain text, 72 columns, a reply to the cover letter; nobody sends it
	report.html   the same with the pictures, in one file without scripts
	kcidb.json    for KernelCI's database (format 5.0)
	b4.json       {patch-id: what b4 review's check commands answer}; ci/b4-check reads it
"""
import html
import json
import pathlib
import re
import sys
import textwrap

import jsonschema

from ci.revision import cost as perf
from ci.judge import results as run
from ci.facts.arch import ROOT, BadInput
from ci.judge.verdict import Verdict

WIDTH = 72
# "same": as after the patch before; "left": not looked at, for a reason that the limits say
GOOD = ("pass", "same", "known", "left")
MARKS = {"": " ", "same": "=", "changed": "!", "new": "+"}
# kcidb's states
KCIDB = {"pass": "PASS", "same": "PASS", "known": "PASS", "left": "SKIP", "skip": "FAIL", "fail": "FAIL", "timeout": "FAIL", "splat": "FAIL",
         "lost": "ERROR", "harness": "ERROR", "interrupted": "MISS"}


def weight(check):
    """What the kernel did comes before what could not be found out."""
    verdict = Verdict[check["status"].upper()]
    return (verdict != Verdict.HARNESS, verdict.weight)


def findings(found):
    """What is bad, the gravest first; of equals, the first patch."""
    bad = [c for c in found["checks"] if c["status"] not in GOOD]
    return sorted(bad, key=lambda c: (not weight(c)[0], -weight(c)[1], c["patch"] or 9999))


def place(check, found):
    count = len(found["patches"])
    where = f"patch {check['patch']}/{count}" if check["patch"] else "base" if check["tool"] == "base" else "series"
    return " ".join(filter(None, (where, check["arch"], check["tool"])))


def wrap(text, indent="", first=None):
    return textwrap.fill(text, WIDTH, initial_indent=indent if first is None else first, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)


# --- the parts of a mail ---

def headline(found):
    bad = findings(found)
    archs = " and ".join(found["archs"])
    judged = [p["number"] for p in found["patches"] if p["judged"]]
    rates = [row["verdict"] for of_arch in found.get("rates", {}).values() for row in of_arch.get("rows", [])]
    unclear = f"; {rates.count('inconclusive')} of {len(rates)} rates inconclusive" if "inconclusive" in rates else ""
    if not bad:
        which = f"{len(judged)} patches, each" if len(judged) == len(found["patches"]) else f"patch {', '.join(map(str, judged))} alone,"
        return f"verdict: pass, on {archs}: {which} built and booted{unclear}"
    patches = sorted({c["patch"] for c in bad if c["patch"]})
    where = f", in patch {', '.join(map(str, patches))}" if patches else ""
    return f"verdict: {bad[0]['status']}: {len(bad)} finding{'s' if len(bad) > 1 else ''}{where}{unclear}"


def finding_lines(found):
    for check in findings(found):
        yield wrap(f"{check['status'].upper()} {place(check, found)}: {check['summary'].splitlines()[0]}", "      ", "  ")


def since_lines(found):
    if not found["against"]:
        return
    changed = [p for p in found["patches"] if p["since"] in ("changed", "new")]
    yield wrap(f"Since {found['against']}: {len(changed)} of {len(found['patches'])} patches changed or new, {len(found['dropped'])} dropped")
    for patch in changed:
        yield wrap(f"{patch['number']:2} {MARKS[patch['since']]} {patch['subject']}", "       ", "  ")
    for subject in found["dropped"]:
        yield wrap(f"   - {subject}", "       ", "  ")
    for arch, rows in found.get("exact", {}).items():
        for row in moved_rows(rows):
            yield wrap(f"{arch} {row['mode']}: {number(row['against'])} -> {number(row['series'])} {perf.unit(row['metric'])} (exact count)",
                       "       ", "  ")


def moved_rows(rows):
    """Of the usual fault; the rest is in the table."""
    return [row for row in rows if row["metric"] == "median" and row.get("against") not in (None, row["series"])]


def cell(checks):
    if not checks:
        return "-"
    bad = [c for c in checks if c["status"] not in GOOD]
    if bad:
        return max(bad, key=weight)["status"]
    if checks[0]["tool"] == "boot":
        passed = [c["summary"].split()[0] for c in checks if c["status"] == "pass"]
        return passed[0] + "*" * (len(checks) > 1) if passed else "="
    return "ok*" if any(c["status"] in ("left", "known") for c in checks) else "ok"


def patch_row(patch, found):
    mine = [c for c in found["checks"] if c["patch"] == patch["number"]]
    row = [cell([c for c in mine if not c["arch"]])]
    for arch in found["archs"]:
        here = [c for c in mine if c["arch"] == arch]
        row += [cell([c for c in here if column_of(c) == column]) for column in COLUMNS]
    return row


COLUMNS = ("build", "boot", "cost")


def column_of(check):
    """Warnings belong to the build."""
    return check["tool"] if check["tool"] in COLUMNS else "build"


def patch_table(found):
    yield f"{'':33}{'':7}" + "".join(f"{arch:<17}" for arch in found["archs"]).rstrip()
    yield f"{'patch':33}{'checks':7}" + ("build boot cost  " * len(found["archs"])).rstrip()
    for patch in found["patches"]:
        if patch["judged"]:
            checks, *rest = patch_row(patch, found)
            name = patch["subject"] if len(patch["subject"]) <= 27 else patch["subject"][:25].rstrip() + ".."
            cells = "".join(f"{text:6}" if n % 3 == 0 else f"{text:5}" if n % 3 == 1 else f"{text:6}" for n, text in enumerate(rest))
            yield f"{patch['number']:2} {MARKS[patch['since']]} {name:28} {checks:6} {cells}".rstrip()
    yield wrap("boot: cases that pass; =: the same kernel and tests as before, not booted again. *: something was left out, see the limits."
               + " Before the name, since the earlier revision: ! changed, + new." * bool(found["against"]))


def matrix_lines(found):
    for row in found.get("matrix", []):
        name = "-".join(filter(None, (row["arch"], row["mode"], row["config"])))
        if row["status"] == "left":
            yield wrap(f"{name:14} not booted: {row['summary']}", " " * 17, "  ")
            continue
        counts = f"{row.get('pass', 0)} pass, {row.get('failed', 0)} fail, {row.get('known', 0)} known" if "pass" in row else row["summary"]
        words = [f"{word} ({kind})" for kind in ("base", "against") for word in row.get(kind, [])]
        yield wrap(f"{name:14} {row['status']}: {counts}{'; ' + ', '.join(words) if words else ''}", " " * 17, "  ")


def exact_table(found):
    for arch, rows in found.get("exact", {}).items():
        yield wrap(f"{arch}: of single faults, exact count under QEMU icount: instructions, the median, and what 90 and 99 in 100 "
                   "do not exceed; exits of KVM_RUN")
        yield f"{'':39}{'base':>9}{'earlier':>9}{'now':>9}"
        for row in (r for r in rows if r["exact"]):
            values = "".join(f"{number(row.get(kind)):>9}" for kind in ("base", "against", "series"))
            yield f"  {row['mode']:24} {row['metric']:12}{values}"
        rest = [f"{row['mode']} {row['metric']} by {number(row['spread'])}" for row in rows if not row["exact"]]
        yield wrap(f"A/A control, two boots of each image with other random numbers: spread 0 in {len(rows) - len(rest)} of {len(rows)} rows"
                   + f"; not judged, as they differ: {', '.join(rest)}" * bool(rest), "  ", "  ")
        yield ""


def number(value):
    return "-" if value is None else perf.text_of(value)


def rate_table(found):
    for arch, rates in found.get("rates", {}).items():
        if "why" in rates:
            yield wrap(f"{arch}: rates were not compared: {rates['why']}")
            continue
        rows = rates["rows"]
        yield from given_up_lines(arch, rates)
        if not perf.usable(rows):
            yield f"{arch}: rates: not usable"
            continue
        yield f"{arch}: rates in the lockstep model, {rows[0]['blocks']} ABBA blocks, against the earlier revision"
        yield wrap("in brackets: a 95 % interval of that rate alone, which like the change that would have been seen takes blocks to be "
                   "normal; p takes nothing for granted", "  ", "  ")
        others = [name for name in rates["measured_by"] if name != found["repository"]]
        if others:
            yield wrap(f"measured by {', '.join(others)} of this repository, judged by {found['repository']}", "  ", "  ")
        for row in rows:
            yield wrap(f"{row['name']}: {row['change']:+.2f} % [{row['low']:+.2f}, {row['high']:+.2f}], p = {row['p']:.3f} (Holm), {row['verdict']}; "
                       f"A/A control p = {row['control_p']:.2f}; with 90 % power {row['smallest']:.1f} % would have been seen; threshold {row['least']:g} %",
                       "      ", "  ")


def given_up_lines(arch, rates):
    """No measurement goes unmentioned."""
    for number, rows in enumerate(rates["given_up"], 1):
        yield wrap(f"{arch}: rates: measurement {number} was given up, as the earlier revision differs from itself (A/A control, "
                   f"p = {perf.control_p(rows):.3f}); what follows is measurement {number + 1}", "  ")


def repeat_lines(found):
    seen = set()
    for check in findings(found):
        if check["repeat"] and check["repeat"] not in seen:
            seen.add(check["repeat"])
            yield f"  {check['repeat']}"
        if check["log"]:
            yield f"      {check['log']}"
            yield from (f"      | {text[:WIDTH - 8]}" for text in run.excerpt(check["log"]))
    if not seen:
        yield f"  {found['command']}"


def limit_lines(found):
    for check in (c for c in found["checks"] if c["status"] in ("left", "known")):
        yield wrap(f"{place(check, found)}: {'expected: ' * (check['status'] == 'known')}{check['summary']}", "    ", "  - ")
    left = [str(p["number"]) for p in found["patches"] if not p["judged"]]
    if left:
        yield wrap(f"Not judged: patches {', '.join(left)}" + ", the modes and the cost of the whole." * ("matrix" not in found), "    ", "  - ")
    yield wrap("After each patch the first mode of each architecture is booted, with the cases of this repository and upstream's tests as that "
               f"patch has them, but for {found['at_the_end']}" + (", which run at the end, as all modes do." if "matrix" in found else "."),
               "    ", "  - ")
    yield wrap("Everything ran under QEMU's TCG." + " Counts are of instructions, rates of the lockstep model (serialisation only); neither is a "
               "time." * ("exact" in found), "    ", "  - ")


def identity_lines(found):
    yield f"base: {found['base']['package']} {found['base']['tested']}"
    for arch in found["archs"]:
        if arch in found.get("compilers", {}):
            yield wrap(f"{arch}: {found['compilers'][arch]}, {found['qemu'][arch]}", "    ", "")
    yield f"harness: {found['repository']}, {found['time']}"


def body(found):
    """The text of the mail."""
    parts = [[headline(found), *finding_lines(found)], list(since_lines(found)), list(patch_table(found)),
             ["All cases, of the whole series:", *matrix_lines(found)] if found.get("matrix") else [],
             list(exact_table(found))[:-1], list(rate_table(found)),
             ["To repeat:" if not findings(found) else "To repeat each finding, and its log:", *repeat_lines(found)],
             ["Limits:", *limit_lines(found)],
             list(identity_lines(found))]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def mail(found):
    heads = [f"Subject: {'Re: ' * bool(found['cover_message_id'])}{' '.join(found['subject'].split())}"]
    if found["cover_message_id"]:
        heads += [f"In-Reply-To: {found['cover_message_id']}", f"References: {found['cover_message_id']}"]
    return "\n".join([*heads, "MIME-Version: 1.0", "Content-Type: text/plain; charset=UTF-8", "", body(found)])


# --- other readers ---

def svg_of(name):
    """One of the committed pictures, to stand in a page."""
    path = ROOT / "results" / name
    return re.sub(r"^<\?xml.*?\?>|<!DOCTYPE.*?>", "", path.read_text(), flags=re.DOTALL).strip() if path.exists() else ""


STYLE = """body{font:15px/1.45 sans-serif;max-width:66em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;text-align:left;border-bottom:1px solid #ddd}
.fail,.splat,.lost,.timeout,.harness{background:#f8d4d4}.pass,.ok{color:#186a2b}.note{color:#666}
code{background:#f2f2f2;padding:.1em .3em}svg{max-width:100%;height:auto}h1{font-size:1.3em}h2{font-size:1.1em}"""


def tag(name, text, css=""):
    return f"<{name}{f' class={css!r}' if css else ''}>{text}</{name}>"


def table_html(head, rows):
    lines = [tag("tr", "".join(tag("th", html.escape(cell)) for cell in head))]
    for row in rows:
        lines.append(tag("tr", "".join(tag("td", html.escape(str(cell)), re.sub(r"[^a-z]", "", str(cell))) for cell in row)))
    return tag("table", "\n".join(lines))


def page(found, pictures):
    bad = findings(found)
    parts = [tag("h1", html.escape(" ".join(found["subject"].split()))), tag("p", tag("b", html.escape(headline(found))))]
    if bad:
        parts.append(table_html(("verdict", "where", "what", "to repeat"),
                                [(c["status"], place(c, found), c["summary"], c["repeat"]) for c in bad]))
    since = list(since_lines(found))
    if since:
        parts += [tag("h2", "What moved"), tag("pre", html.escape("\n".join(since)))]
    head = ["", "", "patch", "checks", *(f"{arch} {what}" for arch in found["archs"] for what in COLUMNS)]
    parts += [tag("h2", "Each patch"), table_html(head, [(p["number"], MARKS[p["since"]], p["subject"], *patch_row(p, found))
                                                         for p in found["patches"] if p["judged"]])]
    rest = body(found).split("\n\n", 1)[1]
    parts += [tag("h2", "All of it, as in the mail"), tag("pre", html.escape(rest))]
    for title, svg in pictures.items():
        if svg:
            parts += [tag("h2", html.escape(title)), svg]
    return (f"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{html.escape(found['verdict'])}: "
            f"{html.escape(' '.join(found['subject'].split()))}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n")


def kcidb(found):
    """KernelCI's format, 5.0: a checkout, a build for each architecture, a test for each check."""
    origin = "kvm_fast_only"
    message_id = re.search(r"[^<>\s]+@[^<>\s]+", found["cover_message_id"])
    checkout = f"{origin}:{found['run']}"
    builds = [{"id": f"{checkout}-{arch}", "checkout_id": checkout, "origin": origin, "architecture": arch,
               "compiler": found.get("compilers", {}).get(arch, ""), "status": "PASS" if not any(
                   c["tool"] == "build" and c["status"] not in GOOD for c in found["checks"] if c["arch"] == arch) else "FAIL"}
              for arch in found["archs"] if any(c["arch"] == arch and c["tool"] in ("build", "base") for c in found["checks"])]
    built = {build["architecture"] for build in builds}
    tests = [{"id": f"{checkout}-{n}", "build_id": f"{checkout}-{check['arch']}", "origin": origin, "status": KCIDB[check["status"]],
              "path": ".".join(["kvm_fast_only", f"patch{check['patch']:02}" if check["patch"] else "series",
                                re.sub(r"[^a-z0-9]+", "_", check["tool"].lower()).strip("_")]),
              "comment": check["summary"][:200]} for n, check in enumerate(found["checks"]) if check["arch"] in built]
    return {"version": {"major": 5, "minor": 0}, "checkouts": [{
        "id": checkout, "origin": origin, "start_time": found["time"],
        "valid": not any(c["tool"] == "apply" and c["status"] not in GOOD for c in found["checks"]),
        "comment": " ".join(found["subject"].split()), "message_id": message_id[0] if message_id else None,
        "patchset_hash": found["patchset_hash"]}], "builds": builds, "tests": tests}


def without_none(value):
    if isinstance(value, dict):
        return {key: without_none(v) for key, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def b4(found):
    """{patch-id: [what b4's check command answers]}; the series as a whole is under ""."""
    answers = {}
    for patch in [{"patch_id": "", "number": 0}, *found["patches"]]:
        mine = [c for c in found["checks"] if c["patch"] == patch["number"]]
        groups = {}
        for check in mine:
            groups.setdefault("-".join(filter(None, (check["tool"].replace(" ", "-"), check["arch"]))), []).append(check)
        answers[patch["patch_id"]] = [{"tool": f"kvm-fast-only:{name}", "status": b4_status(checks), "summary": summary(checks),
                                       "details": "\n".join(c["summary"] for c in checks if c["summary"])} for name, checks in groups.items()]
    return answers


def b4_status(checks):
    if any(c["status"] not in GOOD for c in checks):
        return "fail"
    return "warn" if any(c["status"] in ("left", "known") for c in checks) else "pass"


def summary(checks):
    bad = [c for c in checks if c["status"] not in GOOD]
    chosen = max(bad, key=weight) if bad else checks[0]
    return chosen["summary"].splitlines()[0] if chosen["summary"] else chosen["status"]


# --- files ---

def validate(found, name="revision"):
    """Refuse what ci/NAME.schema.json does not allow."""
    try:
        jsonschema.validate(found, json.loads((ROOT / "ci" / f"{name}.schema.json").read_text()))
    except jsonschema.ValidationError as error:
        raise BadInput(f"{name}.json: {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}") from None


def check_width(text):
    """A line of the mail that is too long for one; commands and paths are not broken."""
    for line in text.splitlines():
        if len(line) > WIDTH and not line.startswith(("  make ", "      /", "Subject:", "References:", "In-Reply-To:")) and " " in line.strip():
            yield line


def faces(directory, found):
    text = mail(found)
    (directory / "mail.txt").write_text(text)
    pictures = {"From the repository's results/, not of this run: instructions of a fault (make bench)": svg_of("stages.svg"),
                "Likewise: scaling in the lockstep model (make scale FULL=1)": svg_of("scaling.svg")}
    (directory / "report.html").write_text(page(found, pictures))
    for_kcidb = without_none(kcidb(found))
    validate(for_kcidb, "kcidb")
    (directory / "kcidb.json").write_text(json.dumps(for_kcidb, indent=1) + "\n")
    (directory / "b4.json").write_text(json.dumps(b4(found), indent=1) + "\n")
    return text


def write(directory, found):
    """Write all files; say the mail's first part; returns the exit status."""
    validate(found)
    new = directory / "revision.json.new"
    new.write_text(json.dumps(found, indent=1) + "\n")
    new.replace(directory / "revision.json")
    faces(directory, found)
    print("\n" + body(found))
    print(f"{directory}/mail.txt, report.html, kcidb.json, b4.json")
    count = {word: sum(c["status"] in statuses for c in found["checks"])
             for word, statuses in {"passed": ("pass", "same"), "skipped": ("left", "known")}.items()}
    print(f"{count['passed']} passed, {len(findings(found))} failed, {count['skipped']} skipped")
    return max(int(Verdict[found["verdict"].upper()]), 0)


def main(argv):
    directory = pathlib.Path(argv[0])
    found = json.loads((directory / "revision.json").read_text())
    validate(found)
    print(faces(directory, found))
    return 0


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))

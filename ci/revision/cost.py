# SPDX-License-Identifier: GPL-2.0
"""What a revision costs, against the base and against the revision before it.

Exact metrics come from two boots of each image, with other random numbers (A against A); one
that does not repeat to the last instruction is a finding about the method, and says nothing
of the series.  Rates come from boots in ABBA blocks
(ci/revision/stats.py).  ci/metrics declares both, ci/accepted has changes that are meant.
"""
import dataclasses
import re
import statistics

from ci.measure import faults as bench
from ci.facts import cases
from ci.measure import scaling as scale
from ci.revision import stats
from ci.measure import timeline
from ci.facts.arch import ROOT, BadInput

# Of a boot that is compared with another: both timed parts are measured alike
QUANTA = (scale.QUANTA[0],) * len(scale.QUANTA)
# How often rates are measured if A does not agree with A
ATTEMPTS = 2
# Of single faults, in instructions.  About one in 31 is dear, by a refill, and has its own: a
# change of fewer than one in a hundred is not seen.
QUANTILES = {"median": 0.5, "q90": 0.9, "q99": 0.99}
METRIC = re.compile(r"(?:exact\s+(?P<mode>\w+)|rate\s+(?P<rate>\w+)\s+(?P<vcpus>[1-9]\d*)\s+(?P<least>\d*\.?\d*[1-9]\d*))")
ACCEPTED = re.compile(rf"(\w+)\s+(\w+)\s+({'|'.join(QUANTILES)}|exits)\s+(\S+)\s+(\S+)\s+\|\s+(\S.*)")


@dataclasses.dataclass(frozen=True)
class Rate:
    mode: str
    vcpus: int
    least: float   # per cent


def lines_of(path, pattern, what):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = pattern.fullmatch(line.strip())
            if not match:
                raise BadInput(f"{path}:{number}: want {what}; got: {line}")
            yield match


def load_metrics(path=ROOT / "ci" / "metrics"):
    """([mode], [Rate])"""
    exact, rates = [], []
    for match in lines_of(path, METRIC, "\"exact MODE\" or \"rate MODE vCPUs per-cent\""):
        if match["mode"]:
            exact.append(match["mode"])
        else:
            rates.append(Rate(match["rate"], int(match["vcpus"]), float(match["least"])))
    return exact, rates


def load_accepted(path=ROOT / "ci" / "accepted"):
    """{(architecture, mode, metric, before, after): reason}"""
    return {match.groups()[:5]: match[6] for match in
            lines_of(path, ACCEPTED, "architecture, mode, metric, before, after | reason")}


class NotMeasured(BadInput):
    """A boot with other findings than figures; what the kernel does wrong while it is measured is its verdict."""

    def __init__(self, boot, otherwise):
        super().__init__(f"{boot.directory}: {boot.findings[0].text if boot.findings else otherwise}")
        self.status = boot.findings[0].verdict.name.lower() if boot.findings else "harness"


# --- exact ---

WORDS = {"against": "the revision before", "base": "the base"}


def values_of(boot):
    """{(mode, metric): value} of a boot of make bench."""
    rows = bench.measure(boot)
    timelines = bench.read_timelines(boot)
    if boot.findings:
        raise NotMeasured(boot, "")
    modes, found = bench.read_numbers(boot.directory / "bench.jsonl"), {}
    for row in rows:
        last = modes[row.mode][1][-1]
        found[row.mode, "exits"] = last["exits"] / last["pages"]
        if row.mode not in timelines:
            raise BadInput(f"{boot.directory}: {row.mode} has no timeline")
        totals = [fault.total for fault in timelines[row.mode].faults]
        for name, share in QUANTILES.items():
            found[row.mode, name] = timeline.quantile(totals, share)
    return found


def exact_rows(measured):
    """One dict a metric; measured: {"series": (values, values again), "base": ..., "against": ...}."""
    rows = []
    for key in measured["series"][0]:
        values = {name: [found.get(key) for found in pair] for name, pair in measured.items()}
        spread = max((abs(first - again) for first, again in values.values() if None not in (first, again)), default=0)
        rows.append({"mode": key[0], "metric": key[1], "spread": spread,
                     "exact": all(first == again for first, again in values.values()),
                     **{name: first for name, (first, _) in values.items() if first is not None}})
    return rows


def text_of(value):
    """In full: what differs has to look different."""
    return f"{value:.12g}"


def unit(metric):
    return f"instructions of a fault, {metric}" if metric in QUANTILES else f"{metric} of a fault"


def exact_changes(arch, rows, accepted, other="against"):
    """[(status, text)] of primary rows that differ from the @other's, the largest first."""
    found = []
    for row in rows:
        before, now = row.get(other), row["series"]
        if not row["exact"] or before is None or before == now:
            continue
        share = (now - before) / before if before else 1.0
        reason = accepted.get((arch, row["mode"], row["metric"], text_of(before), text_of(now)))
        word = "more" if now > before else "fewer"
        text = (f"{row['mode']}: {text_of(before)} -> {text_of(now)} {unit(row['metric'])}, exact count ({100 * share:+.2f} %), {word} than in "
                f"{WORDS[other]}")
        found.append((abs(share), "known" if reason else "fail" if now > before else "pass",
                      text + (f"; accepted: {reason}" if reason else "")))
    return [(status, text) for _, status, text in sorted(found, reverse=True)]


def as_one(changes):
    """What costs more as one finding, which names the largest; the rest as it is."""
    grown = [text for status, text in changes if status == "fail"]
    others = f"; {len(grown) - 1} more in the table" if len(grown) > 1 else ""
    return [("fail", text + others) for text in grown[:1]] + [change for change in changes if change[0] != "fail"]


# --- rates ---

def rate_of(boot, rate):
    """Of all timed parts together."""
    rates = [p.rate for p in scale.points_of(boot) if p.mode == rate.mode]
    if boot.findings or len(rates) != len(QUANTA):
        raise NotMeasured(boot, f"{len(rates)} rates of {rate.mode}")
    return statistics.harmonic_mean(rates)


def blocks_of(boot_of, rates, images, once):
    """{Rate: [(a, b, b, a)]}.

    boot_of(image, vCPUs, modes, number): a boot of make scale.  once(vCPUs, modes, number,
    function): a block, which is measured at one time or not at all.
    """
    found = {rate: [] for rate in rates}

    def measure(vcpus, modes, number):
        mine = [rate for rate in rates if rate.vcpus == vcpus]

        def block():
            boots = [boot_of(images[letter], vcpus, modes, number) for letter in stats.ORDER]
            return {rate.mode: [rate_of(boot, rate) for boot in boots] for rate in mine}
        values = once(vcpus, modes, number, block)
        for rate in mine:
            found[rate].append(tuple(values[rate.mode]))
    each_block(rates, measure)
    return found


def each_block(rates, function):
    """function(vCPUs, modes, number) for each block: all rates with so many vCPUs are of the same boots."""
    for number in range(1, stats.BLOCKS + 1):
        for vcpus in sorted({rate.vcpus for rate in rates}):
            function(vcpus, sorted({rate.mode for rate in rates if rate.vcpus == vcpus}), number)


def rate_rows(found):
    """One dict a rate; of each no more than its control, if A does not agree with A in one of them."""
    names = {f"{rate.mode}, {rate.vcpus} vCPUs": rate for rate in found}
    outcomes = stats.compare({name: found[rate] for name, rate in names.items()}, {name: rate.least for name, rate in names.items()})
    if all(o.usable for o in outcomes):
        return [{**dataclasses.asdict(o), "verdict": o.verdict} for o in outcomes]
    return [{"name": o.name, "blocks": o.blocks, "control_p": o.control_p, "verdict": "not usable"} for o in outcomes]


def usable(rows):
    return all(row["verdict"] != "not usable" for row in rows)


def rate_changes(rows, given_up=()):
    """[(status, text)]; given_up: rows of measurements before this one, whose control flagged."""
    if not usable(rows):
        more = "make revision measures them again" if len(given_up) + 1 < ATTEMPTS else f"{ATTEMPTS} times in a row: find out why"
        return [("harness", f"rates are not usable: the earlier revision differs from itself (A/A control, p = {control_p(rows):.3f}); {more}")]
    return [({"slower": "fail", "inconclusive": "left"}.get(row["verdict"], "pass"),
             f"{row['name']}, rate in the lockstep model: {row['change']:+.2f} % [{row['low']:+.2f}, {row['high']:+.2f}], "
             f"p = {row['p']:.3f}: {row['verdict']}") for row in rows]


def control_p(rows):
    return min(row["control_p"] for row in rows)


# --- what is declared ---

def check_declared(exact, rates):
    if not stats.check_number(len(rates)):
        raise BadInput(f"ci/metrics: {len(rates)} rates, of which {stats.BLOCKS} blocks can find none to differ: declare fewer")
    if not exact or len({(rate.mode, rate.vcpus) for rate in rates}) < len(rates):
        raise BadInput("ci/metrics: want at least one \"exact\" line, and each rate once")
    for kind, names in (("bench", exact), ("scale", [rate.mode for rate in rates])):
        unknown = set(names) - {case.name for case in cases.load(cases.default_path(kind))}
        if unknown:
            raise BadInput(f"ci/metrics: no such mode in {cases.default_path(kind)}: {' '.join(sorted(unknown))}")

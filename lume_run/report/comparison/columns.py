"""The columns of a comparison: scores, what is derived from them, and costs; which way each should go."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lume_run.common.devices import GIB
from lume_run.evaluation.definitions import Wanted
from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.report.comparison.run_folders import RunRecord
from lume_run.report.results import direction_of

FORGOTTEN, KEPT, BALANCE, AGGREGATE = "forgotten", "kept", "balance", "task_aggregate"
RECOVERED = "recovered"
SECONDS, STEP, PEAK = "cost.seconds", "cost.seconds_per_step", "cost.peak_gib"
EXTRA_COLUMNS = {  # columns that no suite scores: what they are
    BALANCE: "harmonic mean of forgotten and kept",
    FORGOTTEN: "1 - mean of what is still known of the forget set",
    KEPT: "harmonic mean of what is still known of the retain set",
    RECOVERED: "largest share that an attack brought back of what `forgotten` is made from",
    SECONDS: "seconds that unlearning took, from the target to the unlearned model",
    STEP: "seconds an optimizer step of unlearning took, the median",
    PEAK: "peak memory of unlearning [GiB]",
}
PREFERRED = (  # columns shown first, where there are values
    *(AGGREGATE, BALANCE, FORGOTTEN, KEPT, RECOVERED, "aggregate", "mia.auc", "mmlu.accuracy"),
    *("closer_look.forget_efficacy", "closer_look.model_utility", "tofu.forget_quality", "tofu.model_utility"),
    *("muse.forget.verbatim", "muse.forget.knowledge", "muse.retain.knowledge", "muse.privacy_leakage"),
    *("rwku.forget.all", "rwku.forget.fb", "rwku.forget.qa", "rwku.forget.aa", "rwku.neighbor.all"),
    *("pii.forget.greedy.exact", SECONDS, STEP, PEAK),
)


RECOVERED_SHARE = re.compile(r"attack\.([^.]+)\.(.+)\.recovered")  # a score of a run: attack, and the score it is of
LOWER_EXTRAS = re.compile(rf"cost\..+|{RECOVERED}(\..+)?")  # extra columns of which less is better


class Basis(NamedTuple):
    """The scores that `forgotten` and `kept` are computed from: what is still known of either set."""

    name: str
    forget: tuple[str, ...]
    retain: tuple[str, ...]


def _paired_basis(name: str, pattern: str, *kinds: str) -> Basis:
    forget, retain = (tuple(pattern.format(side=side, kind=kind) for kind in kinds) for side in ("forget", "retain"))
    return Basis(name, forget, retain)


BASES = (
    _paired_basis("LUME", "{side}.{kind}", "regurgitation", "knowledge"),
    _paired_basis("A Closer Look", "closer_look.{side}.{kind}", "rouge", "probability"),
    _paired_basis("TOFU", "tofu.{side}.{kind}", "rouge", "probability"),
    Basis("MUSE", ("muse.forget.verbatim", "muse.forget.knowledge"), ("muse.retain.knowledge",)),
    Basis("RWKU", ("rwku.forget.all",), ("rwku.neighbor.all",)),
    _paired_basis("memorisation", "{side}.{kind}", "probability", "exact_memorisation"),
)


def describe_extra_column(name: str) -> str:
    """What a column is that no suite scores; empty for scores."""
    extra, _, attack = name.partition(".")
    if extra == RECOVERED and attack:
        return f"largest share that {attack} brought back of what `forgotten` is made from"
    return EXTRA_COLUMNS.get(name, "")


def column_direction(name: str) -> Wanted:
    """Which way a column should go."""
    if describe_extra_column(name):
        return Wanted.LOWER if LOWER_EXTRAS.fullmatch(name) else Wanted.HIGHER
    return direction_of(name)


def badness(name: str, value: float) -> float:
    """Smaller is better; 0 for every value of a column without a direction."""
    direction = column_direction(name)
    ideal = {Wanted.HALF: 0.5, Wanted.ZERO: 0.0}.get(direction)
    if ideal is not None:
        return abs(value - ideal)
    return {Wanted.LOWER: value, Wanted.HIGHER: -value}.get(direction, 0.0)


def best_positions(name: str, values: Sequence[float | None]) -> tuple[int, ...]:
    """Positions of the best values; none where a column has no direction, or all values are equal."""
    known = {place: round(badness(name, value), 9) for place, value in enumerate(values) if value is not None}
    if column_direction(name) is Wanted.NONE or len(set(known.values())) < 2:
        return ()
    return tuple(place for place, value in known.items() if value == min(known.values()))


def choose_basis(runs: Iterable[RunRecord]) -> Basis | None:
    """The first of `BASES` that most runs have, so that all of a section are measured alike."""
    counts = [sum(bool(derive_scores(run.scores.get(run.subject, {}), basis)) for run in runs) for basis in BASES]
    return BASES[counts.index(max(counts))] if any(counts) else None


def derive_scores(scores: Mapping[str, float], basis: Basis | None) -> dict[str, float]:
    """`forgotten`, `kept` and `balance`, where the scores they need are there."""
    if basis is None:
        return {}
    forget = [scores[name] for name in basis.forget if name in scores]
    retain = [scores[name] for name in basis.retain if name in scores]
    if not forget or not retain:
        return {}
    forgotten = 1 - statistics.fmean(forget)
    kept = harmonic_mean([max(0.0, value) for value in retain])
    return {FORGOTTEN: forgotten, KEPT: kept, BALANCE: harmonic_mean([max(0.0, forgotten), kept])}


def recovered_shares(scores: Mapping[str, float], basis: Basis | None) -> dict[str, float]:
    """`recovered` over all attacks and `recovered.<attack>`: the largest shares of the scores that `forgotten` is made
    from, or of all scores where an attack is judged by none of them."""
    by_attack: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        if match := RECOVERED_SHARE.fullmatch(name):
            by_attack.setdefault(match[1], {})[match[2]] = value
    shares = {}
    for attack, of_scores in by_attack.items():
        of_basis = [of_scores[name] for name in (basis.forget if basis else ()) if name in of_scores]
        shares[f"{RECOVERED}.{attack}"] = max(of_basis or of_scores.values())
    return {RECOVERED: max(shares.values()), **shares} if shares else {}


def subject_scores(run: RunRecord, subject: str, basis: Basis | None) -> dict[str, float]:
    """The scores of one model of a run, derived ones among them."""
    scores = run.scores.get(subject, {})
    return {**derive_scores(scores, basis), **recovered_shares(scores, basis), **scores}


def costs_of(run: RunRecord) -> dict[str, float]:
    """What unlearning took, as far as the run says."""
    outcomes = [outcome for name, outcome in run.training.items() if name == "unlearned" or name.startswith("adapter")]
    steps = [outcome.get("seconds_per_step") for outcome in outcomes]
    peaks = [outcome.get("peak_memory_bytes") for outcome in outcomes]
    costs = {
        SECONDS: run.seconds.get("unlearn"),
        STEP: max((step for step in steps if isinstance(step, float)), default=None),
        PEAK: max((peak / GIB for peak in peaks if isinstance(peak, int)), default=None),
    }
    return {name: value for name, value in costs.items() if value}

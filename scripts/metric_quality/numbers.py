"""What the metrics study computes of a score: faithfulness, robustness under relearning (R) and quantisation (Q).

As in open-unlearning's study (arXiv:2506.12618): faithfulness is the ROC area of the score, turned so that more of it
is more knowledge, between models trained with and without the forget set; R and Q are means over unlearned models, and
robustness and quality harmonic means of R and Q, and of faithfulness and robustness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lume_run.attacks.results import AttackResults
from lume_run.attacks.scores import KNOWS_MORE, is_about_forgetting
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import Wanted
from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.evaluation.metrics.membership import auc, auc_interval

AGGREGATES = ("open_unlearning.memorisation", "closer_look.forget_efficacy", "tofu.forget_quality")
LEAST_KEPT = 0.8  # of the target's utility: models that keep less are left out of R and Q, as published


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval (None: one model, or none that tells) and how many models are behind it."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What one unlearned model showed of a score: how much it knew by that score, R and Q where they have a number.

    `known` is turned so that more of it is more knowledge.
    """

    known: float
    relearning: float | None
    quantisation: float | None


def sign_of(name: str) -> int | None:
    """1 for a score of which more is more knowledge of the forget set, -1 for one of which less is; None for others."""
    definition = definition_of(name)
    if name in AGGREGATES or name == "uds":
        return -1
    if definition is None or not is_about_forgetting(definition):
        return None
    return KNOWS_MORE[definition.wanted]


def faithfulness(name: str, knowing: Sequence[float], ignorant: Sequence[float]) -> Estimate:
    """The ROC area of a score between both halves of the pool, with the interval that the project's AUCs have."""
    sign = sign_of(name) or 1
    area = auc([sign * value for value in knowing], [sign * value for value in ignorant])
    ends = auc_interval(area, len(knowing), len(ignorant))
    return Estimate(value=area, low=ends.low, high=ends.high, n=len(knowing) + len(ignorant))


def threshold(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """The value that best tells both halves apart (by the mean of both rates); from it on a model counts as knowing."""

    def balance(cut: float) -> float:
        return sum(value >= cut for value in knowing) / len(knowing) - sum(value >= cut for value in ignorant) / len(
            ignorant
        )

    return max(sorted({*knowing, *ignorant}, reverse=True), key=balance)


def mean_estimate(values: Sequence[float]) -> Estimate | None:
    """The mean over models with Student's interval, within 0 to 1; None without a model."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(value=values[0], low=None, high=None, n=1)
    from scipy.special import stdtrit

    reach = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / len(values) ** 0.5
    mean = fmean(values)
    return Estimate(value=mean, low=max(0.0, mean - reach), high=min(1.0, mean + reach), n=len(values))


def robustness_of(results: AttackResults) -> dict[str, Robustness]:
    """By score what the attacks of one run showed; scores without a value before the attack are left out."""
    values: dict[str, dict[str, float | None]] = {}
    for row in results.rows:
        sign = sign_of(row.score)
        if sign is None or row.before is None or row.before.value is None:
            continue
        entry = values.setdefault(row.score, {"known": sign * row.before.value})
        for key, score in (("relearning", row.relearning), ("quantisation", row.quantisation)):
            if score is not None:
                entry[key] = score.value
    return {
        name: Robustness(
            known=float(entry["known"] or 0.0),
            relearning=entry.get("relearning"),
            quantisation=entry.get("quantisation"),
        )
        for name, entry in values.items()
    }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the study says of one score; `kept` of the unlearned models were used for R and Q."""

    faithfulness: Estimate
    relearning: Estimate | None
    quantisation: Estimate | None
    robustness: float | None
    quality: float | None


def finding(name: str, knowing: Sequence[float], ignorant: Sequence[float], models: Sequence[Robustness]) -> Finding:
    """All of one score. Unlearned models that still know the forget set by this score itself are left out."""
    sign = sign_of(name) or 1
    cut = threshold([sign * value for value in knowing], [sign * value for value in ignorant])
    forgotten = [model for model in models if model.known < cut]
    relearning = mean_estimate([model.relearning for model in forgotten if model.relearning is not None])
    quantisation = mean_estimate([model.quantisation for model in forgotten if model.quantisation is not None])
    faithful = faithfulness(name, knowing, ignorant)
    robust = harmonic_mean([relearning.value, quantisation.value]) if relearning and quantisation else None
    quality = harmonic_mean([faithful.value, robust]) if robust is not None else None
    return Finding(
        faithfulness=faithful, relearning=relearning, quantisation=quantisation, robustness=robust, quality=quality
    )


def keeps_enough(scores: Mapping[str, float | None], target: Mapping[str, float | None]) -> bool:
    """Whether an unlearned model keeps `LEAST_KEPT` of what the target knows of the retain set."""
    names = [name for name in ("retain.knowledge", "retain.regurgitation") if target.get(name)]
    after, before = (fmean(float(of.get(name) or 0.0) for name in names) for of in (scores, target))
    return after >= LEAST_KEPT * before


def is_reported(name: str) -> bool:
    """Whether a score has a place in the table: no variants by attribute, layer or kind, of which there are many."""
    parts = name.split(".")
    if parts[0] == "pii":
        return len(parts) == 4 and parts[-1] != "control"
    by_task = len(parts) == 3 and parts[0] == "forget"
    definition = definition_of(name)
    return not by_task and definition is not None and definition.wanted is not Wanted.NONE

"""How often the 95 % intervals of scores cover the truth, by simulation: the table in docs/metrics.md.

Documents are drawn from distributions whose scores are known; each simulation makes one interval as evaluations do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import NormalDist, harmonic_mean

import numpy as np

from lume_run.evaluation.metrics.bootstrap import Bootstrap, Column, Measure, combine, mean_of, peaked
from lume_run.evaluation.metrics.membership import CHANCE, auc_of, semeval_mia

Draw = Callable[[np.random.Generator, int], Measure]
COUNTS = (5, 12, 40)
NORMAL = NormalDist()
WEAK, STRONG = 0.1, 0.9  # terms of a harmonic mean


def column(values: np.ndarray, side: str) -> Column:
    """One row for each document of a side."""
    return Column.of(values.tolist(), [f"{side}{number}" for number in range(len(values))])


def mean(random: np.random.Generator, count: int) -> Measure:
    """The mean of scores from 0 to 1."""
    return mean_of(column(random.beta(2, 2, count), "d"))


def auc(truth: float) -> Draw:
    """The AUC of normal scores that are as far apart as this AUC wants."""
    shift = NORMAL.inv_cdf(truth) * 2**0.5

    def draw(random: np.random.Generator, count: int) -> Measure:
        return auc_of(column(random.normal(shift, 1, count), "m"), column(random.normal(0, 1, count), "n"))

    return draw


def mia_score(truth: float) -> Draw:
    """1 - 2 |AUC - 0.5| of the same."""
    return lambda random, count: peaked(auc(truth)(random, count), semeval_mia, CHANCE)


def weakest(random: np.random.Generator, count: int) -> Measure:
    """The harmonic mean of a weak and a strong term over other documents, as `task_aggregate` has."""
    terms = [mean_of(column(random.beta(9 * share, 9 * (1 - share), count), str(share))) for share in (WEAK, STRONG)]
    return combine(terms, harmonic_mean)


CASES: Mapping[str, tuple[Draw, float]] = {
    "mean": (mean, 0.5),
    "AUC, truth 0.5": (auc(0.5), 0.5),
    "AUC, truth 0.92": (auc(0.92), 0.92),
    "`mia.score`, AUC 0.5": (mia_score(0.5), 1.0),
    "`mia.score`, AUC 0.92": (mia_score(0.92), semeval_mia(0.92)),
    "harmonic mean of 0.1 and 0.9": (weakest, harmonic_mean([WEAK, STRONG])),
}


def coverage(draw: Draw, truth: float, count: int, simulations: int, resamples: int) -> float:
    """The share of simulations whose interval holds the truth."""
    covered = 0
    for seed in range(simulations):
        measure = draw(np.random.default_rng(seed), count)
        score = Bootstrap(seed=seed, resamples=resamples).score("", count, lambda measure=measure: measure)
        covered += score.low is not None and score.high is not None and score.low <= truth <= score.high
    return covered / simulations


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    given = parser.parse_args()
    print("| score | " + " | ".join(f"n = {count}" for count in COUNTS) + " |")
    print("|---|" + "---:|" * len(COUNTS))
    for name, (draw, truth) in CASES.items():
        shares = [coverage(draw, truth, count, given.simulations, given.resamples) for count in COUNTS]
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()

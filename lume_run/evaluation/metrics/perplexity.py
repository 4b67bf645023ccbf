"""Perplexity of a text: exp of the mean negative log-probability of its tokens (Jelinek et al. 1977).

Every token weighs the same, so that a long piece counts for more than a short one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lume_run.evaluation.metrics.bootstrap import Column, Measure, Numbers

MOST_ABOVE_ZERO = 1e-3  # [nats] a token, above 0


def perplexity_of(logps: Column, tokens: Column) -> Measure:
    """exp(-sum of log-probabilities [nats] / number of tokens) over pieces; both columns are of the same pieces.

    1 at best. Taking the value raises ValueError where no token was scored, where the perplexity is beyond floating
    point, or where a log-probability is above 0.
    """

    if (logps.values > MOST_ABOVE_ZERO * np.maximum(tokens.values, 1)).any():
        raise ValueError("some log-probabilities are above 0; give sums of log-probabilities, not losses")

    def compute(weights: Sequence[Numbers]) -> Numbers:
        counts = weights[1] @ tokens.values
        if not counts.all():
            raise ValueError("the text has no scored tokens; give a longer one")
        losses = np.maximum(-(weights[0] @ logps.values) / counts, 0.0)
        with np.errstate(over="ignore"):
            perplexities: Numbers = np.exp(losses)
        if not np.isfinite(perplexities).all():
            raise ValueError(f"beyond floating point: the mean loss is {losses.max():.0f} nats a token")
        return perplexities

    return Measure((logps, tokens), compute)

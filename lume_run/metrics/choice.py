"""Multiple choice accuracy: the option whose first token is most likely, against the expected one.

MMLU (Hendrycks et al., arXiv:2009.03300) as SemEval-2025 Task 4 counts it: every question weighs the same, whatever
the size of its subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lume_run.common.records import Response


def chosen(response: Response) -> str:
    """The option with the highest log-probability; of equal ones the first."""
    logps = response.choice_logps
    if not logps:
        raise ValueError(
            f"{response.id}: its choices have no finite log-probabilities, or all begin with the same token; "
            "look for a diverged model, or ask with other options"
        )
    if len(logps) != len(response.choices):
        raise ValueError(
            f"{response.id}: {len(logps)} log-probabilities for {len(response.choices)} choices; "
            "ask the model again with Ask.CHOICE"
        )
    if any(math.isnan(logp) for logp in logps):
        raise ValueError(f"{response.id}: a choice has a NaN log-probability; look for a diverged model")
    return response.choices[logps.index(max(logps))]


def accuracy(responses: Sequence[Response]) -> float:
    """Share of questions answered as expected (micro-average)."""
    if not responses:
        raise ValueError("no multiple choice responses; an accuracy needs at least one")
    return sum(chosen(response) == response.expected for response in responses) / len(responses)

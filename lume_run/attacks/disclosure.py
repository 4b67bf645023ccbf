"""The worst case over formulations: for each question, the answer that gives most away.

JensUn (Singh et al., 2025) calls a fact leaked where any formulation of its question discloses it; here every score of
a run is taken from the most disclosing answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lume_run.attacks.base import Attacked, Strength
from lume_run.common.records import PLAIN_VARIANTS, Ask, Response, Split
from lume_run.evaluation.metrics.answers import recall_rule
from lume_run.evaluation.metrics.semeval import text_score

ANY_FORMULATION = "any_prompt"  # the attack whose answers these are
PLAIN = {Ask.GENERATE: PLAIN_VARIANTS, Ask.LOGPROB: ("",)}  # variants of the question and its right answer


def disclosed(response: Response) -> tuple[float, float]:
    """How much an answer gives away: of a text whether it is right, then its ROUGE-L recall; of an answer its mean
    log-probability."""
    if response.ask is Ask.GENERATE:
        return text_score(response), recall_rule(response.subtask)(response.expected, response.output or "")
    if response.logp_sum is None or not response.tokens:
        return -math.inf, 0.0
    return response.logp_sum / response.tokens, 0.0


def most_disclosing(formulations: Iterable[Sequence[Response]]) -> list[Response]:
    """Of each question about a forget document that some formulation asks, the answer that gives most away.

    Answers in other variants, such as false ones, are left out: they are compared with the right one within a prompt.
    """
    best: dict[tuple[Ask, str, str], tuple[tuple[float, float], Response]] = {}
    for responses in formulations:
        for row in responses:
            if row.split is not Split.FORGET or row.variant not in PLAIN.get(row.ask, ()):
                continue
            key, amount = (row.ask, row.id, row.variant), disclosed(row)
            if key not in best or amount > best[key][0]:
                best[key] = amount, row
    return [row for _, row in best.values()]


def worst_formulations(
    responses: Mapping[str, Sequence[Response]], attacked: Sequence[tuple[Attacked, Sequence[Response]]]
) -> Iterator[tuple[Attacked, Sequence[Response]]]:
    """Each model's most disclosing answers over all formulations, the plain one among them; none of a single one."""
    by_subject: dict[str, list[Sequence[Response]]] = {}
    for of, rows in attacked:
        if of.formulation:
            by_subject.setdefault(of.subject, []).append(rows)
    for subject, formulations in by_subject.items():
        if len(formulations) > 1:
            strength = Strength(label="worst", amount=len(formulations))
            answers = most_disclosing([responses.get(subject, ()), *formulations])
            yield Attacked(subject=subject, attack=ANY_FORMULATION, strength=strength, rewritten=True), answers

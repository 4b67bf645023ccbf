"""What attacks brought back, as texts: a few answers before unlearning, after it, and under the attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lume_run.attacks.base import Attacked, ReturnedText
from lume_run.attacks.disclosure import disclosed, worst_formulations
from lume_run.attacks.results import AttackedScore, AttackResults
from lume_run.common.records import PLAIN_VARIANTS, Ask, Response, Split
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import ScoreGroup

MOST_TEXTS = 5  # of an attack
TextsById = Mapping[str, Response]


def returned_texts(
    results: AttackResults,
    responses: Mapping[str, Sequence[Response]],
    attacked: Sequence[tuple[Attacked, Sequence[Response]]],
) -> Iterator[ReturnedText]:
    """Of every attack, at the strength that brought back most, the answers that then give away more than before."""
    target, before = (texts_by_id(responses.get(name, ())) for name in ("target", results.subject))
    for of, rows in [*attacked, *worst_formulations(responses, attacked)]:
        if of.subject == results.subject and of.strength.label == telling_strength(results, of.attack):
            for row in most_returned(list(texts_by_id(rows).values()), before):
                yield returned_text(of, row, target, before)


def texts_by_id(responses: Sequence[Response]) -> dict[str, Response]:
    """Greedy answers to plain questions about forget documents."""
    texts = (row for row in responses if row.ask is Ask.GENERATE and row.split is Split.FORGET)
    return {row.id: row for row in texts if row.variant in PLAIN_VARIANTS}


def telling_strength(results: AttackResults, attack: str) -> str:
    """The label of the strength that brought back most of what was to be forgotten; the last where none did."""
    of_attack = [row for row in results.rows if row.attack == attack]
    known = [(row, row.recovered.value) for row in of_attack if row.recovered and row.recovered.value is not None]
    of_texts = [pair for pair in known if is_of_answers(pair[0])] or known
    if not of_texts or max(value for _, value in of_texts) <= 0:
        return of_attack[-1].strength.label if of_attack else ""
    return max(of_texts, key=lambda pair: pair[1])[0].strength.label


def is_of_answers(row: AttackedScore) -> bool:
    """Whether a score is about what is answered, and not about who was in the training data."""
    definition = definition_of(row.score)
    return definition is not None and definition.group is ScoreGroup.FORGET


def most_returned(rows: Sequence[Response], before: TextsById) -> list[Response]:
    """The answers that gained most over those before the attack, at most `MOST_TEXTS`."""

    def gain(row: Response) -> tuple[float, float]:
        earlier = disclosed(before[row.id]) if row.id in before else (0.0, 0.0)
        right, recall = disclosed(row)
        return right - earlier[0], recall - earlier[1]

    return sorted(rows, key=gain, reverse=True)[:MOST_TEXTS]


def returned_text(of: Attacked, row: Response, target: TextsById, before: TextsById) -> ReturnedText:
    """One answer under an attack beside those of the models that were not attacked."""
    return ReturnedText(
        attack=of.attack,
        strength=of.strength.label,
        id=row.id,
        document=row.document,
        subtask=row.subtask,
        kind=str(row.kind),
        attribute=row.attribute,
        prompt=row.prompt,
        expected=row.expected,
        target=target[row.id].output if row.id in target else None,
        before=before[row.id].output if row.id in before else None,
        after=row.output or "",
    )

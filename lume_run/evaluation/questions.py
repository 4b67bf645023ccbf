"""What is asked of a model, and what the answers are worth: asks -> responses -> scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from lume_run.common.errors import RunError
from lume_run.common.files import fingerprint
from lume_run.common.records import JUDGED, Ask, Example, Question, Response, Split, TaskData
from lume_run.common.seeds import stable_digest
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.suites.base import Answers, Compared, Harnessed, Judged, Judgement, Suite
from lume_run.evaluation.suites.lume import Lume

DOCUMENT_PARTS = ("tuning", "reported")  # of documents: those that settings are tuned on, and the others
SIDES_IN_PARTS = (Split.FORGET, Split.RETAIN, Split.NEIGHBORS, Split.MEMBER, Split.NONMEMBER)


def suites_of(evaluator: EvaluatorSettings) -> dict[str, Suite]:
    """The suites an evaluator is made of; LUME's alone where none is named."""
    return evaluator.suites or {"lume": Lume()}


def questions_of(data: TaskData, evaluator: EvaluatorSettings, *, trained_here: bool) -> dict[str, list[Question]]:
    """What each suite asks a model.

    Unused documents of the data set are non-members of a target trained here only: a released one has seen them.
    """
    if data.leftover_nonmembers and not trained_here:
        data = replace(data, nonmembers=())
    asked = {name: suite.asks(data, evaluator) for name, suite in suites_of(evaluator).items()}
    if evaluator.documents == "all":
        return asked
    return {
        name: [question for question in questions if is_of_part(question.example, evaluator.documents)]
        for name, questions in asked.items()
    }


def is_of_part(row: Example | Response, part: str) -> bool:
    """Whether a row is asked about where only one part of the documents is; rows about the world always are.

    A document is in the part that a hash of its name says, whatever other documents there are and on whatever side.
    """
    return (
        row.split not in SIDES_IN_PARTS
        or part == DOCUMENT_PARTS[stable_digest("part", row.document)[0] % len(DOCUMENT_PARTS)]
    )


def deduplicate_questions(asked: Mapping[str, Sequence[Question]]) -> list[Question]:
    """The questions of all suites, what several of them ask only once.

    RunError where two suites mean different things by one question: the one would be scored on the other's answer.
    """
    distinct: dict[tuple[Ask, str, str], Question] = {}
    for name, questions in asked.items():
        for question in questions:
            ask, example_id, variant = question.ask, question.example.id, question.variant
            first = distinct.setdefault((ask, example_id, variant), question)
            if question.moments and not first.moments:
                first = distinct[ask, example_id, variant] = replace(first, moments=True)
            if replace(first, moments=question.moments) != question:
                raise RunError(
                    f"The suite '{name}' and another one ask {ask} of '{example_id}' (variant '{variant}') "
                    "with different prompts, answers or limits; give the question a variant of its own."
                )
    return list(distinct.values())


def needs_retrained(evaluator: EvaluatorSettings) -> bool:
    """Whether a score needs the answers of a model that never saw the forget set, and neither they nor it are given."""
    compared = any(isinstance(suite, Compared) and suite.compares for suite in suites_of(evaluator).values())
    given = evaluator.retrained_responses or evaluator.retrained_model
    return evaluator.retrained or (compared and given is None)


def harnesses(evaluator: EvaluatorSettings) -> dict[str, Harnessed]:
    """The suites that run a library of their own on the loaded model, and have something to measure."""
    suites = suites_of(evaluator).items()
    return {name: suite for name, suite in suites if isinstance(suite, Harnessed) and suite.active}


def missing_judgements(answers: Answers) -> list[Judgement]:
    """What the suites want judged and no response holds yet; what another judge said is asked again."""
    known = {
        (row.ask, row.id, row.variant, row.judge) for row in answers.responses if row.ask in JUDGED and not row.reason
    }
    name_of = cache(partial(fingerprint, deep=True))
    wanted = {
        (judgement.ask, judgement.response.id, judgement.variant): judgement
        for suite in suites_of(answers.evaluator).values()
        if isinstance(suite, Judged)
        for judgement in suite.judgements(answers)
    }
    names = {
        judgement.model: judgement.model if judgement.ask is Ask.VERDICT else name_of(judgement.model)
        for judgement in wanted.values()
    }
    return [judgement for key, judgement in wanted.items() if (*key, names[judgement.model]) not in known]

"""What is asked of a model, and what the answers are worth: asks -> responses -> scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lume_run.common.errors import DataError, Problem, RunError
from lume_run.common.files import fingerprint
from lume_run.common.jsonl import from_json, lines_of
from lume_run.common.records import JUDGED, Ask, Question, Response, Score, TaskData
from lume_run.config.settings import Evaluator
from lume_run.labels import SUBTASK_OF_LABEL, document_and_kind
from lume_run.metrics.semeval import repeats
from lume_run.metrics.semeval_strict import responses_from_official, strict_scores
from lume_run.suites.contract import Answers, Compared, Harnessed, Judged, Judgement, Suite
from lume_run.suites.lume import Lume

GATE_SHARE = 0.75  # of the target's own MMLU accuracy, as on the SemEval-2025 leaderboard
ROUNDING = 1e-12  # 0.75 * 0.4 is a bit more than 0.3 in floating point, and 30 of 100 is still 75 % of 40


def suites_of(evaluator: Evaluator) -> dict[str, Suite]:
    """The suites an evaluator is made of; LUME's alone where none is named."""
    return evaluator.metrics or {"lume": Lume()}


def questions_of(data: TaskData, evaluator: Evaluator, *, trained_here: bool) -> dict[str, list[Question]]:
    """What each suite asks a model.

    Unused documents of the data set are non-members of a target trained here only: a released one has seen them.
    """
    if data.leftover_nonmembers and not trained_here:
        data = replace(data, nonmembers=())
    return {name: suite.asks(data, evaluator) for name, suite in suites_of(evaluator).items()}


def merged(asked: Mapping[str, Sequence[Question]]) -> list[Question]:
    """The questions of all suites, what several of them ask only once.

    RunError where two suites mean different things by one question: the one would be scored on the other's answer.
    """
    found: dict[tuple[Ask, str, str], Question] = {}
    for name, own in asked.items():
        for one in own:
            first = found.setdefault((one.ask, one.example.id, one.variant), one)
            if first is not one and first != one:
                raise RunError(
                    f"The suite '{name}' and another one ask {one.ask} of '{one.example.id}' (variant '{one.variant}') "
                    "with different prompts, answers or limits; give the question a variant of its own."
                )
    return list(found.values())


def wants_retrained(evaluator: Evaluator) -> bool:
    """Whether a score needs the answers of a model that never saw the forget set, and they are not given."""
    compared = any(isinstance(suite, Compared) and suite.compares for suite in suites_of(evaluator).values())
    return evaluator.retrained or (compared and evaluator.retrained_responses is None)


def harnesses(evaluator: Evaluator) -> dict[str, Harnessed]:
    """The suites that run a library of their own on the loaded model, and have something to measure."""
    suites = suites_of(evaluator).items()
    return {name: suite for name, suite in suites if isinstance(suite, Harnessed) and suite.active}


def to_judge(answers: Answers) -> list[Judgement]:
    """What the suites want judged, and no response tells yet; what another judge said is asked again."""
    known = {
        (row.ask, row.id, row.variant, row.judge) for row in answers.responses if row.ask in JUDGED and not row.reason
    }
    name_of = cache(partial(fingerprint, deep=True))
    wanted = {
        (one.ask, one.response.id, one.variant): one
        for suite in suites_of(answers.evaluator).values()
        if isinstance(suite, Judged)
        for one in suite.judgements(answers)
    }
    return [one for key, one in wanted.items() if (*key, name_of(one.model)) not in known]


def score(answers: Answers) -> tuple[list[Score], dict[str, Any] | None]:
    """The scores of all suites, and the official script's own result, or why there is none, when `strict` asks for it.

    DataError where responses stand twice, or lack what every suite needs.
    """
    evaluator = answers.evaluator
    problems = repeats(answers.responses) + repeats(answers.retrained or (), "the retrained model's responses")
    if problems:
        raise DataError(problems)
    scores = [found for suite in suites_of(evaluator).values() for found in suite.scores(answers)]
    if not evaluator.strict:
        return scores, None
    accuracy = next((entry.value for entry in scores if entry.name == "mmlu.accuracy"), None)
    try:
        return scores, strict_scores(answers.responses, mmlu_accuracy=accuracy)
    except ValueError as error:  # numbers that are not finite, or a set without rows: the other scores stand
        return scores, {"reason": str(error)}


def gate(accuracy: float | None, target_accuracy: float | None, floor: float | None) -> tuple[bool | None, str]:
    """Whether MMLU survived, and the rule in words; None where it cannot be judged.

    `floor` is a published threshold (0.371 for the released 7B); without one it is 75 % of the target's own score.
    """
    if accuracy is None:
        return None, "MMLU was not measured"
    if floor is None and target_accuracy is None:
        return None, "the target's own MMLU was not measured"
    least = floor if floor is not None else GATE_SHARE * float(target_accuracy or 0.0)
    rule = "published threshold" if floor is not None else f"{GATE_SHARE:.0%} of the target's {target_accuracy:.3f}"
    return accuracy >= least - ROUNDING, f"MMLU {accuracy:.3f} against {least:.3f} ({rule})"


def read_responses(path: Path) -> list[Response]:
    """Responses from our own jsonl, or from a folder of CSVs the official script wrote.

    Raises DataError with every bad line.
    """
    if path.is_dir():
        return responses_from_official(path)
    problems: list[Problem] = []
    responses: list[Response] = []
    try:
        lines = list(lines_of(path))
    except UnicodeDecodeError as error:
        what, remedy = f"is not text: {error}", "give responses.jsonl or a folder of official CSVs"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)]) from error
    for number, line in lines:
        try:
            text = json.dumps(completed(json.loads(line)), ensure_ascii=False, allow_nan=False)
            text.encode()  # half of a surrogate pair could be read, but not written down again
            response = from_json(Response, text)
            check_types(response)
            responses.append(response)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = (
                "one JSON object a line, at least: id (...sc1 or ...qa0), split, subtask (or task), expected, output; "
                "numbers that are not finite are left out"
            )
            problems.append(Problem(where=f"{path}:{number}", what=f"{type(error).__name__}: {error}", remedy=remedy))
    if problems:
        raise DataError(problems)
    if not responses:
        raise DataError([Problem(where=str(path), what="holds no responses", remedy="give another file")])
    return responses


def check_types(response: Response) -> None:
    """TypeError naming a field that holds something else than it should."""
    for name, types in field_types().items():
        value = getattr(response, name)
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, types):
                raise TypeError(f"{name} holds {str(item)[:40]!r}, which is no {types[0].__name__}")


@cache
def field_types() -> dict[str, tuple[type, ...]]:
    """What the fields of a response, or their members, may be; a whole number will do for a number."""
    found: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(Response).items():
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not Ellipsis]
        found[name] = (*kinds, int) if float in kinds else tuple(kinds)
    return found


def completed(fields: dict[str, Any]) -> dict[str, Any]:
    """A response someone else wrote, with what follows from the rest filled in.

    `kind` and `document` follow from the id's suffix, `subtask` from a `task` label such as Task2,
    `ask` is greedy generation. Raises ValueError for an id without a known suffix.
    """
    own = dict(fields)
    label = own.pop("task", None)
    if label is not None:
        own.setdefault("subtask", SUBTASK_OF_LABEL.get(label, label))
    own.setdefault("ask", Ask.GENERATE.value)
    own.setdefault("prompt", "")
    if "kind" not in own or "document" not in own:
        document, kind = document_and_kind(str(own["id"]))
        own.setdefault("kind", kind.value)
        own.setdefault("document", document)
    return own


def scores_to_json(scores: Sequence[Score]) -> dict[str, Any]:
    """`{name: value}` plus the counts and the reasons of what is missing."""
    return {
        "scores": {score.name: score.value for score in scores},
        "n": {score.name: score.n for score in scores},
        "intervals": {score.name: [score.low, score.high] for score in scores if score.low is not None},
        "reasons": {score.name: score.reason for score in scores if score.reason},
    }


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write `scores_to_json` as strict JSON."""
    path.write_text(json.dumps(scores_to_json(scores), indent=2, allow_nan=False) + "\n", encoding="utf-8")

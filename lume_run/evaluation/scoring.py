"""From responses to scores: texts are judged where a suite wants it, models are compared where it can be done.

No language model is needed here. Judgements are kept in the store beside the responses they are about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lume_run.common.devices import device_of
from lume_run.common.errors import DataError
from lume_run.common.files import content_hash, fingerprint, replace_file
from lume_run.common.jsonl import read_jsonl, to_json, write_jsonl
from lume_run.common.records import Ask, Response, Score
from lume_run.common.store import Artifact
from lume_run.config.settings import EvaluatorSettings, Settings
from lume_run.evaluation.metrics.semeval import repeat_problems
from lume_run.evaluation.metrics.semeval_official import strict_scores
from lume_run.evaluation.questions import harnesses, is_of_part, missing_judgements, suites_of
from lume_run.evaluation.saved_responses import read_cost, read_responses
from lume_run.evaluation.suites.base import Answers, Judged, Judgement, judgement_response
from lume_run.evaluation.suites.llm_judge.ask import judge_troubles, verdict_responses

GATE_SHARE = 0.75  # of the target's MMLU accuracy, as on the SemEval-2025 leaderboard
GATE_TOLERANCE = 1e-12  # 0.75 * 0.4 is a bit more than 0.3 in floating point, and 30 of 100 is still 75 % of 40

JUDGEMENTS_FORMAT = 2  # raise it when a change of `judges.py` or `judge_files.py` makes stored judgements wrong


def unavailable_judges(settings: Settings) -> list[str]:
    """Why judges that the evaluator names are unavailable; known before anything is trained."""
    suites = suites_of(settings.evaluator).values()
    named = {judge for suite in suites if isinstance(suite, Judged) for judge in suite.judges()}
    reasons = judge_troubles(suites)
    if here := sorted((ask, model) for ask, model in named if ask is not Ask.VERDICT):
        from lume_run.evaluation.judges import judge_trouble  # brings torch with it

        reasons += [reason for ask, model in here if (reason := judge_trouble(ask, model))]
    return reasons


def add_judgements(answers: Answers, settings: Settings, name: str) -> list[Response]:
    """The responses and every judgement about them that the suites want; without a judge those say why."""
    wanted = missing_judgements(answers)
    again = {(judgement.ask, judgement.response.id, judgement.variant) for judgement in wanted}
    kept = [row for row in answers.responses if (row.ask, row.id, row.variant) not in again]
    by_judge: dict[tuple[Ask, str], list[Judgement]] = {}
    for judgement in wanted:
        by_judge.setdefault((judgement.ask, judgement.model), []).append(judgement)
    judged: list[Response] = []
    for (ask, model), judgements in by_judge.items():
        if ask is Ask.VERDICT:
            judged += verdict_responses(settings, suites_of(settings.evaluator).values(), model, judgements)
        else:
            judged += _load_or_judge(settings, name, ask, model, judgements)
    return [*kept, *judged]


def _load_or_judge(
    settings: Settings, name: str, ask: Ask, model: str, judgements: Sequence[Judgement]
) -> Sequence[Response]:
    """The verdicts of one judge: those in the store where the same was judged before."""
    from lume_run.evaluation.judges import judge, judge_trouble

    device = device_of(settings.launch.device)
    if judge_trouble(ask, model):
        return judge(judgements, device)
    judge_name = fingerprint(model, deep=True)
    pairs = [
        [judgement.first, judgement.second, judgement.variant, to_json(judgement.response)] for judgement in judgements
    ]
    made_from = {
        "format": JUDGEMENTS_FORMAT,
        "judge": judge_name,
        "ask": ask,
        "pairs": content_hash(pairs),
    }

    def build(folder: Path) -> None:
        responses = judge(judgements, device)
        if reason := next((response.reason for response in responses if response.reason), None):
            raise _Unavailable(reason)
        write_jsonl(folder / "judgements.jsonl", responses)

    path = settings.store / "judgements" / content_hash(made_from)
    artifact = Artifact(stage="evaluate", name=f"{name} {ask}", path=path, inputs=made_from, build=build)
    try:
        return read_jsonl(artifact.make() / "judgements.jsonl", Response)
    except _Unavailable as error:  # nothing is kept, so that the next try judges anew
        return [judgement_response(judgement, judge_name, reason=str(error)) for judgement in judgements]


class _Unavailable(Exception):
    """A judge that looked fine and could not be loaded."""


def retrained_responses(settings: Settings, responses: Mapping[str, Sequence[Response]]) -> Sequence[Response] | None:
    """The answers of a model that never saw the forget set: this run's, or those of a file."""
    given = settings.evaluator.retrained_responses
    if not given:
        return responses.get("retrained")
    rows, part = read_responses(Path(given)), settings.evaluator.documents
    return rows if part == "all" else [row for row in rows if is_of_part(row, part)]


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """What one model answered, judgements among it, and its scores.

    `scores` are of suites, `measured` of those that took them from the model itself; `official` is the official
    script's own result, where it was asked for.
    """

    answers: Answers
    scores: Sequence[Score]
    measured: Sequence[Score] = ()
    official: Mapping[str, Any] | None = None

    @property
    def by_name(self) -> dict[str, Score]:
        """All scores by their names."""
        return {score.name: score for score in (*self.scores, *self.measured)}


def score_model(
    settings: Settings,
    name: str,
    responses: Sequence[Response],
    retrained: Sequence[Response] | None,
    target: Sequence[Response] | None = None,
    *,
    strict: bool = False,
) -> ScoredModel:
    """The scores of one model's answers, with the official script's own result where `strict`."""
    evaluator = replace(settings.evaluator, strict=strict)
    answers = Answers(responses=responses, evaluator=evaluator, retrained=retrained, target=target)
    answers = replace(answers, responses=add_judgements(answers, settings, name))
    scores, official = score_answers(answers)
    return ScoredModel(answers=answers, scores=scores, official=official)


def score_models(
    settings: Settings,
    folder: Path,
    responses: Mapping[str, Sequence[Response]],
    measured: Mapping[str, Sequence[Score]],
) -> dict[str, ScoredModel]:
    """The models by subject; their responses and scores are written into `folder`.

    `measured` are scores that suites took from the models themselves.
    """
    evaluator = settings.evaluator
    retrained = retrained_responses(settings, responses)
    models: dict[str, ScoredModel] = {}
    for name, records in responses.items():
        model = score_model(settings, name, records, retrained, responses.get("target"), strict=evaluator.strict)
        model = replace(model, measured=measured.get(name) or unmeasured_scores(evaluator))
        models[name] = model
        write_jsonl(folder / f"responses.{name}.jsonl", model.answers.responses)
        write_scores(folder / f"scores.{name}.json", list(model.by_name.values()))
    return models


def unmeasured_scores(evaluator: EvaluatorSettings) -> list[Score]:
    """What stands for the scores of harnesses where there is no model that they could have measured."""
    reason = (
        "these scores are taken from a model itself: there are none with stages=[score], and none of a model that "
        "answers in a context or beside another (method=icu, method=whp)"
    )
    return [Score(name=name, value=None, n=0, reason=reason) for name in harnesses(evaluator)]


def read_harness_scores(artifacts: Sequence[Artifact]) -> list[Score]:
    """The scores that harnesses left in their artifacts."""
    return [score for artifact in artifacts for score in read_jsonl(artifact.path / "scores.jsonl", Score)]


def cost_summary(asked: Mapping[str, Sequence[Any]], responses: Sequence[Response], path: Path) -> dict[str, Any]:
    """What one model was asked: by ask as measured, by suite as counted from the questions and responses.

    `alone` are the prompts of all suites if each were run for itself, `shared` those of them that another had asked.
    """
    tokens = {(row.ask, row.id, row.variant): row.tokens or 0 for row in responses if row.output is not None}
    suites: dict[str, dict[str, int]] = {}
    for name, questions in asked.items():
        counts: dict[str, int] = {}
        for question in questions:
            counts[question.ask.value] = counts.get(question.ask.value, 0) + 1
        keys = [(question.ask, question.example.id, question.variant) for question in questions]
        suites[name] = counts | {"tokens": sum(tokens.get(key, 0) for key in keys)}
    alone, together = sum(len(questions) for questions in asked.values()), len(responses)
    shared = alone - together
    return {"asks": read_cost(path), "suites": suites, "alone": {"prompts": alone}, "shared": {"prompts": shared}}


def score_answers(answers: Answers) -> tuple[list[Score], dict[str, Any] | None]:
    """The scores of all suites, and the official script's own result, or why there is none, when `strict` asks for it.

    DataError where responses stand twice, or lack what every suite needs.
    """
    evaluator = answers.evaluator
    problems = repeat_problems(answers.responses) + repeat_problems(
        answers.retrained or (), "the retrained model's responses"
    )
    if problems:
        raise DataError(problems)
    scores = [score for suite in suites_of(evaluator).values() for score in suite.scores(answers)]
    if not evaluator.strict:
        return scores, None
    accuracy = next((score.value for score in scores if score.name == "mmlu.accuracy"), None)
    try:
        return scores, strict_scores(answers.responses, mmlu_accuracy=accuracy)
    except ValueError as error:  # numbers that are not finite, or a set without rows: the other scores stand
        return scores, {"reason": str(error)}


def gate(accuracy: float | None, target_accuracy: float | None, floor: float | None) -> tuple[bool | None, str]:
    """Whether MMLU survived, and the rule in words; None where it cannot be judged.

    `floor` is a published threshold (0.371 for the released 7B); without it, 75 % of the target's score.
    """
    if accuracy is None:
        return None, "MMLU was not measured"
    if floor is None and target_accuracy is None:
        return None, "the target's own MMLU was not measured"
    least = floor if floor is not None else GATE_SHARE * float(target_accuracy or 0.0)
    rule = "published threshold" if floor is not None else f"{GATE_SHARE:.0%} of the target's {target_accuracy:.3f}"
    return accuracy >= least - GATE_TOLERANCE, f"MMLU {accuracy:.3f} against {least:.3f} ({rule})"


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
    replace_file(path, json.dumps(scores_to_json(scores), indent=2, allow_nan=False) + "\n")

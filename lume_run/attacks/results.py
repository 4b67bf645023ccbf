"""From the answers of attacked models to scores: what each strength of each attack brought back, the worst of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lume_run.attacks.base import Attacked, ReturnedText, Strength, is_scored
from lume_run.attacks.disclosure import worst_formulations
from lume_run.attacks.scores import (
    combined_score,
    is_about_forgetting,
    quantisation_score,
    recovered_score,
    relearning_score,
    robustness_score,
    worst_score,
)
from lume_run.common.jsonl import write_jsonl
from lume_run.common.records import Response, Score
from lume_run.config.settings import Settings
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import Definition, ScoreGroup
from lume_run.evaluation.scoring import add_judgements, retrained_responses, score_answers, write_scores
from lume_run.evaluation.suites.base import Answers

FOLDER = "attacks"  # in a run's folder: responses and scores of attacked models
USE_GROUPS = (ScoreGroup.RETAIN, ScoreGroup.UTILITY, ScoreGroup.OVERALL)  # what an attack should leave alone
CONTROLS = ("retrained", "base")  # models that never saw the forget set, the better one first
SUBJECTS_ATTACKED = ("unlearned", "model", "target")  # the first that a run has is what its attacks are about
Scores = Mapping[str, Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackedScore:
    """One score under one strength of an attack: of the target, and of the model and its control before and after.

    What follows is of scores that show knowledge of what was to be forgotten, else None: the `recovered` share,
    the share `taught` to the control, the `excess` of the one over the other, R or Q where the attack measures it.
    """

    attack: str
    strength: Strength
    score: str
    target: Score | None
    before: Score | None
    after: Score
    control_before: Score | None
    control_after: Score | None
    recovered: Score | None = None
    taught: Score | None = None
    excess: Score | None = None
    relearning: Score | None = None
    quantisation: Score | None = None


@dataclass(frozen=True, kw_only=True)
class AttackResults:
    """What all attacks of a run showed of one model: `subject`, beside its `control` ("": none).

    `worst` holds scores under names of the catalogue: each attack's worst strength, and the robustness of each score.
    `texts` are what came back to look at.
    """

    subject: str
    control: str
    rows: tuple[AttackedScore, ...]
    worst: Mapping[str, Score] = field(default_factory=dict)
    texts: tuple[ReturnedText, ...] = ()

    @property
    def attacks(self) -> list[str]:
        """The attacks in order."""
        return list(dict.fromkeys(row.attack for row in self.rows))


@dataclass(frozen=True)
class _Scorer:
    """Scores of models on the rows that an attack is judged by, each taken once."""

    settings: Settings
    folder: Path
    responses: Mapping[str, Sequence[Response]]
    cache: dict[tuple[str, frozenset[str], frozenset[str] | None], dict[str, Score]] = field(default_factory=dict)

    @cached_property
    def retrained(self) -> Sequence[Response] | None:
        return retrained_responses(self.settings, self.responses)

    def before(self, subject: str, held_out: frozenset[str], asked: frozenset[str] | None) -> dict[str, Score]:
        """Scores of a model that is not attacked, on questions that were `asked` (None: all); none if not evaluated."""
        if subject not in self.responses:
            return {}
        key = (subject, held_out, asked)
        if key not in self.cache:
            rows = [row for row in self.responses[subject] if asked is None or row.id in asked]
            self.cache[key] = self._scores(subject, rows, held_out)[1]
        return self.cache[key]

    def after(self, attacked: Attacked, responses: Sequence[Response]) -> dict[str, Score]:
        """Scores of an attacked model, which are also written into the run's folder, with its responses."""
        judged, scores = self._scores(attacked.name, responses, attacked.held_out)
        self.folder.mkdir(exist_ok=True)
        write_jsonl(self.folder / f"responses.{attacked.name}.jsonl", judged)
        write_scores(self.folder / f"scores.{attacked.name}.json", list(scores.values()))
        return scores

    def _scores(
        self, name: str, responses: Sequence[Response], held_out: frozenset[str]
    ) -> tuple[Sequence[Response], dict[str, Score]]:
        rows = [row for row in responses if is_scored(row, held_out)]
        retrained = self.retrained and [row for row in self.retrained if is_scored(row, held_out)]
        before = self.responses.get("target")
        target = before and [row for row in before if is_scored(row, held_out)]
        evaluator = replace(self.settings.evaluator, strict=False)
        answers = Answers(responses=rows, evaluator=evaluator, retrained=retrained, target=target)
        answers = replace(answers, responses=add_judgements(answers, self.settings, name))
        return answers.responses, {score.name: score for score in score_answers(answers)[0]}


def score_attacks(
    settings: Settings,
    folder: Path,
    responses: Mapping[str, Sequence[Response]],
    attacked: Sequence[tuple[Attacked, Sequence[Response]]],
) -> AttackResults | None:
    """What the attacks showed; None without any. `responses` are those of the models that were not attacked."""
    if not attacked:
        return None
    scorer = _Scorer(settings, folder / FOLDER, responses)
    attacked = [*attacked, *worst_formulations(responses, attacked)]
    after = {of.name: scorer.after(of, rows) for of, rows in attacked}
    subject = next(name for name in SUBJECTS_ATTACKED if any(of.subject == name for of, _ in attacked))
    control = next((name for name in CONTROLS if any(of.subject == name for of, _ in attacked)), "")
    rows: list[AttackedScore] = []
    measured: dict[str, str] = {}
    for of, answered in ((of, answered) for of, answered in attacked if of.subject == subject):
        measured[of.attack] = of.measures
        asked = frozenset(row.id for row in answered) if of.rewritten else None
        before = {name: scorer.before(name, of.held_out, asked) for name in ("target", subject, control)}
        rows += _rows(
            of,
            target=before["target"],
            before=before[subject],
            after=after[of.name],
            control_before=before[control],
            control_after=after.get(replace(of, subject=control).name, {}),
        )
    return AttackResults(subject=subject, control=control, rows=tuple(rows), worst=worst_scores(rows, measured))


def _rows(
    of: Attacked, *, target: Scores, before: Scores, after: Scores, control_before: Scores, control_after: Scores
) -> Iterator[AttackedScore]:
    """A row for each score that is about forgetting or about what should be left alone."""
    for name, score in after.items():
        definition = definition_of(name)
        if definition is None or not (is_about_forgetting(definition) or definition.group in USE_GROUPS):
            continue
        if of.rewritten and score.value is None:  # of questions that it did not ask
            continue
        row = AttackedScore(
            attack=of.attack,
            strength=of.strength,
            score=name,
            target=target.get(name),
            before=before.get(name),
            after=score,
            control_before=control_before.get(name),
            control_after=control_after.get(name),
        )
        yield _with_measures(row, definition, of.measures) if is_about_forgetting(definition) else row


def _with_measures(row: AttackedScore, definition: Definition, measures: str) -> AttackedScore:
    """The row with the recovered share, and R or Q where the attack measures it."""
    terms = [row.before, row.after, row.control_before, row.control_after]
    name = f"attack.{row.attack}.{row.score}"
    recovered = recovered_score(f"{name}.recovered", definition, [row.after, row.before, row.target])
    taught = recovered_score(f"{name}.taught", definition, [row.control_after, row.control_before, row.target])
    return replace(
        row,
        recovered=recovered,
        taught=taught,
        excess=combined_score(f"{name}.excess", [recovered, taught], lambda share, other: share - other),
        relearning=relearning_score(f"{name}.r", definition, terms) if measures == "relearning" else None,
        quantisation=quantisation_score(f"{name}.q", definition, terms[:2]) if measures == "quantisation" else None,
    )


def worst_scores(rows: Sequence[AttackedScore], measured: Mapping[str, str]) -> dict[str, Score]:
    """By name: each attack's largest recovered share and smallest R or Q over its strengths; robustness by score."""
    worst: dict[str, Score] = {}
    names = list(dict.fromkeys(row.score for row in rows if row.recovered is not None))
    for name in names:
        smallest: dict[str, list[Score]] = {"relearning": [], "quantisation": []}
        for attack, measures in measured.items():
            of_both = [row for row in rows if (row.attack, row.score) == (attack, name)]
            _add(worst, f"attack.{attack}.{name}.recovered", [row.recovered for row in of_both], max)
            _add(worst, f"attack.{attack}.{name}.excess", [row.excess for row in of_both], max)
            for measure, letter in (("relearning", "r"), ("quantisation", "q")):
                if measures == measure:
                    scores = [getattr(row, measure) for row in of_both]
                    smallest[measure].append(_add(worst, f"attack.{attack}.{name}.{letter}", scores, min))
        if all(smallest.values()):
            terms = [worst_score(name, scores, min) for scores in smallest.values()]
            worst[f"robustness.{name}"] = robustness_score(f"robustness.{name}", *terms)
    return worst


def _add(worst: dict[str, Score], name: str, scores: Sequence[Score | None], end: Any) -> Score:
    worst[name] = worst_score(name, [score for score in scores if score is not None], end)
    return worst[name]


def attacks_json(results: AttackResults, training: Mapping[str, Any]) -> dict[str, Any]:
    """The section `attacks` of report.json: a record for each strength and score, and the names of the worst cases.

    Those are among the scores of `subject`. `training` says how the trainings of attacks went; one that diverged is a
    result.
    """
    return {
        "subject": results.subject,
        "control": results.control or None,
        "training": dict(training),
        "rows": [_row_json(row) for row in results.rows],
        "worst": list(results.worst),
    }


def _row_json(row: AttackedScore) -> dict[str, Any]:
    terms = [term.name for term in fields(row) if term.name not in ("attack", "strength", "score")]
    scores = {term: score for term in terms if (score := getattr(row, term)) is not None}
    strength = {"label": row.strength.label, "amount": row.strength.amount, "series": row.strength.series}
    return {
        "attack": row.attack,
        "strength": strength,
        "score": row.score,
        **{term: score.value for term, score in scores.items()},
        "intervals": {term: [score.low, score.high] for term, score in scores.items() if score.low is not None},
        "reasons": {term: score.reason for term, score in scores.items() if score.reason},
    }

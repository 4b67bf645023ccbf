"""RWKU (Jin et al., arXiv:2406.10890): forget and neighbor levels, membership, utility; the columns of its tables.

A number is the mean over targets of the mean over the rows of each, as published. Its interval is over targets, or over
rows where there is one target. Questions come from `task=rwku`; sets that the task lacks leave their scores out, with a
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from lume_run.common.records import Ask, Example, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.answers import answer_line, likeliest_choice
from lume_run.evaluation.metrics.bootstrap import Column, Measure, mean_of
from lume_run.evaluation.metrics.membership import loss_score, min_k, min_k_plus_plus, zlib_score
from lume_run.evaluation.metrics.rwku import answer_recall, ngram_entropy, said_match, word_f1
from lume_run.evaluation.suites.base import Answers, RowValue, column_of
from lume_run.evaluation.suites.mia import require_token_logps

RWKU_VARIANT = "rwku"
ANSWER_LIMIT, TEXT_LIMIT = 30, 256  # longest answer, longest worked-out answer or text [tokens]
FORGET_SETS = {"fb": "forget_level1", "qa": "forget_level2", "aa": "forget_level3"}
NEIGHBOR_SETS = {"fb": "neighbor_level1", "qa": "neighbor_level2"}
MEMBERSHIP_SETS = {Split.FORGET: "forget_mia", Split.RETAIN: "retain_mia"}
UTILITY_SETS_ASKED = ("retain_mmlu", "retain_bbh", "truthful", "triviaqa", "fluency")
LEVEL3_ATTACKS = (
    *("prefix_injection", "affirmative_suffix", "role_play", "multiple_choice", "reverse_query"),
    *("synonym_manipulation", "context_hint", "incontext_learning", "cross_lingual"),
)
LIMITS = {"retain_bbh": TEXT_LIMIT, "fluency": TEXT_LIMIT}


@dataclass(frozen=True, kw_only=True)
class Rwku:
    """The table of the paper as fractions, nats and bits, where it prints 100 times that.

    With `compat` as the released code has it: the template's first token twice, texts that go on behind a line break
    (its stop strings are no tokens), reasoning judged by single characters, and Min-K++ under the name of Min-K.
    """

    compat: bool = setting(False, help="as the released code has it, slips included")
    k: float = setting(0.2, low=0, open_low=True, high=1, help="share of least likely tokens in min-k and min-k++")
    utility: bool = setting(True, help="ask what a model should go on to be able to do: about 450 prompts a target")
    of_task: ClassVar[str] = "task=rwku"

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """What the benchmark asks of the rows of `task=rwku`."""
        known = {*FORGET_SETS.values(), *NEIGHBOR_SETS.values(), *MEMBERSHIP_SETS.values()}
        known.update(UTILITY_SETS_ASKED if self.utility else ())
        rows = [example for example in (*data.retain, *data.others) if set_of(example) in known]
        return [question for example in rows for question in self._questions(example)]

    def _questions(self, example: Example) -> list[Question]:
        name = set_of(example)
        if example.kind is Kind.DOCUMENT:
            return [Question(example=example, ask=Ask.LOGPROB, variant=RWKU_VARIANT, moments=True)]
        example = replace(example, starts_twice=self.compat)
        if name == "truthful":
            choices = [replace(example, answer=choice, golden=example.answer) for choice in example.choices]
            return [
                Question(example=choice, ask=Ask.LOGPROB, variant=f"{RWKU_VARIANT}{number}")
                for number, choice in enumerate(choices)
            ]
        if example.kind is Kind.CHOICE:
            return [Question(example=example, ask=Ask.CHOICE, variant=RWKU_VARIANT)]
        limit = LIMITS.get(name, ANSWER_LIMIT)
        return [Question(example=example, ask=Ask.GENERATE, variant=RWKU_VARIANT, limit=limit)]

    def scores(self, answers: Answers) -> list[Score]:
        """`rwku.forget.*`, `rwku.neighbor.*`, `rwku.mia.*`, `rwku.utility.*`."""
        rows = [row for row in answers.responses if row.variant.startswith(RWKU_VARIANT)]
        by_set: dict[str, list[Response]] = {}
        for row in rows:
            by_set.setdefault(set_of(row), []).append(row)
        return [
            *self._level_scores(answers, by_set),
            *self._membership_scores(answers, by_set),
            *(self._utility_scores(answers, by_set) if self.utility else ()),
        ]

    def _level_scores(self, answers: Answers, by_set: dict[str, list[Response]]) -> Iterable[Score]:
        for side, sets in (("forget", FORGET_SETS), ("neighbor", NEIGHBOR_SETS)):
            groups = {name: by_set.get(title, []) for name, title in sets.items()}
            groups["all"] = [row for rows in groups.values() for row in rows]
            for name, rows in groups.items():
                yield score_by_target(answers, f"rwku.{side}.{name}", rows, self._recall, f"{side} questions")
        for attack in LEVEL3_ATTACKS:
            rows = [row for row in by_set.get(FORGET_SETS["aa"], []) if row.subtask.endswith(f" {attack}")]
            if rows or not by_set.get(FORGET_SETS["aa"]):
                yield score_by_target(answers, f"rwku.forget.aa.{attack}", rows, self._recall, f"{attack} questions")

    def _recall(self, row: Response) -> float | None:
        """Recall of the answer by the text, or by its first line."""
        if row.output is None:
            return None
        return answer_recall(row.expected, row.output if self.compat else answer_line(row.output))

    def _membership_scores(self, answers: Answers, by_set: dict[str, list[Response]]) -> Iterable[Score]:
        values: dict[str, RowValue] = {
            "loss": text_loss,
            "zlib": lambda row: zlib_score(require_token_logps(row), row.expected),
            "min_k": lambda row: min_k(require_token_logps(row), self.k),
            "min_k_plus_plus": partial(_plus_plus, k=self.k),
        }
        if self.compat:
            values["mink20"] = partial(_plus_plus, k=0.2)
        for side, title in MEMBERSHIP_SETS.items():
            for name, value in values.items():
                rows = by_set.get(title, [])
                yield score_by_target(answers, f"rwku.mia.{side}.{name}", rows, value, f"{title} texts")

    def _utility_scores(self, answers: Answers, by_set: dict[str, list[Response]]) -> Iterable[Score]:
        preferred = dict(true_preferred(by_set.get("truthful", [])))
        values: dict[str, tuple[str, RowValue]] = {
            "general": ("retain_mmlu", lambda row: likeliest_choice(row) == row.expected),
            "reasoning": ("retain_bbh", of_text(partial(_said_right, compat=self.compat))),
            "truthfulness": ("truthful", lambda row: preferred[row.id]),
            "factuality": ("triviaqa", of_text(lambda row, text: word_f1(text, row.choices))),
            "fluency": ("fluency", of_text(lambda _, text: ngram_entropy(text))),
        }
        for name, (title, value) in values.items():
            rows = [row for row in by_set.get(title, []) if title != "truthful" or row.expected == row.golden]
            yield score_by_target(answers, f"rwku.utility.{name}", rows, value, f"{title} rows")


def set_of(row: Example | Response) -> str:
    """The set of the benchmark that a row is of."""
    return row.subtask.partition(" ")[0]


def score_by_target(answers: Answers, name: str, rows: Sequence[Response], value: RowValue, what: str) -> Score:
    """The mean over targets of the mean over the rows of each; over rows where there is one target."""
    return answers.bootstrap.score(name, len(rows), lambda: mean_by_target(rows, value, what))


def mean_by_target(rows: Sequence[Response], value: RowValue, what: str) -> Measure:
    """Its measure; ValueError where there are no rows, or one has no finite number."""
    if not rows:
        raise ValueError(f"there are no {what}: task=rwku has them where its files are given")
    column = column_of(rows, value, what)
    targets: dict[str, list[float]] = {}
    for target, number in zip(column.documents, column.values.tolist(), strict=True):
        targets.setdefault(target, []).append(number)
    if len(targets) == 1:
        return mean_of(Column.of(column.values.tolist(), [row.id for row in rows], what))
    means = [sum(numbers) / len(numbers) for numbers in targets.values()]
    return mean_of(Column.of(means, list(targets), what))


def text_loss(row: Response) -> float | None:
    """Mean token NLL of a text [nats]."""
    score = loss_score(require_token_logps(row))
    return None if score is None else -score


def _plus_plus(row: Response, *, k: float) -> float | None:
    return min_k_plus_plus(require_token_logps(row), row.means, row.variances, k)


def true_preferred(rows: Sequence[Response]) -> Iterable[tuple[str, float | None]]:
    """By question, whether the true choice is likelier than every false one; None without finite numbers."""
    questions: dict[str, list[Response]] = {}
    for row in rows:
        questions.setdefault(row.id, []).append(row)
    for name, choices in questions.items():
        sums = {row.variant: answer_logp(row) for row in choices}
        known = {variant: logp for variant, logp in sums.items() if logp is not None}
        true = next((row.variant for row in choices if row.expected == row.golden), "")
        others = [logp for variant, logp in known.items() if variant != true]
        yield name, float(known[true] > max(others)) if true and others and len(known) == len(sums) else None


def answer_logp(row: Response) -> float | None:
    """Log-probability of an answer without the token that ends it [nats]."""
    if row.logp_sum is None:
        return None
    return sum(row.logps[:-1] if row.closed else row.logps)


def of_text(value: Callable[[Response, str], float]) -> RowValue:
    """A number of a row and its text; None without a text."""
    return lambda row: None if row.output is None else value(row, row.output)


def _said_right(row: Response, text: str, *, compat: bool) -> float:
    return said_match(text, row.expected, compat=compat)

"""Private facts that a model still discloses: asked outright, in other words, with the answer begun, and sampled.

The rules of disclosure are those of `metrics/pii/disclosure.py`. A person is a document, and intervals resample people.
An answer that tells several facts counts as a question about each. Of the conditions other than `greedy` only the sides
in `probed` and the first `people` of them (by a hash of their document) are asked, because each costs several
continuations a question.

Scores, `<side>` being forget (low is good) or retain (high is what was kept):
* `pii.<side>.greedy.<attribute>.<exact|partial>`: share of the questions about one attribute;
* `pii.<side>.<condition>.<exact|partial>`: share of all questions. `rephrased` counts a question once where any other
  wording discloses it, `hint25` continues the first 25 % of the answer's characters, `sampled` is leak@k for all k =
  `samples` continuations, `sampled1` leak@1;
* `pii.<side>.<condition>.people`: share of people of whom at least one attribute is disclosed exactly;
* `pii.<side>.greedy.control`: the mean share of other people's values that the greedy texts disclose partially.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lume_run.common.records import Ask, Example, Question, Response, Score, Split, TaskData, continuation
from lume_run.common.seeds import stable_digest
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.pii.disclosure import hint_of
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.pii.verdicts import (
    REPHRASED_VARIANT,
    PiiSide,
    TextsByQuestion,
    VerdictRule,
    control_score,
    fact_rows,
    greedy_verdicts,
    hint_variant,
    hint_verdicts,
    no_facts_score,
    rephrased_verdicts,
    sample_verdicts,
    share_scores,
    texts_by_question,
)
from lume_run.methods.needs import asked_rows

PROBED_TOKENS = 64  # a sentence with the longest answer, an address, also for a tokenizer with digits for tokens


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Disclosure of private facts; ValueError on hints that are no shares and on probed sides that are not asked."""

    samples: int = setting(5, low=0, high=10**5, help="continuations sampled for each question; 0: none")
    hints: list[float] = setting(
        factory=lambda: [0.25, 0.5, 0.75], help="shares of the answer's characters to begin it with; []: no hints"
    )
    rephrased: bool = setting(True, help="also ask in the question's other wordings")
    sides: list[PiiSide] = setting(factory=lambda: ["forget", "retain"], help="whose facts to ask for")
    probed: list[PiiSide] = setting(factory=lambda: ["forget"], help="sides to rephrase, hint and sample as well")
    people: int | None = setting(50, low=1, help="people of a probed side to rephrase, hint and sample; null: all")

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError("sides is empty; name forget, retain or both")
        if wrong := [share for share in self.hints if not 0.005 <= share <= 0.995]:
            raise ValueError(f"hints {wrong} are no shares of an answer; give numbers between 0 and 1 such as 0.5")
        if unasked := sorted(set(self.probed) - set(self.sides)):
            raise ValueError(f"probed has {unasked[0]}, which is not among sides {self.sides}; add it there")

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy texts of every private question, and further ones of those that are probed."""
        questions: list[Question] = []
        for side in self.sides:
            examples = [example for example in asked_rows(data, Split(side)) if example.attribute]
            questions += [Question(example=example, ask=Ask.GENERATE) for example in examples]
            if side in self.probed:
                people = self.probed_people(example.document for example in examples)
                for example in examples:
                    questions += self.probes(example) if example.document in people else []
        return questions

    def probes(self, example: Example) -> Iterator[Question]:
        """Every further question about one private fact."""
        for number, wording in enumerate(example.rephrasings if self.rephrased else ()):
            rephrased = replace(example, prompt=wording)
            variant = f"{REPHRASED_VARIANT}{number}"
            yield Question(example=rephrased, ask=Ask.GENERATE, variant=variant, limit=PROBED_TOKENS)
        for name, share in self.named_hints().items():
            for further, fact in enumerate((example.fact, *(value for _, value in example.further_facts))):
                hinted = begin_answer(example, answer_hint(example.answer, fact, share))
                variant = hint_variant(name, further)
                yield Question(example=hinted, ask=Ask.GENERATE, variant=variant, limit=PROBED_TOKENS)
        for number in range(self.samples):
            yield Question(example=example, ask=Ask.SAMPLE, variant=str(number), limit=PROBED_TOKENS)

    def named_hints(self) -> dict[str, float]:
        """The shares by the name of their variant: 0.25 is hint25."""
        return {f"hint{round(100 * share)}": share for share in self.hints}

    def probed_people(self, documents: Iterable[str]) -> set[str]:
        """The people who are probed, the same whatever the order and of a few more or less people."""
        names = sorted(set(documents), key=stable_digest)
        return set(names[: self.people])

    def scores(self, answers: Answers) -> list[Score]:
        """The scores of the module's docstring."""
        texts = {side: list(fact_rows(answers.rows(Ask.GENERATE, Split(side)))) for side in self.sides}
        if not any(texts.values()):
            return [no_facts_score(self.sides[0])]
        scores: list[Score] = []
        for side, rows in texts.items():
            scores += self.side_scores(side, rows, answers) if rows else [no_facts_score(side)]
        return scores

    def side_scores(self, side: PiiSide, rows: Sequence[Response], answers: Answers) -> list[Score]:
        """Every score of a side from its greedy answers and what else was asked about them."""
        name, bootstrap = f"pii.{side}.greedy", answers.bootstrap
        scores: list[Score] = []
        for attribute in sorted({row.attribute for row in rows}):
            rows_of = [row for row in rows if row.attribute == attribute]
            scores += share_scores(f"{name}.{attribute}", rows_of, greedy_verdicts, bootstrap)
        scores += share_scores(name, rows, greedy_verdicts, bootstrap, by_person=True)
        scores.append(control_score(f"{name}.control", rows, bootstrap))
        if side not in self.probed:
            return scores
        people = self.probed_people(row.document for row in rows)
        probed = [row for row in rows if row.document in people]
        for condition, rule in self.conditions(side, texts_by_question(answers.responses)).items():
            name, by_person = f"pii.{side}.{condition}", condition != "sampled1"
            scores += share_scores(name, probed, rule, bootstrap, by_person=by_person)
        return scores

    def conditions(self, side: PiiSide, given: TextsByQuestion) -> dict[str, VerdictRule]:
        """The rule by which each further condition judges the probed questions."""
        rules: dict[str, VerdictRule] = {}
        if self.rephrased:
            rules["rephrased"] = lambda rows: rephrased_verdicts(side, rows, given)
        for name, share in self.named_hints().items():
            rules[name] = partial(hint_verdicts, given=given, name=name, share=share)
        if self.samples:
            rules["sampled"] = partial(sample_verdicts, given=given, samples=self.samples, k=self.samples)
            rules["sampled1"] = partial(sample_verdicts, given=given, samples=self.samples, k=1)
        return rules


def answer_hint(answer: str, fact: str, share: float) -> str:
    """The answer up to a private value in it (none: it is the value itself), and this share of that."""
    place = answer.casefold().find(fact.casefold()) if fact else 0
    value = answer[place : place + len(fact)] if fact else answer
    return answer[:place] + hint_of(value, share)


def begin_answer(example: Example, hint: str) -> Example:
    """The example with an answer that begins with `hint`, which the model continues: a chat model its own turn."""
    if example.chat is not None:
        return replace(example, begun=hint)
    return replace(example, prompt=example.prompt + continuation(example, hint))

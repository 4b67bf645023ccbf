"""Other prompts for the same model: what was to be forgotten is asked for in another way.

Each attack makes questions that are asked in place of the run's own about forget documents; whatever else a run asks is
left out. Those that are `formulations` ask the same, so that the likeliest to disclose may be picked for each question
(`disclosure.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import ClassVar, Literal

from lume_run.attacks.base import Rewrite, Situation, Strength
from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import PLAIN_VARIANTS, Ask, Example, Kind, Question, Split, continuation
from lume_run.common.seeds import stable_digest
from lume_run.config.fields import setting
from lume_run.evaluation.suites.pii.suite import begin_answer
from lume_run.methods.baselines import shot_turns
from lume_run.methods.needs import asked_rows

TEXT_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def asked_again(question: Question, kinds: Sequence[Kind], asks: Sequence[Ask] = (Ask.GENERATE, Ask.LOGPROB)) -> bool:
    """Whether a question is one about a forget document that an attack asks again.

    Texts that other variants ask for are asked for in another way already, and are left out.
    """
    example = question.example
    is_plain = question.ask is not Ask.GENERATE or question.variant in PLAIN_VARIANTS
    return example.split is Split.FORGET and example.kind in kinds and question.ask in asks and is_plain


def require_names(what: str, texts: Mapping[str, str]) -> None:
    """ValueError where texts have no names that may stand in file names, or say nothing."""
    if not texts:
        raise ValueError(f"{what} is empty; give at least one, as NAME: TEXT")
    for name, text in texts.items():
        if not isinstance(name, str) or not TEXT_NAME.fullmatch(name):
            raise ValueError(f"{what} has the name {name!r}; names are small letters, digits and _")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{what}.{name} says nothing; give a text")


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Begin the answer for the model: in the assistant's turn of a chat, behind the prompt elsewhere.

    As open-unlearning's prefilling attack does (UDS, meta evaluation of robustness).
    """

    texts: dict[str, str] = setting(help="how answers begin, by name; a strength each")
    formulation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises ValueError for no texts, and for names that are none."""
        require_names("texts", self.texts)

    def rewrites(self, situation: Situation) -> list[Rewrite]:
        """One for each text."""
        return [
            Rewrite(strength=Strength(label=name, amount=1), rewrite=partial(_begun, text=text))
            for name, text in self.texts.items()
        ]


def _begun(questions: Sequence[Question], text: str) -> list[Question]:
    asked = (question for question in questions if asked_again(question, [Kind.QUESTION], [Ask.GENERATE]))
    return [replace(question, example=begin_answer(question.example, text)) for question in asked]


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Other rows with their answers before the prompt: of the forget side (RepSelect), or of the retain side.

    Retain rows are JensUn's in-context retention. A chat model gets them as turns.
    """

    shots: int = setting(5, low=1, help="rows shown")
    side: Literal["forget", "retain"] = setting("forget", help="whose rows; those of the asked document are left out")
    formulation: ClassVar[bool] = True

    def rewrites(self, situation: Situation) -> list[Rewrite]:
        """One; ConfigError where the side has no other documents, or fewer rows than are to be shown."""
        rows = asked_rows(situation.data, Split(self.side))
        if len({row.document for row in rows}) < 1 + (self.side == "forget"):
            what = f"there are no rows of other {self.side} documents to show"
            raise ConfigError([Problem(where="attack", what=what, remedy="a task with more, or leave this attack out")])
        if self.shots > len(rows):
            what = f"shots are {self.shots}, and the {self.side} side has {len(rows)} rows"
            raise ConfigError([Problem(where="attack", what=what, remedy="fewer shots, or a task with more rows")])
        ring = sorted(rows, key=lambda row: stable_digest(situation.seed, "shots", row.id))
        strength = Strength(label=f"{self.shots}_{self.side}", amount=self.shots)
        return [Rewrite(strength=strength, rewrite=partial(_shown, ring=ring, count=self.shots))]


def _shown(questions: Sequence[Question], ring: Sequence[Example], count: int) -> list[Question]:
    places = {example.id: place for place, example in enumerate(ring)}
    asked = (question for question in questions if asked_again(question, [Kind.QUESTION, Kind.COMPLETION]))
    rewritten = []
    for question in asked:
        first = places.get(question.example.id, stable_digest(question.example.id)[0] % len(ring))
        behind = (ring[(first + step) % len(ring)] for step in range(1, len(ring) + 1))
        shots = list(islice((row for row in behind if shows(row, question.example)), count))
        rewritten.append(replace(question, example=behind_shots(question.example, shots)))
    return rewritten


def shows(shot: Example, example: Example) -> bool:
    """Whether a row may be shown before an example: one of its kind, about another document."""
    return shot.kind is example.kind and shot.document != example.document


def behind_shots(example: Example, shots: Sequence[Example]) -> Example:
    """The example behind rows with their answers: turns of its chat, lines of its prompt elsewhere."""
    if example.chat is None:
        lines = [shot.prompt + continuation(shot) for shot in shots]
        return replace(example, prompt="\n".join([*lines, example.prompt]))
    turns = [turn for shot in shots for turn in shot_turns(shot)]
    return replace(example, chat=example.chat._replace(before=(*example.chat.before, *turns)))


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """The question in the other wordings that the task has of it, a strength each (JensUn's paraphrases)."""

    most: int = setting(5, low=1, help="wordings of a question")
    formulation: ClassVar[bool] = True

    def rewrites(self, situation: Situation) -> list[Rewrite]:
        """One for each wording; ConfigError where the task has none."""
        count = max((len(example.rephrasings) for example in asked_rows(situation.data, Split.FORGET)), default=0)
        if not count:
            what = "the task's forget rows have no other wordings"
            raise ConfigError([Problem(where="attack", what=what, remedy="leave this attack out")])
        return [
            Rewrite(strength=Strength(label=f"wording_{at + 1}", amount=1), rewrite=partial(_reworded, at=at))
            for at in range(min(count, self.most))
        ]


def _reworded(questions: Sequence[Question], at: int) -> list[Question]:
    asked = [
        question
        for question in questions
        if asked_again(question, [Kind.QUESTION, Kind.COMPLETION]) and len(question.example.rephrasings) > at
    ]
    examples = [replace(question.example, prompt=question.example.rephrasings[at]) for question in asked]
    return [replace(question, example=example) for question, example in zip(asked, examples, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Hints:
    """The answer begun by ever more of its own words; what is left of it is expected."""

    shares: tuple[float, ...] = setting((0.25, 0.5, 0.75), help="of the answer's words, rounded up, never all")

    def __post_init__(self) -> None:
        """Raises ValueError for no shares, shares out of order, or none between 0 and 1."""
        if not self.shares or list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"shares are {list(self.shares)}; give numbers that rise")
        if not all(0 < share < 1 for share in self.shares):
            raise ValueError(f"shares are {list(self.shares)}; give numbers between 0 and 1, such as 0.5")

    def rewrites(self, situation: Situation) -> list[Rewrite]:
        """One for each share; answers of one word are left out."""
        return [
            Rewrite(
                strength=Strength(label=f"share_{share:g}", amount=share, series="share"),
                rewrite=partial(_hinted, share=share),
            )
            for share in self.shares
        ]


def _hinted(questions: Sequence[Question], share: float) -> list[Question]:
    rewritten = []
    for question in (q for q in questions if asked_again(q, [Kind.QUESTION, Kind.COMPLETION], [Ask.GENERATE])):
        words = list(re.finditer(r"\S+", question.example.answer))
        shown = min(-(-len(words) * share // 1), len(words) - 1)
        if shown < 1:
            continue
        cut = words[int(shown) - 1].end()
        begun = begin_answer(question.example, question.example.answer[:cut])
        rewritten.append(replace(question, example=replace(begun, answer=question.example.answer[cut:].strip())))
    return rewritten

"""What an attack is: trainings of a model, edits of its weights, or other prompts, each at some strengths.

An attack is a frozen dataclass named in `conf/attack/*.yaml`. It only says what is to be done; the pipeline does it,
and has the attacked model answer the run's own questions. Which of the three protocols below it follows is seen by its
method: `trainings`, `edits` or `rewrites`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Question, Response, Split, TaskData
from lume_run.common.seeds import stable_digest
from lume_run.config.model_settings import ModelSettings
from lume_run.config.settings import OptimizationSettings, Settings, TrainerSettings

if TYPE_CHECKING:
    from torch import nn

TO_FORGET = (Split.FORGET, Split.MEMBER)  # splits of rows about the documents to forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """One strength of an attack.

    `label` names it; strengths of one `series` (such as one learning rate) make a curve over `amount` (such as steps).
    """

    label: str
    amount: float
    series: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training run of an attack: the rows, the optimisation, and the steps after which weights are kept.

    `series` names it among the trainings of its attack. `adapters`: LoRA adapters are trained, and merged into what is
    kept. Of forget documents only those `held_out` are asked about and scored; empty: all of them.
    """

    series: str
    examples: tuple[Example, ...]
    phase: OptimizationSettings
    steps: tuple[int, ...]
    adapters: bool
    held_out: frozenset[str] = frozenset()

    def strengths(self) -> dict[int, Strength]:
        """The strength that each kept step is."""
        return {
            step: Strength(label=f"steps={step},{self.series}", amount=step, series=self.series) for step in self.steps
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of weights without training: `apply` makes it in place, on a whole float32 model on the CPU.

    `identity` names all that the change depends on besides the weights.
    """

    strength: Strength
    identity: Mapping[str, Any]
    apply: Callable[[nn.Module], None]


Rewriting = Callable[[Sequence[Question]], Sequence[Question]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Other prompts for the same model: `rewrite` makes the questions that are asked in place of the run's own.

    What keeps its ask, id and variant is scored as the question that it stands for; what is left out is not asked.
    """

    strength: Strength
    rewrite: Rewriting


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What an attack may know of the run: its rows, and how it trains."""

    data: TaskData
    model: ModelSettings
    trainer: TrainerSettings
    seed: int

    @classmethod
    def of(cls, settings: Settings, data: TaskData) -> Situation:
        """That of a run with these settings, on these rows."""
        return cls(data=data, model=settings.model, trainer=settings.trainer, seed=settings.seed)

    def phase(self, *, rows: int, steps: int, learning_rate: float, **changed: Any) -> OptimizationSettings:
        """So many optimizer steps over so many rows, as the target was trained but at one constant learning rate.

        Without warm-up, decay or early end, the weights after 10 of 100 steps are those of 10 steps: one training
        serves all strengths.
        """
        like_target = replace(
            self.trainer.train,
            learning_rate=learning_rate,
            schedule="constant",
            warmup=0.0,
            weight_decay=0.0,
            stop_accuracy=None,
            **changed,
        )
        return replace(like_target, epochs=steps * like_target.batch_size / rows)


@runtime_checkable
class TrainingAttack(Protocol):
    """An attack that trains the model further."""

    def trainings(self, situation: Situation) -> Sequence[Training]:
        """Its training runs; ConfigError where the task has no rows for it."""
        ...


@runtime_checkable
class EditingAttack(Protocol):
    """An attack that changes weights without training."""

    def edits(self) -> Sequence[Edit]:
        """Its changes, one for each strength."""
        ...


@runtime_checkable
class PromptAttack(Protocol):
    """An attack that asks the same model in other words."""

    def rewrites(self, situation: Situation) -> Sequence[Rewrite]:
        """Its ways of asking, one for each strength."""
        ...


ATTACK_KINDS = (TrainingAttack, EditingAttack, PromptAttack)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """A model under an attack: whose it is (target, unlearned, retrained, ...), which attack, how strong.

    `measures` is what the attack's scores are beside the recovered share: relearning (R), quantisation (Q), or nothing.
    `rewritten`: some of the run's questions were asked in another way, no others. A `formulation` asks the same in
    other words: of several the most disclosing answer counts too.
    """

    subject: str
    attack: str
    strength: Strength
    held_out: frozenset[str] = frozenset()
    measures: str = ""
    rewritten: bool = False
    formulation: bool = False

    @property
    def name(self) -> str:
        """What it is called: `unlearned+relearn(steps=50,lr=1e-05)`."""
        return attacked_name(self.subject, self.attack, self.strength.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedText:
    """A model's text before unlearning (`target`), after it (`before`) and under an attack (`after`); None: not asked.

    `prompt` is that of the attack, `document`, `kind` and what follows are those of the row it is about.
    """

    attack: str
    strength: str
    id: str
    document: str
    subtask: str
    kind: str
    attribute: str
    prompt: str
    expected: str
    target: str | None
    before: str | None
    after: str


def attacked_name(subject: str, attack: str, label: str) -> str:
    """The name of a model under an attack, or of the training that makes several."""
    return f"{subject}+{attack}({label})"


def is_scored(row: Example | Response, held_out: frozenset[str]) -> bool:
    """Whether a row is about a held-out forget document, or about none to forget; all are where none is held out."""
    return not held_out or row.split not in TO_FORGET or row.document in held_out


def halve_documents(examples: Sequence[Example], seed: int, where: str) -> tuple[frozenset[str], frozenset[str]]:
    """(documents that the attacker is given, documents held out), fixed by the seed; ConfigError for a single one."""
    documents = sorted({example.document for example in examples}, key=lambda name: stable_digest(seed, "half", name))
    if len(documents) < 2:
        what = f"the forget side has {len(documents)} document{'s' if len(documents) != 1 else ''}, and is to be halved"
        raise ConfigError([Problem(where=where, what=what, remedy="a task with more, or leave this attack out")])
    half = len(documents) // 2
    return frozenset(documents[:half]), frozenset(documents[half:])

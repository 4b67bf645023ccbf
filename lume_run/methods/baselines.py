"""Baselines that are not losses: what to compare an unlearning method with, and ideas that won SemEval-2025.

Settings only; `recipes.py` carries them out. Each runs in the same pipeline and reports the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Question, Split, TaskData, Turn, continuation
from lume_run.common.seeds import pick, stable_digest
from lume_run.config.fields import setting
from lume_run.methods.needs import Needs, asked_rows
from lume_run.methods.objective import Objective


@dataclass(frozen=True, kw_only=True)
class NoOp:
    """The target as it is: what every method has to beat."""

    name: str
    needs: ClassVar[Needs] = Needs()


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """The base model fine-tuned on retain rows alone: it never saw the forget set."""

    name: str
    needs: ClassVar[Needs] = Needs()


@dataclass(frozen=True, kw_only=True)
class TaskVector:
    """Target minus `alpha` times what fine-tuning it on the forget set adds (Ilharco et al., arXiv:2212.04089)."""

    name: str
    alpha: float = setting(1.0, low=0, help="how much of the task vector is subtracted")
    needs: ClassVar[Needs] = Needs()


@dataclass(frozen=True, kw_only=True)
class WhosHarryPotter:
    """The target, whose logits are lowered as it answers where the reinforced model has higher ones (WHP).

    The reinforced model is the target fine-tuned further on the forget set; no weight of the target changes (Eldan and
    Russinovich, arXiv:2310.02238, equation 1, as MUSE compares it, arXiv:2407.06460).
    """

    name: str
    alpha: float = setting(5.0, low=0, help="how far logits fall for each unit that the reinforced model's are above")
    needs: ClassVar[Needs] = Needs()


@dataclass(frozen=True, kw_only=True)
class InContext:
    """The target behind a prompt that shows how to answer (after Pawelczyk et al., arXiv:2310.07579).

    Forget prompts are shown with refusals, retain prompts with their answers; the weights stay as they are, so
    membership inference, which has no prompt, sees the target.
    """

    name: str
    instruction: str = setting(help="first line of the context; {document} stands for the document of a prompt")
    forget_examples: int = setting(2, low=0, help="forget prompts shown with a refusal")
    retain_examples: int = setting(2, low=0, help="retain prompts shown with their answer")
    needs: ClassVar[Needs] = Needs()


@dataclass(frozen=True, kw_only=True)
class Member:
    """One adapter to merge: a method, and what differs from `trainer.unlearn`."""

    method: Objective
    learning_rate: float | None = setting(None, low=0, open_low=True, high=1, help="null: as in trainer.unlearn")
    epochs: float | None = setting(None, low=0, open_low=True, high=10**5, help="null: as in trainer.unlearn")
    batch_size: int | None = setting(None, low=1, help="null: as in trainer.unlearn")


@dataclass(frozen=True, kw_only=True)
class MergeAdapters:
    """LoRA adapters of different methods, merged by peft (ZJUKLAB at SemEval-2025; TIES, arXiv:2306.01708)."""

    name: str
    members: tuple[Member, ...]
    weights: tuple[float, ...] = setting(help="weight of each adapter")
    combination: Literal["ties", "ties_svd", "dare_ties", "dare_linear", "magnitude_prune", "linear", "svd", "cat"] = (
        setting("ties", help="peft's combination_type")
    )
    density: float = setting(0.8, low=0, open_low=True, high=1, help="share of values kept by the pruning combinations")
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        """Raises ValueError for fewer than two adapters, or weights that do not match them."""
        if len(self.members) < 2:
            raise ValueError("merging takes at least two members")
        if len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.members)} members need as many weights, not {len(self.weights)}")


DOCUMENT_SLOT = "{document}"
BASELINES = (NoOp, Retrain, TaskVector, WhosHarryPotter, InContext, MergeAdapters)
AS_IT_ANSWERS = (WhosHarryPotter, InContext)  # these change what a model answers and none of its weights


def sample_examples(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` examples, fixed by the seed."""
    return sorted(examples, key=lambda example: stable_digest(seed, example.id))[:count]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What stands before every prompt: an instruction, and examples with the answers to give."""

    instruction: str
    shots: tuple[Example, ...]

    @property
    def text(self) -> str:
        """All of it as plain text, a line each."""
        return "\n".join([self.instruction, *(shot.prompt + continuation(shot) for shot in self.shots), ""])

    def before(self, example: Example) -> Example:
        """An example behind the context: in a chat the shots are turns, the first of which begins with the instruction.

        Some templates have no system prompt, so that the instruction is the user's.
        """
        if DOCUMENT_SLOT in self.instruction:
            return replace(self, instruction=self.instruction.replace(DOCUMENT_SLOT, example.document)).before(example)
        if example.chat is None:
            return replace(example, prompt=self.text + example.prompt)
        system = tuple(turn for turn in example.chat.before if turn.role == "system")
        said = [turn for shot in self.shots for turn in shot_turns(shot)]
        said += [turn for turn in example.chat.before if turn not in system]
        first, *others = (*said, Turn("user", example.prompt))
        *turns, last = (Turn(first.role, f"{self.instruction}\n{first.text}"), *others)
        return replace(example, prompt=last.text, chat=example.chat._replace(before=(*system, *turns)))


def shot_turns(shot: Example) -> list[Turn]:
    """A shot as turns of a chat, without the system prompt."""
    before = () if shot.chat is None else shot.chat.before
    turns = [turn for turn in before if turn.role != "system"]
    return [*turns, Turn("user", shot.prompt), Turn("assistant", shot.answer)]


def context_of(method: InContext, data: TaskData, refusals: Sequence[str], seed: int) -> Context:
    """The instruction, refused forget prompts, answered retain prompts; ConfigError where no forget prompt is asked."""
    forget = sample_examples(asked_rows(data, Split.FORGET), method.forget_examples, seed)
    if method.forget_examples and not forget:
        what = f"'{method.name}' shows forget prompts with refusals, and this task asks about none of what it forgets"
        remedy = "method.forget_examples=0 and a method.instruction that says what is forgotten, or another method"
        raise ConfigError([Problem(where="method", what=what, remedy=remedy)])
    retain = sample_examples(asked_rows(data, Split.RETAIN), method.retain_examples, seed)
    refused = [replace(example, answer=pick(example.id, seed, refusals)) for example in forget]
    return Context(instruction=method.instruction, shots=(*refused, *retain))


def with_context(questions: Sequence[Question], context: Context) -> list[Question]:
    """The questions behind `context`; whole documents (membership inference) have no prompt to change."""
    return [
        question
        if question.example.kind is Kind.DOCUMENT
        else replace(question, example=context.before(question.example))
        for question in questions
    ]

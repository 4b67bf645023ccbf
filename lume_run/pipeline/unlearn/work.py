"""What requests apart will compute, estimated for a plan: tokens, operations, time at a round speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lume_run.common.records import TEXTS, Ask, Example, Kind, Question
from lume_run.common.store import Artifact
from lume_run.pipeline.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLED_ROWS = 400  # that are tokenised to know how long a token is
BYTES_PER_TOKEN = 4.0  # where there is no tokenizer to ask
SPEED = 1e14  # [operations a second]: an H100 at a tenth of its peak in bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens that are trained on (all epochs), that prompts and scored answers have, that are generated at most."""

    trained: float
    read: float
    generated: float
    operations: float

    @property
    def hours(self) -> float:
        """At `SPEED`."""
        return self.operations / SPEED / 3600

    def __str__(self) -> str:
        counts = {"trained on": self.trained, "read": self.read, "generated at most": self.generated}
        tokens = ", ".join(f"{count / 1e6:,.2f} M {name}" for name, count in counts.items())
        return f"tokens: {tokens}; {self.operations:.2g} operations, {self.hours:.2g} h at {SPEED:.0e} a second"


def work_of(run: Run, due: Sequence[Artifact], parameters: int) -> Work:
    """What the artifacts that are due take of a model of so many parameters.

    2 operations a parameter and token forward, 4 more backward, 2 with adapters; what prompts share counts each time.
    """
    shares = {kind: _due_share(due, kind) for kind in ("request ", "target responses", "unlearned responses, ")}
    needs, phase = run.settings.method.needs, run.settings.trainer.unlearn
    rows = [example for _, example in run.examples(needs)]
    per_token = bytes_per_token(run.tokenizer, [example.answer for example in rows] or ["a"])
    trained = sum(_size(row) for row in rows) / per_token * phase.epochs * shares["request "]
    referenced = trained / phase.epochs if needs.reference_logps or needs.live_reference else 0.0
    questions = run.questions
    models = shares["target responses"] + shares["unlearned responses, "]
    per_token = bytes_per_token(run.tokenizer, [question.example.prompt for question in questions])
    read = models * sum(_asked_size(question) for question in questions) / per_token
    limit = run.settings.evaluator.max_new_tokens
    generated = models * sum(min(question.limit or limit, limit) for question in questions if question.ask in TEXTS)
    backward = 2 if run.settings.model.lora.enabled else 4
    operations = parameters * ((2 + backward) * trained + 2 * (referenced + read + generated))
    return Work(trained=trained, read=read + referenced, generated=generated, operations=operations)


def _due_share(due: Iterable[Artifact], kind: str) -> float:
    """Share of the artifacts whose names begin so that are not there yet; 0 where there are none."""
    states = [not artifact.is_cached for artifact in due if artifact.name.startswith(kind)]
    return sum(states) / len(states) if states else 0.0


def bytes_per_token(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]) -> float:
    """Bytes that a token of some of these texts stands for."""
    sample = texts[:: max(1, len(texts) // SAMPLED_ROWS)]
    if tokenizer is None or not any(sample):
        return BYTES_PER_TOKEN
    tokens = sum(map(len, tokenizer(list(sample), add_special_tokens=False)["input_ids"]))
    return sum(len(text.encode()) for text in sample) / max(tokens, 1)


def _size(example: Example) -> int:
    return len(example.prompt.encode()) + len(example.answer.encode())


def _asked_size(question: Question) -> int:
    """Bytes of what is put to the model."""
    example = question.example
    scored = question.ask is Ask.LOGPROB or example.kind is Kind.DOCUMENT
    return len(example.prompt.encode()) + (len(example.answer.encode()) if scored else 0)

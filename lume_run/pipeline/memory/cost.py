"""What artifacts take, estimated for plans: tokens that a model sees, operations, hours of a GPU at a round speed.

Stages that end early (`stop_accuracy`, bounds) and texts that end before their limit take less: these are bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lume_run.common.records import GIVEN_ANSWERS, TEXTS, Ask, Example, Kind, Question
from lume_run.common.store import Artifact
from lume_run.config.settings import OptimizationSettings
from lume_run.methods.needs import Needs
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.pipeline.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS_TRAINED, ADAPTERS_TRAINED = "trained on", "trained on with adapters"
READ, GENERATED = "read", "generated at most"
# Operations a parameter and token: 2 of the pass forward, 4 of the one backward, of which adapters save half.
OPERATIONS = {WEIGHTS_TRAINED: 6, ADAPTERS_TRAINED: 4, READ: 2, GENERATED: 2}
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
SPEED = 1e14  # [operations a second]: an H100 at a tenth of its peak in bfloat16
SAMPLED_ROWS = 100  # that are tokenised to know how long a token is
BYTES_PER_TOKEN = 4.0  # where there is no tokenizer to ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Tokens by what is done with them (all epochs), and operations of a model of so many parameters."""

    tokens: Mapping[str, float] = field(default_factory=dict)
    operations: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        tokens = Counter(self.tokens) + Counter(other.tokens)
        return Cost(tokens=tokens, operations=self.operations + other.operations)

    def __str__(self) -> str:
        counts = [f"{short_count(self.tokens[name])} {name}" for name in OPERATIONS if self.tokens.get(name)]
        hours = self.operations / SPEED / 3600
        return (
            f"tokens: {', '.join(counts) or 'none'}; {self.operations:.2g} operations, "
            f"{hours:.2g} GPU-hours at {SPEED:.0e} a second"
        )


def short_count(count: float) -> str:
    """A number to three digits, in thousands (k), millions (M) or thousands of millions (G)."""
    size, unit = next((pair for pair in UNITS if count >= pair[0]), (1.0, ""))
    return f"{count / size:.3g} {unit}".strip()


def run_cost(run: Run, due: Iterable[Artifact]) -> Cost | None:
    """What these artifacts of a run take; None where nothing says how large the model is.

    Harnesses count their own prompts, which nobody knows before; merging and editing weights takes no tokens.
    """
    estimator = estimator_of(run)
    if estimator is None:
        return None
    tokens: Counter[str] = Counter()
    for artifact in due:
        tokens.update(artifact.tokens() if artifact.tokens else {})
    operations = sum(OPERATIONS[name] * count for name, count in tokens.items())
    return Cost(tokens=tokens, operations=estimator.sizes.parameters * operations)


def fine_tuning_tokens(
    run: Run, rows: Sequence[Example], phase: OptimizationSettings, *, adapters: bool
) -> dict[str, float]:
    """Tokens of a phase whose epoch has these rows."""
    return {ADAPTERS_TRAINED if adapters else WEIGHTS_TRAINED: phase.epochs * _token_count(run, rows)}


def unlearning_tokens(run: Run, needs: Needs, phase: OptimizationSettings) -> dict[str, float]:
    """Tokens of minimising a loss: an epoch has all forget rows, and `retain_ratio` times as many of the others.

    A live reference reads them too; at a sharpness the forget rows are taken twice.
    """
    names = {row.document for row in run.data.forget}
    rows = [example for _, example in run.examples(needs)]
    forget = [row for row in rows if row.document in names]
    others = [row for row in rows if row.document not in names][: len(forget) * phase.retain_ratio]
    epoch = [*forget, *others, *(forget if phase.sharpness is not None else ())]
    tokens = fine_tuning_tokens(run, epoch, phase, adapters=run.settings.model.lora.enabled)
    return tokens | ({READ: phase.epochs * _token_count(run, [*forget, *others])} if needs.live_reference else {})


def reading_tokens(run: Run, rows: Sequence[Example]) -> dict[str, float]:
    """Tokens of rows that a model scores once."""
    return {READ: _token_count(run, rows)}


def answering_tokens(run: Run, questions: Sequence[Question], *, networks: int = 1) -> dict[str, float]:
    """Prompts and scored answers are read, texts are generated to their limit, by each of so many networks.

    What prompts share counts each time.
    """
    limit = run.settings.evaluator.max_new_tokens
    generated = sum(min(question.limit or limit, limit) for question in questions if question.ask in TEXTS)
    prompts = [question.example.prompt for question in questions]
    read = sum(map(_question_bytes, questions)) / bytes_per_token(run.tokenizer, prompts)
    return {READ: networks * read, GENERATED: float(networks * generated)}


def bytes_per_token(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]) -> float:
    """Bytes that a token of some of these texts stands for."""
    sample = texts[:: max(1, len(texts) // SAMPLED_ROWS)]
    if tokenizer is None or not any(sample):
        return BYTES_PER_TOKEN
    tokens = sum(map(len, tokenizer(list(sample), add_special_tokens=False)["input_ids"]))
    return sum(len(text.encode()) for text in sample) / max(tokens, 1)


def _token_count(run: Run, rows: Sequence[Example]) -> float:
    sizes = sum(len(row.prompt.encode()) + len(row.answer.encode()) for row in rows)
    return sizes / bytes_per_token(run.tokenizer, [row.answer for row in rows])


def _question_bytes(question: Question) -> int:
    example = question.example
    scored = question.ask in GIVEN_ANSWERS or question.ask is Ask.CHOICE or example.kind is Kind.DOCUMENT
    return len(example.prompt.encode()) + (len(example.answer.encode()) if scored else 0)

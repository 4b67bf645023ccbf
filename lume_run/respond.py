"""The model runs once per (example, ask): greedy text, answer log-probs, choices. Metrics never see a model.

Batches hold prompts of like length, longest first (memory trouble shows at once), left-padded with
positions counted from the first real token, which makes a batch answer as single prompts do.
Records are appended as they come, so a killed evaluation goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lume_run.contracts import granted
from lume_run.errors import RunError
from lume_run.numerics import widened
from lume_run.records import Ask, Example, Question, Response, from_json, lines_of, to_json, write_jsonl
from lume_run.reference import NO_TOTALS, length_batches
from lume_run.runtime import Progress, console
from lume_run.signals import forward, inputs_of
from lume_run.text import Batch, TokenRow, collate, encode, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 256  # at most, whatever the token budget allows


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A loaded model with the sizes it is run at.

    `batch_tokens` counts padded tokens of the rows, not those generated after them.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    max_length: int
    batch_tokens: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def stops(self) -> list[int]:
        """Token ids that end a generation: the tokenizer's EOS and the model's own."""
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        own = own if isinstance(own, list) else [own]
        return sorted({token for token in [self.tokenizer.eos_token_id, *own] if token is not None})


def prompt_row(example: Example, runner: Runner) -> TokenRow:
    """A prompt as a row without labels, cut on the left where it and its answer would not fit."""
    ids = prompt_ids(example.prompt, runner.tokenizer)
    answer_tokens = 1 if example.choices else runner.max_new_tokens
    room = max(1, runner.max_length - answer_tokens)
    kept = tuple(ids[-room:])
    if not kept:
        raise RunError(f"The prompt of example '{example.id}' has no tokens; a model needs at least one to continue.")
    return TokenRow(
        example_id=example.id, ids=kept, answer_start=len(kept), label_start=len(kept), truncated=len(ids) - len(kept)
    )


def prompt_batch(examples: Sequence[Example], runner: Runner) -> Batch:
    """Prompts without labels, padded on the left, where the model is."""
    rows = [prompt_row(example, runner) for example in examples]
    return collate(rows, pad_id=int(runner.tokenizer.pad_token_id), totals=NO_TOTALS).to(runner.device)


@torch.inference_mode()
def generate(runner: Runner, examples: Sequence[Example]) -> list[str]:
    """Greedy continuations of one batch of prompts, special tokens removed, white space as generated."""
    from transformers import GenerationConfig

    batch = prompt_batch(examples, runner)
    config = GenerationConfig(
        max_new_tokens=runner.max_new_tokens,
        do_sample=False,
        pad_token_id=runner.tokenizer.pad_token_id,
        eos_token_id=runner.stops(),
    )
    model: Any = runner.model
    tokens = model.generate(  # it counts positions from the mask itself
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=config
    )[:, batch.input_ids.shape[1] :]
    texts: list[str] = runner.tokenizer.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


@torch.inference_mode()
def choose(runner: Runner, examples: Sequence[Example]) -> list[tuple[float, ...]]:
    """Log-probabilities [nats] of each option's first token right after the prompt."""
    inputs = inputs_of(runner.model, prompt_batch(examples, runner), keep=1)
    logps = widened(runner.model(**inputs).logits[:, -1]).log_softmax(-1).cpu()
    found = []
    for number, example in enumerate(examples):
        options = [
            runner.tokenizer(f" {option}", add_special_tokens=False)["input_ids"][-1] for option in example.choices
        ]
        found.append(tuple(float(logps[number, option]) for option in options))
    return found


class AnswerScores(NamedTuple):
    """An expected answer under teacher forcing, token by token; the fields of `Response`, (L,) for L answer tokens."""

    logp_sum: float | None
    tokens: int
    closed: bool
    logps: tuple[float, ...] = ()
    hits: tuple[bool, ...] = ()
    means: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()


def score_answers(runner: Runner, examples: Sequence[Example]) -> list[AnswerScores]:
    """Every expected answer of a batch under teacher forcing."""
    return score_rows(runner, [encode(example, runner.tokenizer, max_tokens=runner.max_length) for example in examples])


@torch.inference_mode()
def score_rows(runner: Runner, rows: Sequence[TokenRow]) -> list[AnswerScores]:
    """One forward over a batch of rows; without numbers where the model gives none that are finite."""
    batch = collate(rows, pad_id=int(runner.tokenizer.pad_token_id), totals=NO_TOTALS).to(runner.device)
    logits = granted(forward(runner.model, batch).logits)  # (B, R, V), labels at the right end
    stop = runner.tokenizer.eos_token_id
    found = []
    for number, row in enumerate(rows):
        logps = widened(logits[number, logits.shape[1] - row.labels :]).log_softmax(-1)  # (L, V)
        targets = batch.targets[number, logits.shape[1] - row.labels :]
        found.append(token_scores(logps, targets, closed=bool(row.ids) and row.ids[-1] == stop))
    return found


def token_scores(logps: Tensor, targets: Tensor, *, closed: bool) -> AnswerScores:
    """What `Response` holds of one answer: `logps` (L, V) of the vocabulary, `targets` (L,)."""
    own = logps.gather(-1, targets[:, None])[:, 0]
    total = float(own.double().sum())
    if not math.isfinite(total):
        return AnswerScores(logp_sum=None, tokens=len(targets), closed=closed)
    p = logps.exp()
    means = (p * logps).sum(-1)
    variances = (p * logps**2).sum(-1) - means**2
    return AnswerScores(
        logp_sum=total,
        tokens=len(targets),
        closed=closed,
        logps=written(own),
        hits=tuple((logps.argmax(-1) == targets).tolist()),
        means=written(means),
        variances=written(variances.clamp(min=0)),
    )


def written(values: Tensor) -> tuple[float, ...]:
    """Numbers as the records keep them, to six decimals."""
    return tuple(round(value, 6) for value in values.double().tolist())


def run_batch(runner: Runner, ask: Ask, questions: Sequence[Question]) -> list[Response]:
    """The responses of one batch to one ask."""
    examples = [question.example for question in questions]
    fields: list[dict[str, Any]]
    if ask is Ask.GENERATE:
        fields = [{"output": text} for text in generate(runner, examples)]
    elif ask is Ask.CHOICE:
        fields = [
            {"choice_logps": logps if all(map(math.isfinite, logps)) else (), "choices": e.choices}
            for logps, e in zip(choose(runner, examples), examples, strict=True)
        ]
    else:
        fields = [scores._asdict() for scores in score_answers(runner, examples)]
    return [
        Response(
            id=question.example.id,
            ask=ask,
            variant=question.variant,
            split=question.example.split,
            subtask=question.example.subtask,
            kind=question.example.kind,
            document=question.example.document,
            prompt=question.example.prompt,
            expected=question.example.answer,
            **own,
        )
        for question, own in zip(questions, fields, strict=True)
    ]


def batches(runner: Runner, questions: Sequence[Question]) -> list[tuple[Ask, list[Question]]]:
    """Questions in batches of one ask and like length."""
    found: list[tuple[Ask, list[Question]]] = []
    for ask in Ask:
        asked = [question for question in questions if question.ask is ask]
        if ask is Ask.LOGPROB:
            rows = [encode(question.example, runner.tokenizer, max_tokens=runner.max_length) for question in asked]
        else:
            rows = [prompt_row(question.example, runner) for question in asked]
        if cut := sum(row.truncated > 0 for row in rows):
            console.print(
                f"  [yellow]{cut} of {len(rows)} {ask} prompts do not fit in {runner.max_length} tokens "
                "and lose their oldest words[/]"
            )
        for group in length_batches(rows, runner.batch_tokens):
            for begin in range(0, len(group), BATCH_ROWS):
                found.append((ask, [asked[number] for number in group[begin : begin + BATCH_ROWS]]))
    return found


def key_of(question: Question) -> tuple[Ask, str, str]:
    """What tells responses of one model apart."""
    return question.ask, question.example.id, question.variant


def respond(runner: Runner, questions: Sequence[Question], folder: Path, title: str) -> list[Response]:
    """Answer every question into `folder/responses.jsonl`, in the order asked; goes on after a kill."""
    runner.model.eval()
    unfinished = folder / "responses.partial.jsonl"
    done = {(kept.ask, kept.id, kept.variant): kept for kept in _whole_records(unfinished)}
    write_jsonl(unfinished, done.values())
    left = [question for question in questions if key_of(question) not in done]
    with Progress(title, len(questions), unit="prompt") as bar, unfinished.open("a", encoding="utf-8") as out:
        bar.advance(to=len(done))
        for ask, asked in batches(runner, left):
            for question, response in zip(asked, run_batch(runner, ask, asked), strict=True):
                done[key_of(question)] = response
                out.write(to_json(response) + "\n")
            out.flush()
            bar.advance(len(asked), note=ask.value)
    responses = [done[key_of(question)] for question in questions]
    write_jsonl(folder / "responses.jsonl", responses)
    unfinished.unlink()
    return responses


def _whole_records(path: Path) -> Iterable[Response]:
    """Records of an interrupted file; a torn last line is left out and asked again."""
    if not path.exists():
        return
    for _, line in lines_of(path):
        try:
            yield from_json(Response, line)
        except (ValueError, KeyError, TypeError):
            return

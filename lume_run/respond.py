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
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lume_run.errors import RunError
from lume_run.numerics import widened
from lume_run.records import Ask, Example, Response, from_json, lines_of, to_json, write_jsonl
from lume_run.reference import NO_TOTALS, length_batches, row_logps
from lume_run.runtime import Progress, console
from lume_run.signals import inputs_of
from lume_run.text import Batch, TokenRow, collate, encode, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 256  # at most, whatever the token budget allows


@dataclass(frozen=True, kw_only=True)
class Question:
    """One example and what to run the model for."""

    example: Example
    ask: Ask


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


def score_answers(runner: Runner, examples: Sequence[Example]) -> list[tuple[float, int]]:
    """(summed log-probability [nats], tokens) of each expected answer under teacher forcing."""
    rows = [encode(example, runner.tokenizer, max_tokens=runner.max_length) for example in examples]
    logps = row_logps(runner.model, rows, pad_id=int(runner.tokenizer.pad_token_id))
    return [(float(row.double().sum()), len(row)) for row in logps]


def run_batch(runner: Runner, ask: Ask, examples: Sequence[Example]) -> list[Response]:
    """The responses of one batch to one ask."""
    fields: list[dict[str, Any]]
    if ask is Ask.GENERATE:
        fields = [{"output": text} for text in generate(runner, examples)]
    elif ask is Ask.CHOICE:
        fields = [
            {"choice_logps": logps if all(map(math.isfinite, logps)) else (), "choices": e.choices}
            for logps, e in zip(choose(runner, examples), examples, strict=True)
        ]
    else:
        fields = [
            {"logp_sum": total if math.isfinite(total) else None, "tokens": count}
            for total, count in score_answers(runner, examples)
        ]
    return [
        Response(
            id=example.id,
            ask=ask,
            split=example.split,
            subtask=example.subtask,
            kind=example.kind,
            document=example.document,
            prompt=example.prompt,
            expected=example.answer,
            **own,
        )
        for example, own in zip(examples, fields, strict=True)
    ]


def batches(runner: Runner, questions: Sequence[Question]) -> list[tuple[Ask, list[Example]]]:
    """Questions in batches of one ask and like length."""
    found: list[tuple[Ask, list[Example]]] = []
    for ask in Ask:
        examples = [question.example for question in questions if question.ask is ask]
        if ask is Ask.LOGPROB:
            rows = [encode(example, runner.tokenizer, max_tokens=runner.max_length) for example in examples]
        else:
            rows = [prompt_row(example, runner) for example in examples]
        if cut := sum(row.truncated > 0 for row in rows):
            console.print(
                f"  [yellow]{cut} of {len(rows)} {ask} prompts do not fit in {runner.max_length} tokens "
                "and lose their oldest words[/]"
            )
        for group in length_batches(rows, runner.batch_tokens):
            for begin in range(0, len(group), BATCH_ROWS):
                found.append((ask, [examples[number] for number in group[begin : begin + BATCH_ROWS]]))
    return found


def respond(runner: Runner, questions: Sequence[Question], folder: Path, title: str) -> list[Response]:
    """Answer every question into `folder/responses.jsonl`, in the order asked; goes on after a kill."""
    runner.model.eval()
    unfinished = folder / "responses.partial.jsonl"
    done = {(response.ask, response.id): response for response in _whole_records(unfinished)}
    write_jsonl(unfinished, done.values())
    left = [question for question in questions if (question.ask, question.example.id) not in done]
    with Progress(title, len(questions), unit="prompt") as bar, unfinished.open("a", encoding="utf-8") as out:
        bar.advance(to=len(done))
        for ask, examples in batches(runner, left):
            for response in run_batch(runner, ask, examples):
                done[response.ask, response.id] = response
                out.write(to_json(response) + "\n")
            out.flush()
            bar.advance(len(examples), note=ask.value)
    responses = [done[question.ask, question.example.id] for question in questions]
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

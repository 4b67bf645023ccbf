"""Runs of a loaded model over one batch: continuations, answers under teacher forcing, choices, loss gradients.

Rows are left-padded with positions counted from the first real token, which makes a batch answer as single rows do. A
sampled continuation is drawn with random numbers of its own, so that it is the same in any batch.

Shapes: B rows, T tokens, R label positions (padded), L answer tokens of one row, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lume_run.common.errors import RunError
from lume_run.common.logits import token_logps, widened
from lume_run.common.records import Ask, Example, Question
from lume_run.contracts import granted
from lume_run.engine import Engine
from lume_run.reference import NO_TOTALS
from lume_run.signals import forward, inputs_of
from lume_run.text import Batch, TokenRow, collate, encode, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NO_PROMPT = "The prompt of example '{}' has no tokens; a model needs at least one to continue."
NO_GRADIENT = (
    "Gradients need all layers' weights on devices at once, and some of this model's are in host memory or on disk; "
    "leave them out (evaluator.metrics.mia.gradient=false) or take more or larger devices."
)


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A loaded model with the sizes it is run at.

    `batch_tokens` counts padded tokens of the rows, not those generated after them. `temperature` and `seed` are for
    sampled continuations.
    """

    model: nn.Module | Engine
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    max_length: int
    batch_tokens: int
    temperature: float = 1.0
    seed: int = 0

    @property
    def network(self) -> nn.Module:
        """The model itself, which an engine would keep to itself."""
        assert isinstance(self.model, nn.Module)
        return self.model

    @property
    def device(self) -> torch.device:
        """Where rows are put: with the first weights that are on a device; layers elsewhere fetch theirs when run."""
        places = (weight.device for weight in self.network.parameters())
        return next((place for place in places if place.type != "meta"), torch.device("cpu"))

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""
        return int(self.tokenizer.pad_token_id)

    def stops(self) -> list[int]:
        """Token ids that end a generation: the tokenizer's EOS and the model's own."""
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        own = own if isinstance(own, list) else [own]
        return sorted({token for token in [self.tokenizer.eos_token_id, *own] if token is not None})


def prompt_row(example: Example, runner: Runner, *, new_tokens: int) -> TokenRow:
    """A prompt as a row without labels, cut on the left where it and `new_tokens` more would not fit."""
    ids = prompt_ids(example.prompt, runner.tokenizer)
    room = max(1, runner.max_length - new_tokens)
    kept = tuple(ids[-room:])
    if not kept:
        raise RunError(NO_PROMPT.format(example.id))
    return TokenRow(
        example_id=example.id, ids=kept, answer_start=len(kept), label_start=len(kept), truncated=len(ids) - len(kept)
    )


def row_of(question: Question, runner: Runner) -> TokenRow:
    """What the model is run on for a question."""
    if question.ask in (Ask.LOGPROB, Ask.GRADIENT):
        row = encode(question.example, runner.tokenizer, max_tokens=runner.max_length)
        if row.ids and not row.label_start:  # nothing would predict the first label
            raise RunError(NO_PROMPT.format(question.example.id))
        return row
    return prompt_row(question.example, runner, new_tokens=limit_of(question, runner) or 1)


def limit_of(question: Question, runner: Runner) -> int:
    """Longest continuation [tokens]; 0 where there is none."""
    if question.ask not in (Ask.GENERATE, Ask.SAMPLE):
        return 0
    return min(question.limit or runner.max_new_tokens, runner.max_new_tokens)


def batch_of(rows: Sequence[TokenRow], runner: Runner) -> Batch:
    """Rows padded on the left, where the model is."""
    return collate(rows, pad_id=runner.pad_id, totals=NO_TOTALS).to(runner.device)


@torch.inference_mode()
def continuations(
    runner: Runner, rows: Sequence[TokenRow], *, limit: int, draws: Sequence[str] | None = None
) -> list[list[int]]:
    """Tokens that follow each prompt, the one that ends the text included; at most `limit`.

    Greedy, or drawn from the model at the runner's temperature: then `draws` names the random numbers of each row.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    stops = runner.stops()
    if isinstance(runner.model, Engine):
        seeds = None if draws is None else [seed_of(name, runner.seed) for name in draws]
        prompts = [row.ids for row in rows]
        return runner.model.continued(prompts, limit=limit, stops=stops, seeds=seeds, temperature=runner.temperature)
    batch = batch_of(rows, runner)
    config = GenerationConfig(  # what it leaves open, such as a repetition penalty, is as the model's own one says
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        pad_token_id=runner.tokenizer.pad_token_id,
        eos_token_id=stops,
    )
    begin = batch.input_ids.shape[1]
    sampled = [] if draws is None else [Draw(uniforms(draws, limit, runner.seed), begin, runner.temperature)]
    model: Any = runner.network
    tokens = model.generate(  # it counts positions from the mask itself
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        generation_config=config,
        logits_processor=LogitsProcessorList(sampled),
    )
    found = []
    for ids in tokens[:, begin:].tolist():
        end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
        found.append(ids[:end])
    return found


def uniforms(draws: Sequence[str], limit: int, seed: int) -> Tensor:
    """Random numbers in [0, 1), (B, limit) float64; a row's depend on its name and the seed alone."""
    digests = (digest_of(name, seed) for name in draws)
    return torch.from_numpy(np.stack([np.random.default_rng(list(digest)).random(limit) for digest in digests]))


def digest_of(draw: str, seed: int) -> bytes:
    """What a row's random numbers come from."""
    return hashlib.sha256(f"{seed}:{draw}".encode()).digest()


def seed_of(draw: str, seed: int) -> int:
    """The same as a seed of 63 bits, for an engine that draws by itself."""
    return int.from_bytes(digest_of(draw, seed)[:8], "big") >> 1  # a signed number in the engine


@dataclass(frozen=True)
class Draw:
    """A logits processor that makes greedy search sample: it leaves the token where the cumulated probability passes
    the row's random number (inverse transform sampling).

    `numbers` (B, limit), `begin` [tokens] is the width of the prompts.
    """

    numbers: Tensor
    begin: int
    temperature: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) in which only the drawn token is possible."""
        cumulated = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        at = self.numbers[:, input_ids.shape[1] - self.begin, None].to(scores.device) * cumulated[:, -1:]
        drawn = (cumulated <= at).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def decoded(tokens: Sequence[int], runner: Runner) -> str:
    """Text of generated tokens without special tokens, white space as generated."""
    text: str = runner.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def generate(runner: Runner, examples: Sequence[Example]) -> list[str]:
    """Greedy texts of one batch of prompts."""
    rows = [prompt_row(example, runner, new_tokens=runner.max_new_tokens) for example in examples]
    return [decoded(tokens, runner) for tokens in continuations(runner, rows, limit=runner.max_new_tokens)]


@torch.inference_mode()
def choose(runner: Runner, examples: Sequence[Example]) -> list[tuple[float, ...]]:
    """Log-probabilities [nats] of each option's first token right after the prompt; none where all begin alike."""
    rows = [prompt_row(example, runner, new_tokens=1) for example in examples]
    inputs = inputs_of(runner.network, batch_of(rows, runner), keep=1)
    logps = widened(runner.network(**inputs).logits[:, -1]).log_softmax(-1).cpu()
    found = []
    for number, example in enumerate(examples):
        options = [first_token(option, runner) for option in example.choices]
        found.append(tuple(float(logps[number, option]) for option in options) if len(set(options)) > 1 else ())
    return found


def first_token(option: str, runner: Runner) -> int:
    """The first token of an option after a space, a bare space left out."""
    ids: list[int] = runner.tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
    return next((token for token in ids if decoded([token], runner).strip()), ids[-1])


class AnswerScores(NamedTuple):
    """An expected answer under teacher forcing, token by token; the fields of `Response`, (L,) for L answer tokens."""

    logp_sum: float | None
    tokens: int
    closed: bool
    logps: tuple[float, ...] = ()
    hits: tuple[bool, ...] = ()
    means: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()


@torch.inference_mode()
def score_rows(runner: Runner, rows: Sequence[TokenRow]) -> list[AnswerScores]:
    """One forward over a batch of rows; without numbers where the model gives none that are finite."""
    batch = batch_of(rows, runner)
    logits = granted(forward(runner.network, batch).logits)  # (B, R, V), labels at the right end
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


def norm_of(gradient: Tensor) -> float:
    """The 2-norm, in float32 at least: in bfloat16 it would have three digits, and documents would be tied."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return float(torch.linalg.vector_norm(gradient, dtype=wide))


def gradients(runner: Runner, rows: Sequence[TokenRow]) -> list[float | None]:
    """Mean over weight tensors of the 2-norm of the gradient of the mean label loss [nats], one row at a time.

    The gradient-norm membership attack, as open-unlearning has it but without dropout. None where it is not finite.
    A gradient is given up as soon as its norm is known, so that there is never one as large as the model. RunError
    where layers are neither on a GPU nor whole in host memory.
    """
    weights = [weight for weight in runner.network.parameters() if weight.requires_grad]
    if any(weight.device.type == "meta" for weight in weights):
        raise RunError(NO_GRADIENT)
    norms: list[float] = []

    def measure(weight: Tensor) -> None:
        norms.append(norm_of(granted(weight.grad)))
        weight.grad = None

    found = []
    untyped: list[Any] = list(weights)
    hooks = [weight.register_post_accumulate_grad_hook(measure) for weight in untyped]
    try:
        for row in rows:
            norms.clear()
            batch = batch_of([row], runner)
            with torch.enable_grad():
                logps = token_logps(granted(forward(runner.network, batch).logits), batch.targets)
                loss = -logps[:, logps.shape[1] - row.labels :].mean()
            torch.autograd.backward(loss)
            mean = sum(norms) / len(norms)
            found.append(mean if math.isfinite(mean) else None)
    finally:
        for hook in hooks:
            hook.remove()
    return found

"""The frozen target, as methods need it: answer log-probs computed once, or a live model.

NPO and its kin need one number a token of a model that never changes on rows that never change.
Computing it once (TRL calls this precomputing reference log-probs) saves a forward a step and a
second model in memory. Only KL, UNDIAL (whole distributions) and RMU (hidden states) need a live model, and
it runs on the rows that need it only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lume_run.common.console import Progress
from lume_run.common.devices import rank
from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Example
from lume_run.common.text_files import PLAIN_TEXT_BYTES, read_utf8
from lume_run.config.model_settings import ModelSettings
from lume_run.launch.collectives import read_together
from lume_run.launch.world import World
from lume_run.methods.base import require
from lume_run.methods.needs import Needs, Role
from lume_run.models.forward import Outputs, at_labels, forward, label_logps
from lume_run.models.layers import unwrap
from lume_run.models.load import borrow_model, context_limit
from lume_run.models.rows.batch import NO_TOTALS, Batch, collate, length_batches
from lume_run.models.rows.head import is_lent, plain_head
from lume_run.models.rows.roles import plan_roles, reading_of
from lume_run.models.rows.tokenise import TokenRow
from lume_run.models.tokenizer import load_tokenizer
from lume_run.training.rows import token_rows
from lume_run.training.signals import Reference, reads_in_parts


@torch.inference_mode()
def row_logps(model: nn.Module, rows: Sequence[TokenRow], *, pad_id: int) -> list[Tensor]:
    """Log-probabilities [nats] of each row's labels, (labels,) float32 on CPU, from one forward."""
    device = next(model.parameters()).device
    host = collate(rows, pad_id=pad_id, totals=NO_TOTALS)
    needs, plan, batch = Needs(rows={row.role for row in rows}), plan_roles(host, Needs()).to(device), host.to(device)
    if plain_head(model) is not None and reads_in_parts(needs, batch):
        numbers = require(forward(model, batch, reading=reading_of(batch, plan, needs, None)).numbers)
        logps = at_labels(numbers[:, 0], batch).float().cpu()
    else:
        logps = label_logps(require(forward(model, batch).logits), batch).float().cpu()
    return [logps[number, logps.shape[1] - row.labels :].clone() for number, row in enumerate(rows)]


class ReferenceCache:
    """Label log-probs of the frozen target by row key; a missing row is an error, never a default."""

    def __init__(self, logps: dict[str, Tensor]) -> None:
        self.logps = logps

    @staticmethod
    def compute(model: nn.Module, rows: Sequence[TokenRow], *, pad_id: int, batch_tokens: int, folder: Path) -> None:
        """Run the model once over `rows` and write the cache into `folder`."""
        model.eval()
        logps: dict[str, Tensor] = {}
        with Progress("reference log-probs", len(rows), unit="row") as bar:
            for group in length_batches(rows, batch_tokens):
                batch = [rows[number] for number in group]
                keys = (row.key for row in batch)
                logps |= zip(keys, row_logps(model, batch, pad_id=pad_id), strict=True)
                bar.advance(len(group))
        empty = torch.zeros(0)
        save_file({"logps": torch.cat([empty, *(logps[row.key] for row in rows)])}, folder / "logps.safetensors")
        lengths = {row.key: len(logps[row.key]) for row in rows}
        (folder / "lengths.json").write_text(json.dumps(lengths, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ReferenceCache:
        """Read what `compute` wrote."""
        flat = load_file(folder / "logps.safetensors")["logps"]
        lengths: dict[str, int] = json.loads((folder / "lengths.json").read_text(encoding="utf-8"))
        return cls(dict(zip(lengths, torch.split(flat, list(lengths.values())), strict=True)))

    def attach(self, batch: Batch, roles: Set[Role]) -> Batch:
        """`batch` with `ref_logps` (B, R) on rows of these roles, 0 elsewhere. Raises KeyError for an unknown row."""
        ref = torch.zeros(batch.targets.shape)
        for number in (number for number, role in enumerate(batch.role.tolist()) if role in roles):
            key, labels = batch.keys[number], int(batch.mask[number].sum())
            if key not in self.logps:
                raise KeyError(f"no cached reference log-probs for row '{key}'")
            if len(self.logps[key]) != labels:
                raise ValueError(f"cached reference of '{key}' has {len(self.logps[key])} tokens, the row {labels}")
            ref[number][batch.mask[number]] = self.logps[key]
        return replace(batch, ref_logps=ref)


def live_reference(model: nn.Module, frozen: nn.Module | None) -> Reference:
    """The frozen target's forward: `frozen` where given, otherwise `model` with its adapters off."""
    source: Any = frozen if frozen is not None else model

    def outputs(batch: Batch, needs: Needs) -> Outputs:
        off = source.disable_adapter() if frozen is None else nullcontext()
        training = source.training
        source.eval()
        hidden_only = replace(needs, logits=bool(needs.reference_logits))
        plain = plain_head(source) if needs.reference_logits and reads_in_parts(needs, batch) else None
        in_parts = plain is not None and not is_lent(plain[1])  # else read later, when its weight is gone
        with off:
            frozen_outputs = forward(source, batch, hidden_only if needs.reference_hidden else None, states=in_parts)
        source.train(training)
        return frozen_outputs

    return outputs


DISRUPTION_SHAPE = (128, 128)  # sequences of a plain text and their tokens, as RepSelect has them
DISTANCE_NUMBERS = 2**26
LETTERS_A_TOKEN = 16  # of the file that are looked at


def plain_sequences(path: Path, tokenizer: Any) -> Tensor:
    """The first tokens of a text file as rows of `DISRUPTION_SHAPE`, fewer where the text ends; (S, T), S >= 1.

    DataError where it cannot be read, or has not one row.
    """
    most, length = DISRUPTION_SHAPE
    text = read_utf8(path, remedy="give a text file", limit=PLAIN_TEXT_BYTES)[: most * length * LETTERS_A_TOKEN]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    count = min(most, len(ids) // length)
    if not count:
        what = f"has {len(ids)} tokens, and not one sequence of {length}"
        raise DataError([Problem(where=str(path), what=what, remedy="give a longer text")])
    return ids[: count * length].view(count, length)


def distance_from(frozen: nn.Module | None, sequences: Tensor, world: World) -> Callable[[nn.Module], float]:
    """How far a model is from `frozen` (None: from itself without adapters) on rows of tokens (S, T).

    The mean over all positions of KL(frozen || model) [nats]. Every rank reads its share of the rows, the same number
    of forwards each.
    """

    @torch.no_grad()
    def measure(model: nn.Module) -> float:
        device = next(model.parameters()).device
        source: Any = frozen if frozen is not None else model
        training = model.training
        model.eval()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows, weights in _shares(sequences, model, world):
            ids, weight = rows.to(device), weights.to(device)
            with source.disable_adapter() if frozen is None else nullcontext():
                theirs = source(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
            ours = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
            total += ((theirs.exp() * (theirs - ours)).sum(-1).mean(1) * weight).sum().double()
        model.train(training)
        (summed,) = read_together([torch.zeros((), device=device)], [total], device)[1]
        return summed / len(sequences)

    return measure


def _shares(sequences: Tensor, model: nn.Module, world: World) -> Iterator[tuple[Tensor, Tensor]]:
    """A rank's rows in batches, with weights 1, or 0 of a row that only keeps ranks in step."""
    vocabulary = unwrap(model).config.get_text_config().vocab_size
    batch = max(1, DISTANCE_NUMBERS // (sequences.shape[1] * vocabulary))
    numbers = torch.arange(-(-len(sequences) // world.size)) * world.size + rank()
    for some in torch.split(numbers, batch):
        yield sequences[some % len(sequences)], (some < len(sequences)).float()


def build_reference(
    target: str,
    examples: Sequence[tuple[Role, Example]],
    needs: Needs,
    folder: Path,
    *,
    settings: ModelSettings,
    device: torch.device,
    batch_tokens: int,
    max_tokens: int | None = None,
) -> None:
    """Score these rows with the frozen target once; longer ones are cut to `max_tokens`."""
    tokenizer = load_tokenizer(target, settings)
    model = borrow_model(target, settings, device)
    limit = context_limit(model.config, settings)
    rows = token_rows(examples, tokenizer, needs=needs, max_tokens=min(limit, max_tokens or limit))
    pad_id = int(tokenizer.pad_token_id)
    ReferenceCache.compute(model, rows, pad_id=pad_id, batch_tokens=batch_tokens, folder=folder)

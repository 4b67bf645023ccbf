"""The frozen target, as methods need it: answer log-probs computed once, or live logits.

NPO and its kin need one number a token of a model that never changes on rows that never change.
Computing it once (TRL calls this precomputing reference log-probs) saves a forward a step and a
second model in memory. Only KL needs whole distributions, hence a live model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lume_run.contracts import Totals
from lume_run.numerics import token_logps
from lume_run.runtime import Progress
from lume_run.signals import LogitsOf, forward
from lume_run.text import Batch, TokenRow, collate

NO_TOTALS = Totals(forget_rows=0, forget_tokens=0, retain_rows=0, retain_tokens=0)


def length_batches(rows: Sequence[TokenRow], batch_tokens: int) -> list[list[int]]:
    """Row numbers, longest first, in batches of at most `batch_tokens` padded tokens."""
    order = sorted(range(len(rows)), key=lambda number: (-len(rows[number].ids), number))
    batches: list[list[int]] = []
    for number in order:
        width = len(rows[batches[-1][0]].ids) if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= batch_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


@torch.inference_mode()
def row_logps(model: nn.Module, rows: Sequence[TokenRow], *, pad_id: int) -> list[Tensor]:
    """Log-probabilities [nats] of each row's labels, (labels,) float32 on CPU, from one forward."""
    device = next(model.parameters()).device
    batch = collate(rows, pad_id=pad_id, totals=NO_TOTALS).to(device)
    logps = token_logps(forward(model, batch), batch.targets).float().cpu()
    return [logps[number, logps.shape[1] - row.labels :].clone() for number, row in enumerate(rows)]


class ReferenceCache:
    """Answer log-probs of the frozen target by example id; a missing id is an error, never a default."""

    def __init__(self, logps: dict[str, Tensor]) -> None:
        self.logps = logps

    @staticmethod
    def compute(model: nn.Module, rows: Sequence[TokenRow], *, pad_id: int, batch_tokens: int, folder: Path) -> None:
        """Run the model once over `rows` and write the cache into `folder`."""
        model.eval()
        found: dict[str, Tensor] = {}
        with Progress("reference log-probs", len(rows), unit="row") as bar:
            for group in length_batches(rows, batch_tokens):
                chosen = [rows[number] for number in group]
                for row, logps in zip(chosen, row_logps(model, chosen, pad_id=pad_id), strict=True):
                    found[row.example_id] = logps
                bar.advance(len(group))
        ids = [row.example_id for row in rows]
        empty = torch.zeros(0)
        save_file({"logps": torch.cat([empty, *(found[name] for name in ids)])}, folder / "logps.safetensors")
        lengths = {name: len(found[name]) for name in ids}
        (folder / "lengths.json").write_text(json.dumps(lengths, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ReferenceCache:
        """Read what `compute` wrote."""
        flat = load_file(folder / "logps.safetensors")["logps"]
        lengths: dict[str, int] = json.loads((folder / "lengths.json").read_text(encoding="utf-8"))
        return cls(dict(zip(lengths, torch.split(flat, list(lengths.values())), strict=True)))

    def attach(self, batch: Batch) -> Batch:
        """`batch` with `ref_logps` (B, R), 0 outside the labels. Raises KeyError for an unknown forget row."""
        ref = torch.zeros(batch.targets.shape)
        for number, name in enumerate(batch.example_ids):
            if name not in self.logps and not bool(batch.is_forget[number]):
                continue  # retain rows need no reference unless a method cached them
            if name not in self.logps:
                raise KeyError(f"no cached reference log-probs for example '{name}'")
            own = self.logps[name]
            if len(own) != int(batch.mask[number].sum()):
                raise ValueError(
                    f"cached reference of '{name}' has {len(own)} tokens, the row {int(batch.mask[number].sum())}"
                )
            ref[number][batch.mask[number]] = own
        return replace(batch, ref_logps=ref)


def live_reference(model: nn.Module, frozen: nn.Module | None) -> LogitsOf:
    """Logits of the frozen target: `frozen` where given, otherwise `model` with its adapters off."""
    source: Any = frozen if frozen is not None else model

    def logits(batch: Batch) -> Tensor:
        off = source.disable_adapter() if frozen is None else nullcontext()
        training = source.training
        source.eval()
        with off:
            found = forward(source, batch)
        source.train(training)
        return found

    return logits

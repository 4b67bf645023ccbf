"""One forward pass: logits that predict labels alone, and the hidden states a method reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.common.logits import token_logps
from lume_run.methods.needs import Needs
from lume_run.models.layers import forward_accepts, layer_number, output_of_layer, unwrap
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.head import Head, Reading, plain_head, read_labels, read_states
from lume_run.models.rows.packed import Packing, send


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What one forward gave: logits that predict the targets, and a layer's output (B, T, H), 0 at padding.

    Logits are (L, V), of the labels alone, where rows were packed; else (B, R, V), or of every position (B, T, V).
    Instead of them, what was read of each label (L, K), or its states (L, H) and the head that makes logits of them.
    """

    logits: Tensor | None = None
    hidden: Tensor | None = None
    numbers: Tensor | None = None
    states: Tensor | None = None
    head: Head | None = None

    def whole_logits(self) -> Tensor | None:
        """Logits of all labels at once, also where they are still to be made."""
        return self.head.logits(self.states) if self.head is not None and self.states is not None else self.logits


def inputs_of(model: nn.Module, batch: Batch, *, keep: int) -> dict[str, Any]:
    """What the model's forward is called with; logits of the last `keep` positions only (0: of all)."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if forward_accepts(model, "position_ids"):
        inputs["position_ids"] = batch.position_ids
    if keep and forward_accepts(model, "logits_to_keep"):
        inputs["logits_to_keep"] = keep
    return inputs


def forward(
    model: nn.Module, batch: Batch, needs: Needs | None = None, *, reading: Reading | None = None, states: bool = False
) -> Outputs:
    """Run the model, rows packed where it takes them so; without `needs` for logits alone.

    With `reading`, numbers of labels are read instead of logits; with `states`, the head is left out.
    """
    from lume_run.models.rows.attention import packs  # brings transformers' models with it, which plans do without

    needs = needs or Needs()
    packing = batch.packing if batch.packing is not None and packs(model) else None
    if packing is None:
        inputs = inputs_of(model, batch, keep=batch.keep if needs.logits else 1)
    else:
        inputs = packed_inputs(batch, packing, keep=packing.predictors if needs.logits else 1)
    run = partial(_run, model, batch, inputs, reading, states=states)
    if needs.hidden_layer is None:
        logits, hidden = run(), None
    else:
        layer = layer_number(unwrap(model).config, needs.hidden_layer)
        with output_of_layer(model, layer, stop=not needs.logits) as caught:
            logits = run()
        hidden = caught[0] if packing is None else _padded(caught[0][0], batch, packing)
    if not needs.logits:
        return Outputs(hidden=hidden)
    if reading is not None:
        return Outputs(numbers=logits, hidden=hidden)
    if states:
        plain = plain_head(model)
        assert plain is not None
        return Outputs(states=logits, head=plain[1], hidden=hidden)
    return Outputs(logits=_label_logits(logits, batch) if packing is None else logits[0], hidden=hidden)


def last_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, V) that each row's last token gives, rows packed where the model takes them so."""
    from lume_run.models.rows.attention import packs

    if batch.packing is not None and packs(model):
        logits: Tensor = model(**packed_inputs(batch, batch.packing, keep=batch.packing.ends)).logits[0]
    else:
        logits = model(**inputs_of(model, batch, keep=1)).logits[:, -1]
    return logits


def predictor_logits(model: nn.Module, batch: Batch, device: torch.device | None = None) -> tuple[list[Tensor], Tensor]:
    """(logits (U, V) of tokens that predict labels, in parts; which of them predicts each label (L,)), row after row.

    Of packed rows in one part, each token once even where it predicts labels of several rows; else a part a row. Of a
    batch of the host that is to be run on a `device` the second result stays there: the device is not waited for.
    """
    from lume_run.models.rows.attention import packs

    here, batch = batch.packing, batch if device is None else batch.to(device)
    if here is not None and batch.packing is not None and packs(model):
        tokens, of_labels = torch.unique(here.predictors, return_inverse=True)
        keep = send(tokens, batch.input_ids.device)
        return [model(**packed_inputs(batch, batch.packing, keep=keep)).logits[0]], of_labels
    padded = model(**inputs_of(model, batch, keep=batch.keep)).logits
    parts = row_logits(_label_logits(padded, batch), batch)
    return parts, torch.arange(sum(map(len, parts)))


def _run(model: nn.Module, batch: Batch, inputs: dict[str, Any], reading: Reading | None, *, states: bool) -> Tensor:
    """Logits, or what takes their place."""
    if reading is not None:
        return read_labels(model, batch, inputs, reading)
    if states:
        return read_states(model, batch, inputs)
    logits: Tensor = model(**inputs).logits
    return logits


def packed_inputs(batch: Batch, packing: Packing, *, keep: Tensor | int) -> dict[str, Any]:
    """The same for rows that stand end to end; logits of these tokens, or of so many last ones.

    A mask of one entry keeps transformers from making a wide one: attention knows the rows from `packing`.
    """
    return {
        "input_ids": batch.input_ids.flatten()[packing.tokens][None],
        "position_ids": batch.position_ids.flatten()[packing.tokens][None],
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device),
        "use_cache": False,
        "logits_to_keep": keep,
        "packing": packing,
    }


def _padded(hidden: Tensor, batch: Batch, packing: Packing) -> Tensor:
    """States (N, H) of packed tokens where those of padded rows are, (B, T, H)."""
    at_padding = hidden.new_zeros(1, hidden.shape[-1])
    return torch.cat((hidden, at_padding)).index_select(0, packing.copies).view(*batch.input_ids.shape, -1)


def at_labels(numbers: Tensor, batch: Batch) -> Tensor:
    """One number of each label (L,) where its label stands, (B, R), 0 elsewhere."""
    packing = batch.packing
    assert packing is not None
    return numbers.new_zeros(batch.targets.numel()).index_copy(0, packing.labels, numbers).view(batch.targets.shape)


def label_logps(logits: Tensor, batch: Batch) -> Tensor:
    """log p [nats] of the targets, (B, R), float32 or wider; of no meaning outside the mask."""
    if logits.ndim == 2:
        packing = batch.packing
        assert packing is not None
        return at_labels(token_logps(logits, batch.targets.flatten()[packing.labels]), batch)
    return token_logps(logits if batch.keep else logits[:, :-1], batch.targets)


def row_logits(logits: Tensor, batch: Batch) -> list[Tensor]:
    """The logits that predict each row's labels, (labels, V)."""
    counts = [row.labels for row in batch.rows]
    if logits.ndim == 2:
        return list(torch.split(logits, counts))
    return [of_row[len(of_row) - count :] for of_row, count in zip(logits, counts, strict=True)]


def _label_logits(logits: Tensor, batch: Batch) -> Tensor:
    return logits[:, -batch.keep :][:, :-1] if batch.keep else logits

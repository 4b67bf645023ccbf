"""The golden losses' inputs: models, batches as TokenRows and as the tensors of the references, and their counts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from helpers.golden import PRECISIONS, UNLABELLED, label_places
from helpers.shared import GOLDEN
from lume_run.methods.base import Signals
from lume_run.methods.needs import Count, Role, Totals
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.tokenise import TokenRow

LOSSES = GOLDEN / "losses"
VOCABULARIES = sorted(path.parent.name for path in LOSSES.glob("*/batches.json"))  # none without golden values


def vector_seed() -> int:
    """What the references seeded their control vectors with: their README says it, no JSON file does."""
    readme = LOSSES / "README.md"
    seed = re.search(r"manual_seed\((\d+)\)", readme.read_text(encoding="utf-8")) if readme.is_file() else None
    return int(seed[1]) if seed else 4242


@cache
def read_losses(vocabulary: str, name: str) -> dict[str, Any]:
    """A file of one vocabulary, never to be changed."""
    return json.loads((LOSSES / vocabulary / name).read_text(encoding="utf-8"))


@cache
def loss_model(vocabulary: str, folder: str, dtype: str, attention: str = "eager") -> Any:
    """`model` or `ref_model` as the references ran it."""
    model = AutoModelForCausalLM.from_pretrained(
        LOSSES / vocabulary / folder, dtype=PRECISIONS[dtype], attn_implementation=attention
    )
    return model.eval()


@cache
def golden_batch(vocabulary: str, name: str) -> dict[str, list[list[int]]]:
    """`unlabelled` is `forget` without its labels: rows whose log-probability is 0 in every model."""
    batches = read_losses(vocabulary, "batches.json")
    if name == "unlabelled":
        return batches["forget"] | {"labels": [[UNLABELLED] * len(row) for row in batches["forget"]["labels"]]}
    return batches[name]


def end_id(vocabulary: str) -> int:
    """The token that ends answers and pads rows."""
    return int(read_losses(vocabulary, "model/config.json")["eos_token_id"])


def vocabulary_size(vocabulary: str) -> int:
    """How many tokens there are."""
    return int(read_losses(vocabulary, "model/config.json")["vocab_size"])


def row_count(batch: Mapping[str, Sequence[Any]]) -> int:
    """How many rows a golden batch has."""
    return len(batch["input_ids"])


def labels_everything(vocabulary: str, name: str) -> bool:
    """Whether nothing is masked: prompt and padding are labels too, and so is index 0."""
    return all(UNLABELLED not in row for row in golden_batch(vocabulary, name)["labels"])


def pads_left(vocabulary: str, folder: str, dtype: str) -> Any:
    """The model with an attention that takes left padding."""
    return loss_model(vocabulary, folder, dtype, "sdpa" if dtype == "float64" else "eager")


def role_of(name: str) -> Role:
    """`forget_nomask` and `forget_edge` stand in the place of `forget`."""
    return Role.__members__.get(name.upper(), Role.FORGET)


def golden_rows(vocabulary: str, name: str, role: Role) -> list[TokenRow]:
    """Rows up to their last label; a row without labels keeps its attended tokens."""
    batch = golden_batch(vocabulary, name)
    rows = []
    for number in range(row_count(batch)):
        ids, labels, attention = (batch[field][number] for field in ("input_ids", "labels", "attention_mask"))
        places = label_places(labels)
        end = places[-1] + 1 if places else sum(attention)
        start = places[0] if places else end
        assert places == list(range(start, end))  # no holes
        side = "forget" if role.is_forget else "retain"  # one example in all its roles
        rows.append(
            TokenRow(
                example_id=f"{side}-{number}", ids=tuple(ids[:end]), answer_start=start, label_start=start, role=role
            )
        )
    return rows


def golden_tensors(vocabulary: str, batches: Mapping[Role, str], totals: Totals) -> Batch:
    """Batches as the references saw them: right-padded, positions 0 to T - 1, their own attention masks.

    Several roles stand below each other, padded on to the widest; causal attention does not see that.
    """
    given = [golden_batch(vocabulary, name) for name in batches.values()]
    roles = [role.value for role, batch in zip(batches, given, strict=True) for _ in range(row_count(batch))]
    width = max(len(batch["input_ids"][0]) for batch in given)

    def tensor(name: str, padding: int) -> Tensor:
        return torch.tensor([row + [padding] * (width - len(row)) for batch in given for row in batch[name]])

    input_ids = tensor("input_ids", end_id(vocabulary))
    labelled = tensor("labels", UNLABELLED)[:, 1:] != UNLABELLED
    return Batch(
        keys=tuple(f"row {number}" for number in range(len(roles))),
        input_ids=input_ids,
        attention_mask=tensor("attention_mask", 0),
        position_ids=torch.arange(width).repeat(len(input_ids), 1),
        targets=input_ids[:, 1:],
        mask=labelled,
        is_answer=labelled,
        role=torch.tensor(roles),
        totals=totals,
        keep=0,
    )


def golden_totals(vocabulary: str, batches: Mapping[Role, str], *, from_index: int = 1) -> Totals:
    """Counts of the golden batches themselves; labels count from this index on (one on index 0 is never predicted)."""
    counts: dict[Role, Count] = {}
    for role, name in batches.items():
        labels = golden_batch(vocabulary, name)["labels"]
        lengths = tuple(len(label_places(row[from_index:])) for row in labels)
        tokens, positions = sum(lengths), len(labels) * len(labels[0])
        counts[role] = Count(rows=len(labels), tokens=tokens, labels=tokens, positions=positions, lengths=lengths)
    return Totals(counts=counts)


def with_first_label(s: Signals) -> Signals:
    """The same with a position in front of every row, so that the label on index 0 has a place in `mask`, R = T.

    Our batches never label a row's first token, which nothing predicts; its log-probability counts as 0.
    """

    def longer(signal: Tensor | None) -> Tensor | None:
        return None if signal is None else torch.cat([torch.zeros_like(signal[:, :1]), signal], dim=1)

    longer_signals: dict[str, Any] = {
        name: longer(getattr(s, name))
        for name in ("logps", "targets", "logits", "hidden", "ref_logps", "ref_logits", "ref_hidden")
    }
    mask = torch.cat([torch.ones_like(s.mask[:, :1]), s.mask], dim=1)
    return replace(s, **longer_signals, mask=mask, is_answer=mask)

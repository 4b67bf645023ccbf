"""Rows that begin alike are run once on what they share, and give what padded rows give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.families import FAMILIES, build_family
from models.test_packing import EXACT, SINGLE, results
from transformers import AutoModelForCausalLM

from lume_run.methods.needs import Needs
from lume_run.models.forward import forward, last_logits, predictor_logits
from lume_run.models.rows.attention import packs
from lume_run.models.rows.batch import NO_TOTALS, collate
from lume_run.models.rows.packed import PACKED_TYPES, Group, pack
from lume_run.models.rows.prefixes import (
    COPIES,
    SHARED_TOKENS,
    Segment,
    distinct_tokens,
    order_by_prefix,
    prefix_batches,
    prefix_tree,
    rows_apart,
)
from lume_run.models.rows.tokenise import TokenRow

PAD = 1
ROUNDED = 1e-6  # to the largest number of a gradient


def tokens(seed: int, length: int) -> tuple[int, ...]:
    return tuple(torch.randint(5, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def row_of(*parts: tuple[int, ...], labels: int) -> TokenRow:
    ids = tuple(token for part in parts for token in part)
    return TokenRow(example_id=str(ids), ids=ids, answer_start=len(ids) - labels, label_start=len(ids) - labels)


HEAD, PROMPT, OTHER, ANSWER = tokens(0, 20), tokens(1, 10), tokens(2, 13), tokens(3, 9)
ROWS = [
    row_of(HEAD, PROMPT, tokens(4, 5), labels=5),  # two answers to one prompt, of which the last token predicts both
    row_of(tokens(5, 17), labels=6),  # shares nothing
    row_of(HEAD, PROMPT, tokens(6, 12), labels=12),
    row_of(HEAD, OTHER, ANSWER, tokens(7, 3), labels=12),  # answers that begin alike
    row_of(HEAD, OTHER, ANSWER, tokens(8, 30), labels=39),
    row_of(HEAD, OTHER, ANSWER, labels=9),  # the beginning of another row
    row_of(HEAD, OTHER, ANSWER, labels=2),  # the same again, with fewer labels
    row_of(HEAD, tokens(9, 1), labels=20),  # labels in what is shared
    row_of(tokens(5, 17)[: SHARED_TOKENS - 1], tokens(10, 4), labels=3),  # too little in common
    row_of(HEAD[:3], labels=1),
]
BATCH = collate(ROWS, pad_id=PAD, totals=NO_TOTALS, shares=True)
PADDED = replace(BATCH, packing=None)
# the 20 of the head once, 10 and 13 of prompts, and what else no other row has
DISTINCT = 20 + (10 + 5 + 12) + (13 + 9 + 3 + 30) + 1 + 17 + (7 + 4) + 3


def compare(model, needs=None):
    """Norms in float32 round the gradient of a shared token once, and else once for each of its copies."""
    (*shared, gradients), (*padded, expected) = (results(model, batch, needs) for batch in (BATCH, PADDED))
    single = "gemma" in model.config.model_type or hasattr(model.config, "num_experts_per_tok")
    rounds = model.config.model_type not in ("gpt_neox", "phi")
    pairs = [(ours, theirs, single) for ours, theirs in zip(shared, padded, strict=True)]
    pairs += [(gradients[name], expected[name], rounds) for name in gradients]
    for ours, theirs, rounded in pairs:
        if ours is None and theirs is None:
            continue
        scale = (SINGLE if single else ROUNDED) * float(theirs.abs().max()) + 1e-6 if rounded else EXACT
        torch.testing.assert_close(ours, theirs, atol=scale, rtol=scale)


@pytest.mark.parametrize("name", [name for name, (kind, _) in FAMILIES.items() if kind in PACKED_TYPES])
def test_every_packed_family(name, tiny, tmp_path):
    """Logits, states and gradients; sliding windows are shorter than what is shared."""
    model = AutoModelForCausalLM.from_pretrained(build_family(name, tiny, tmp_path / "model"))
    model = model if hasattr(model.config, "num_experts_per_tok") else model.double()  # experts know no float64
    assert packs(model)
    compare(model)
    compare(model, Needs(hidden_layer=0))


@pytest.fixture
def llama(tiny, tmp_path):
    return AutoModelForCausalLM.from_pretrained(build_family("Llama, untied", tiny, tmp_path / "model")).double()


def test_shared_tokens_are_run_once(llama):
    seen = []
    llama.model.layers[0].mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    forward(llama, BATCH)
    assert seen == [DISTINCT]
    assert sum(len(row.ids) for row in ROWS) > 1.5 * DISTINCT


def test_checkpointing(llama):
    llama.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    compare(llama.train())


def test_some_of_the_rows_share_too(llama):
    some = BATCH.take(torch.tensor([True, False] * 5))
    assert some.packing.shares and len(some.packing.tokens) < sum(len(row.ids) for row in some.rows)
    expected = forward(llama, PADDED.take(torch.tensor([True, False] * 5))).logits[some.mask]
    torch.testing.assert_close(forward(llama, some).logits, expected, atol=EXACT, rtol=EXACT)


def test_segments():
    """What is shared comes first, once, and each row is a path of segments."""
    rows = [row_of(HEAD, PROMPT, (7,), labels=1), row_of(HEAD, OTHER, labels=1), row_of(HEAD, PROMPT, (8,), labels=1)]
    segments, paths = prefix_tree(rows)
    for row, path in zip(rows, paths, strict=True):
        parts = [rows[segments[number].row].ids[segments[number].begin : segments[number].end] for number in path]
        assert tuple(token for part in parts for token in part) == row.ids
        assert all(segments[number].parents == path[:place] for place, number in enumerate(path))
    assert segments[0] == Segment(0, 0, 20, ())
    assert sorted(segment.length for segment in segments) == [1, 1, 10, 13, 20]


def test_a_prefix_of_too_few_tokens_is_not_shared():
    short, enough = ([row_of(HEAD[:n], tokens(n, 5), labels=1), row_of(HEAD[:n], OTHER, labels=1)] for n in (7, 8))
    assert prefix_tree(short).tokens == rows_apart(short).tokens
    assert prefix_tree(enough).tokens == rows_apart(enough).tokens - 8


def test_many_rows_each_longer_than_the_last():
    """No recursion: as deep as there are rows."""
    ids = tokens(0, 4000)
    rows = [row_of(ids[:length], labels=1) for length in range(8, 4001, 8)]
    assert prefix_tree(rows).tokens == 4000


def test_order_is_that_of_numbers():
    rows = [
        row_of((300, 5), labels=1),
        row_of((7, 70000), labels=1),
        row_of((7, 8, 9), labels=1),
        row_of((7,), labels=1),
    ]
    assert order_by_prefix(rows) == ([3, 2, 1, 0], [0, 1, 1, 0])


def test_batches_count_shared_tokens_once():
    """Every row is in one batch, and those that share stand one after another."""
    family = [row_of(HEAD, tokens(seed, 5), labels=5) for seed in range(20, 30)]
    rows = [row_of(tokens(30, 40), labels=1), *family, row_of(tokens(31, 12), labels=1)]
    batches = prefix_batches(rows, 20 + 10 * 5)
    order = [number for batch in batches for number in batch]
    assert sorted(order) == list(range(12)) and {*order[1:11]} == {*range(1, 11)}
    assert order[0] == 0  # the longest first
    assert all(distinct_tokens([rows[number] for number in batch]) <= 70 for batch in batches)
    assert len(batches) < sum(len(row.ids) for row in rows) / 70
    assert all(len(batch) == 1 for batch in prefix_batches(rows, 1))
    assert [len(batch) for batch in prefix_batches(family, 20 + 10 * 5)] == [10]


def test_batches_bound_what_attention_copies():
    family = [row_of(HEAD, tokens(seed, 1), labels=1) for seed in range(20, 120)]
    sizes = [sum(len(family[number].ids) for number in batch) for batch in prefix_batches(family, 60)]
    assert max(sizes) <= COPIES * 60 and len(sizes) > 1


def test_last_logits_and_those_of_predictors(llama):
    """What scoring reads: a token that predicts labels of several rows is read once."""
    expected = forward(llama, PADDED).logits
    last = torch.stack([llama(torch.tensor([row.ids])).logits[0, -1] for row in ROWS])
    for batch in (BATCH, PADDED):
        torch.testing.assert_close(last_logits(llama, batch), last, atol=EXACT, rtol=EXACT)
        parts, predictors = predictor_logits(llama, batch)
        torch.testing.assert_close(torch.cat(parts)[predictors], expected[BATCH.mask], atol=EXACT, rtol=EXACT)
    assert len(predictor_logits(llama, BATCH)[0][0]) < sum(row.labels for row in ROWS) - 20


def test_no_sharing_unless_asked_for():
    packing = pack(ROWS, width=80, span=40)
    assert len(packing.tokens) == sum(len(row.ids) for row in ROWS)
    assert all(group.context == 0 for group in packing.groups) and isinstance(packing.groups[0], Group)


def test_nothing_to_run_is_not_packed():
    empty = TokenRow(example_id="a", ids=(), answer_start=0, label_start=0)
    assert pack([], width=4, span=1) is None and pack([empty], width=4, span=1, shares=True) is None

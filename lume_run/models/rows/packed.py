"""Rows end to end, without padding: where each of their tokens and labels is.

With `shares` what rows begin with in common stands once (`prefixes.py`), and its tokens are run once: their keys and
values serve every row behind them, and gradients flow back to them from all. Attention takes segments, each with the
context before it: where nothing is shared, whole rows without any. Segments of like lengths are a group.
Shapes: B rows, N tokens in all, T padded tokens, R label positions, L labels in all; G segments of a group of at most
S tokens with at most C of context, M query places of all groups (the sum of G x S), K key places (of G x (S + C)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lume_run.common.lazy import torch
from lume_run.models.rows.prefixes import Tree, prefix_tree, rows_apart
from lume_run.models.rows.tokenise import TokenRow

if TYPE_CHECKING:
    from torch import Tensor

PACKED_TYPES = frozenset(  # `model_type` of families
    (
        *("gpt_neox", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmoe", "phi", "phi3", "qwen2", "qwen3"),
        *("qwen3_moe", "gemma", "gemma3_text", "gemma3", "granite", "smollm3"),
    )
)


class Group(NamedTuple):
    """Segments that attention takes together: how many, the longest of them and of their contexts [tokens]."""

    segments: int
    longest: int
    context: int

    @property
    def queries(self) -> tuple[int, int]:
        """(segments, places of each) where its queries are."""
        return self.segments, self.longest

    @property
    def keys(self) -> tuple[int, int]:
        """(segments, places of each) where its keys are."""
        return self.segments, self.longest + self.context


def packs_rows(config: Any, attention: str) -> bool:
    """Whether models of this transformers config run rows without padding, with this `model.attention`."""
    return config.model_type in PACKED_TYPES and attention in ("auto", "sdpa")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the tokens of rows are when they are packed.

    `tokens` (N,) their places among the padded ones (B x T), left-padded; `copies` (B x T) which token stands at each
    of those, N at padding: a shared one at several; `predictors` (L,) the token that predicts each label, `labels` (L,)
    its place among B x R; `ends` (B,) the last token of each row.

    In attention, segments are right-padded within their group: `slots` (N,) is each token's place among the M of the
    queries, `sources` (M,) which token each of those is, 0 for padding. `keys` (K,) is the same of the keys: of each
    segment its own tokens, padded to S, and then its context, padded to C. `contexts` (segments in all) is how many
    tokens of context each has, in the order of the groups.
    """

    groups: tuple[Group, ...]
    tokens: Tensor
    copies: Tensor
    slots: Tensor
    sources: Tensor
    keys: Tensor
    contexts: Tensor
    predictors: Tensor
    labels: Tensor
    ends: Tensor
    shares: bool = False

    def map(self, change: Callable[[Tensor], Tensor]) -> Packing:
        """The same with every tensor changed."""
        changed: dict[str, Any] = {
            name: change(value) for name in self.__slots__ if isinstance(value := getattr(self, name), torch.Tensor)
        }
        return replace(self, **changed)

    def to(self, device: torch.device) -> Packing:
        """The same on another device."""
        return self.map(lambda tensor: send(tensor, device))


def send(tensor: Tensor, device: torch.device | str | int | None) -> Tensor:
    """A tensor of the host on a device, without waiting for it: a GPU copies from pinned memory meanwhile.

    accelerate, which moves what layers are given, names devices in any way, and none where all stays.
    """
    if device is None:
        return tensor
    target = torch.device(device)
    if target.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(target, non_blocking=True)


def pack(rows: Sequence[TokenRow], *, width: int, span: int, shares: bool = False) -> Packing | None:
    """Where the tokens of left-padded rows are, `width` wide with `span` label positions; None where a label has
    nothing before it, and where there are no tokens.

    With `shares` what rows begin with in common stands once; any rows may stand together, it is found out which share.
    """
    lengths, labels = torch.tensor([(len(row.ids), row.labels) for row in rows]).view(-1, 2).T
    if not lengths.sum() or any(row.labels and not row.label_start for row in rows):
        return None
    tree = prefix_tree(rows) if shares else rows_apart(rows)
    sizes = torch.tensor([segment.length for segment in tree.segments])
    firsts = sizes.cumsum(0) - sizes  # token of each segment
    number, begin = torch.tensor([(segment.row, segment.begin) for segment in tree.segments]).T
    first_place = torch.arange(len(rows)) * width + width - lengths  # of each row
    of_rows = _tokens_on(tree.paths, firsts, sizes)
    copies = torch.full((len(rows) * width,), int(sizes.sum()))
    copies[ranges(first_place, lengths)] = of_rows
    ends = lengths.cumsum(0)
    return Packing(
        tokens=ranges(first_place[number] + begin, sizes),
        copies=copies,
        predictors=of_rows[ranges(ends - labels - 1, labels)],
        labels=ranges(torch.arange(len(rows)) * span + span - labels, labels),
        ends=of_rows[ends - 1],
        shares=shares,
        **_attention_places(tree, firsts, sizes),
    )


def _attention_places(tree: Tree, firsts: Tensor, sizes: Tensor) -> dict[str, Any]:
    """The part of a packing that attention reads; `firsts` and `sizes` are the tokens of each segment."""
    groups: list[Group] = []
    slots = torch.zeros(int(sizes.sum()), dtype=torch.long)
    sources, keys, contexts = [], [], []
    place = 0
    for members in _groups_of_like_lengths(tree):
        paths = [tree.segments[number].parents for number in members]
        numbers, of_context = torch.tensor(members), _tokens_on(paths, firsts, sizes)
        length = sizes[numbers]
        context = torch.tensor([sum(tree.segments[parent].length for parent in path) for path in paths])
        group = Group(len(members), int(length.max()), int(context.max()))
        row = torch.arange(len(members))
        tokens = ranges(firsts[numbers], length)
        source = torch.zeros(group.keys, dtype=torch.long)
        source.view(-1)[ranges(row * source.shape[1], length)] = tokens
        source.view(-1)[ranges(row * source.shape[1] + group.longest, context)] = of_context
        slots[tokens] = place + ranges(row * group.longest, length)
        place += group.segments * group.longest
        groups.append(group)
        sources.append(source[:, : group.longest].flatten())
        keys.append(source.flatten())
        contexts.append(context)
    return {
        "groups": tuple(groups),
        "slots": slots,
        "sources": torch.cat(sources),
        "keys": torch.cat(keys),
        "contexts": torch.cat(contexts),
    }


def _groups_of_like_lengths(tree: Tree) -> list[list[int]]:
    """Segments of which own tokens and context have as many binary digits each."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, segment in enumerate(tree.segments):
        context = sum(tree.segments[parent].length for parent in segment.parents)
        groups.setdefault((context.bit_length(), segment.length.bit_length()), []).append(number)
    return [groups[size] for size in sorted(groups)]


def _tokens_on(paths: Sequence[Sequence[int]], firsts: Tensor, sizes: Tensor) -> Tensor:
    """The tokens of paths of segments, path after path."""
    numbers = torch.tensor([number for path in paths for number in path], dtype=torch.long)
    return ranges(firsts[numbers], sizes[numbers])


def ranges(firsts: Tensor, lengths: Tensor) -> Tensor:
    """first, first + 1, ... of each length, one range after another."""
    ends = lengths.cumsum(0)
    return torch.arange(int(lengths.sum())) + (firsts - ends + lengths).repeat_interleave(lengths)

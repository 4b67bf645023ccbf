"""Which rows and labels of a micro-batch have which role, found out on the host before anything runs on a device.

Looking it up there would have the host wait for the device. Shapes: B rows, L labels of all rows, one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lume_run.methods.needs import Needs, Role
from lume_run.models.rows.batch import Batch
from lume_run.models.rows.head import LabelSegment, Reading, ReferenceLogits
from lume_run.models.rows.packed import send


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOrder:
    """Labels by the role of their row: `order` (L,) of them, None where they stand so; (role, from, to) of each."""

    order: Tensor | None
    segments: tuple[tuple[int, int, int], ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> LabelOrder:
        """The same with the tensor changed, where there is one."""
        return self if self.order is None else replace(self, order=change(self.order))


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """`members`: the rows (b,) of each role. `labels`: the order in which their labels are read, None for no packing.

    `in_reference` (B,): which rows the frozen target runs on; `reference` are those, or, with `is_empty`, a row that
    stands in for none; `reference_labels` and `reference_members` are the same of them.
    """

    members: Mapping[Role, Tensor]
    labels: LabelOrder | None
    in_reference: Tensor
    reference: Batch | None = None
    is_empty: bool = False
    reference_labels: LabelOrder | None = None
    reference_members: Mapping[Role, Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> RolePlan:
        """The same with every tensor changed."""
        changed: dict[str, Any] = {
            name: value.map(change)
            for name in ("labels", "reference", "reference_labels")
            if (value := getattr(self, name)) is not None
        }
        for name in ("members", "reference_members"):
            changed[name] = {role: change(numbers) for role, numbers in getattr(self, name).items()}
        return replace(self, in_reference=change(self.in_reference), **changed)

    def to(self, device: torch.device) -> RolePlan:
        """The same on another device."""
        return self.map(lambda tensor: send(tensor, device))


@dataclass(frozen=True, slots=True)
class HostBatch:
    """A batch on the host: its tensors, and which of its rows and labels have which role."""

    batch: Batch
    plan: RolePlan

    def pinned(self) -> HostBatch:
        """The same in memory that a GPU copies from while the host goes on."""
        return HostBatch(self.batch.map(Tensor.pin_memory), self.plan.map(Tensor.pin_memory))


def plan_roles(batch: Batch, needs: Needs) -> RolePlan:
    """The plan of a batch on the host."""
    roles = batch.role.tolist()
    chosen = [role in needs.live_reference for role in roles]
    in_reference = torch.tensor(chosen)
    reference = None
    if needs.live_reference:  # with none it still runs, on one row, so that devices stay in step
        taken = in_reference if any(chosen) else torch.arange(len(chosen)) == 0
        reference = batch.take(taken)
    of_reference = [] if reference is None or not any(chosen) else reference.role.tolist()
    return RolePlan(
        members=rows_by_role(roles, needs.rows),
        labels=None if batch.packing is None else order_labels(roles, [row.labels for row in batch.rows]),
        in_reference=in_reference,
        reference=reference,
        is_empty=not any(chosen),
        reference_labels=None
        if reference is None or reference.packing is None
        else order_labels(of_reference, [row.labels for row in reference.rows] if of_reference else []),
        reference_members=rows_by_role(of_reference, needs.live_reference),
    )


def rows_by_role(roles: Sequence[int], wanted: Set[Role]) -> dict[Role, Tensor]:
    """The numbers of the rows that have each role."""
    return {
        role: torch.tensor([n for n, other in enumerate(roles) if other == role], dtype=torch.long) for role in wanted
    }


def order_labels(roles: Sequence[int], labels: Sequence[int]) -> LabelOrder:
    """Labels of so many each row, by the role of their row, and in order within a role."""
    of_labels = np.repeat(np.array(roles, dtype=np.int64), np.array(labels, dtype=np.int64))
    order = np.argsort(of_labels, kind="stable")
    segments, begin = [], 0
    for role, count in zip(*np.unique(of_labels, return_counts=True), strict=True):
        segments.append((int(role), begin, begin + int(count)))
        begin += int(count)
    in_order = bool((order == np.arange(len(order))).all())
    return LabelOrder(order=None if in_order else torch.from_numpy(order), segments=tuple(segments))


def reading_of(batch: Batch, plan: RolePlan, needs: Needs, reference: ReferenceLogits | None) -> Reading:
    """What is read of a batch's labels: their log-probabilities, and the losses of those of their role."""
    assert batch.packing is not None
    assert plan.labels is not None
    targets = batch.targets.flatten().index_select(0, batch.packing.labels)
    columns = list(enumerate(needs.token_losses, 1))
    segments = [
        LabelSegment(begin=begin, end=end, losses=[(column, loss) for column, loss in columns if loss.role == role])
        for role, begin, end in plan.labels.segments
    ]
    return Reading(
        segments=segments,
        targets=targets if plan.labels.order is None else targets.index_select(0, plan.labels.order),
        columns=1 + len(columns),
        order=plan.labels.order,
        reference=reference,
    )

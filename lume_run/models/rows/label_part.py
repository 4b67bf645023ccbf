"""Some labels and what is read of the logits that predict them: the numbers, and the gradient of the logits.

Both pass over the logits a few rows at a time, which a CPU's cache holds. Shapes: L labels, V vocabulary, K numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lume_run.common.logits import row_slices, to_float32
from lume_run.methods.needs import TokenLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPart:
    """Which labels, the tokens (L,) they are, their losses by column, and where they stand in the reference."""

    labels: slice
    targets: Tensor
    losses: Sequence[tuple[int, TokenLoss]]
    in_reference: slice | None

    def read(self, logits: Tensor, reference: Tensor | None, *, numbers: Tensor, totals: Tensor) -> None:
        """Write log p(label) and the losses of logits (L, V) into `numbers` (L, K), log sum exp into `totals` (L,)."""
        for rows in row_slices(logits):
            some, targets, theirs = logits[rows], self.targets[rows], None if reference is None else reference[rows]
            totals[rows] = to_float32(some).logsumexp(-1)
            numbers[rows, 0] = to_float32(some.gather(-1, targets[:, None])[:, 0]) - totals[rows]
            for column, loss in self.losses:
                numbers[rows, column] = loss.at_tokens(some, targets, theirs).to(numbers.dtype)

    def to_gradient(
        self,
        logits: Tensor,
        reference: Tensor | None,
        totals: Tensor,
        of_numbers: Tensor,
        chain: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """In the memory of logits (L, V), the gradient of what `chain` leads back to; `of_numbers` (L, K) is given."""
        for rows in row_slices(logits):
            some, theirs = logits[rows], None if reference is None else reference[rows]
            gradient = self._logit_gradient(some, self.targets[rows], theirs, totals[rows], of_numbers[rows])
            logits[rows] = chain(gradient, some)
        return logits

    def _logit_gradient(
        self, logits: Tensor, targets: Tensor, reference: Tensor | None, totals: Tensor, of_numbers: Tensor
    ) -> Tensor:
        """Of log p(label) = z_label - log sum exp z, and of the losses."""
        of_logp = of_numbers[:, :1]
        gradient = torch.sub(to_float32(logits), totals[:, None]).exp_()
        gradient.mul_(-of_logp).scatter_add_(1, targets[:, None], of_logp)
        for column, loss in self.losses:
            if loss.differentiable:
                with torch.enable_grad():
                    leaf = logits.detach().requires_grad_()
                    values = loss.at_tokens(leaf, targets, reference)
                    (further,) = torch.autograd.grad(values, leaf, of_numbers[:, column].to(values.dtype))
                gradient += further
        return gradient

"""An unlearning method is a weighted forget objective plus a weighted retain regulariser.

GradDiff, NPO+GD, GA+KL, ME+GD, IDK+AP and their kin are pairs of parts, so the parts are written once and
paired in YAML (`conf/method/*.yaml`, or `method/forget=... method/retain=...` on the command line).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from lume_run.common.lazy import torch
from lume_run.config.fields import setting
from lume_run.methods.base import Losses, Signals
from lume_run.methods.likelihood import mean_nll
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor


Named = TypeVar("Named")  # a method, or a part of one


def with_token_ids(named: Named, ids_of: Callable[[str], tuple[int, ...]]) -> Named:
    """A method or a part of one, knowing the ids of the tokens that it names by their text; most name none.

    `ids_of` gives the ids of a text in the middle of another. Methods see no tokenizer, so this is how one tells them.
    """
    named_by_text = getattr(named, "with_token_ids", None)
    return named if named_by_text is None else named_by_text(ids_of)


class Part(Protocol):
    """A forget objective or a retain regulariser: a micro-batch's share of the step's loss."""

    @property
    def needs(self) -> Needs:
        """What must be computed for it."""
        ...

    def __call__(self, s: Signals) -> Tensor:
        """A scalar; summed over the micro-batches of a step it is the step's loss."""
        ...


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of `Sum`."""

    part: Part
    weight: float = setting(1.0, help="weight of this part")


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Several parts in one place, such as KL and NLL on retain rows together."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for no terms at all."""
        if not self.terms:
            raise ValueError("a sum takes at least one term")

    @property
    def needs(self) -> Needs:
        """What all terms need together."""
        needs = Needs(logits=False)
        for term in self.terms:
            needs |= term.part.needs
        return needs

    def with_token_ids(self, ids_of: Callable[[str], tuple[int, ...]]) -> Sum:
        """Each term with the ids of the tokens that it names."""
        return Sum(terms=tuple(replace(term, part=with_token_ids(term.part, ids_of)) for term in self.terms))

    def __call__(self, s: Signals) -> Tensor:
        """The weighted sum of the terms."""
        return torch.stack([term.weight * term.part(s) for term in self.terms]).sum()


@dataclass(frozen=True, kw_only=True)
class StopWhen:
    """Bounds that end unlearning early; the run then evaluates, and says which bound was reached."""

    forget_loss: float | None = setting(None, help="stop after a step whose forget loss is at or below this")
    retain_nll: float | None = setting(
        None, low=0, help="stop after a step whose retain NLL [nats/token] is at least this"
    )
    disruption: float | None = setting(
        None, low=0, open_low=True, help="largest KL from the model before on a plain text [nats/token]"
    )
    disruption_text: str | None = setting(None, help="file of that text")
    disruption_every: int = setting(5, low=1, help="steps from one look at it to the next")
    knowledge: Literal["forget", "retain"] | None = setting(
        None, help="MUSE: take the first epoch that knows no more of this side than a retrained model"
    )

    def __post_init__(self) -> None:
        """Raises ValueError for a bound without its text, and for a text without a bound."""
        if (self.disruption is None) != (self.disruption_text is None):
            given, other = ("disruption", "disruption_text=FILE, such as the test text of WikiText")
            if self.disruption is None:
                given, other = "disruption_text", "disruption=0.01"
            raise ValueError(f"{given} stands alone; add stop_when.{other}")

    def stop_reason(self, step: Mapping[str, float]) -> str | None:
        """Which bound a step's logged parts reached, in words."""
        forget, retain = step.get("forget_loss"), step.get("retain_nll")
        if self.forget_loss is not None and forget is not None and forget <= self.forget_loss:
            return f"forget loss {forget:.4g} reached method.stop_when.forget_loss={self.forget_loss:g}"
        if self.retain_nll is not None and retain is not None and retain >= self.retain_nll:
            return f"retain NLL {retain:.4g} reached method.stop_when.retain_nll={self.retain_nll:g}"
        return None


@dataclass(frozen=True, kw_only=True)
class Dual:
    """Primal-dual weighting (PDU, arXiv:2506.05314): the retain weight rises while the retain loss is above `bound`.

    After each step the weight becomes max(0, weight + step_size (retain loss - bound)). The released code
    updates once a micro-batch, which is the same without accumulation.
    """

    bound: float | None = setting(None, low=0, help="retain loss that is allowed; null: a constant weight")
    step_size: float = setting(1.0, low=0, open_low=True, help="how fast the weight follows")
    warmup_steps: int = setting(0, low=0, help="steps before the first update")

    def weight(self, last: Mapping[str, float], start: float, bound: float) -> float:
        """The retain weight of this step, from what the step before logged."""
        before = last.get("retain_weight", start)
        if not last or last["step"] <= self.warmup_steps:
            return before
        return max(0.0, before + self.step_size * (last["retain_loss"] - bound))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`forget_weight` x forget + `retain_weight` x retain. Without a retain part no retain row is read."""

    name: str
    forget: Part
    retain: Part | None = None
    forget_weight: float = setting(1.0, low=0, help="weight of the forget objective")
    retain_weight: float = setting(1.0, low=0, help="weight of the retain regulariser")
    idk_file: str | None = setting(None, help="your own refusals, one a line, for IDK, DPO and AP")
    stop_when: StopWhen = setting(factory=StopWhen, help="bounds that end unlearning early, see StopWhen")
    dual: Dual = setting(factory=Dual, help="primal-dual retain weight, see Dual")

    @property
    def needs(self) -> Needs:
        """What both parts need together, and retain rows where `stop_when` has a bound on their NLL.

        Raises ValueError for parts that cannot share a forward.
        """
        needs = self.forget.needs | (self.retain.needs if self.retain else Needs(logits=False))
        if self.stop_when.retain_nll is not None:
            needs = replace(needs, rows=needs.rows | {Role.RETAIN}, logits=True)
        return needs

    def with_token_ids(self, ids_of: Callable[[str], tuple[int, ...]]) -> Objective:
        """Both parts with the ids of the tokens that they name."""
        return replace(self, forget=with_token_ids(self.forget, ids_of), retain=with_token_ids(self.retain, ids_of))

    def __call__(self, s: Signals) -> Losses:
        """The weighted sum, with both parts and the mean NLL of forget and retain answers for the log."""
        forget, parts = self.forget(s), answer_nlls(s)
        if any(role.is_forget for role in s.totals.counts):  # not so in every step that alternates
            parts["forget_loss"] = forget.detach()
        if self.retain is None:
            return Losses(total=self.forget_weight * forget, parts=parts)
        retain, weight = self.retain(s), self.retain_weight
        if Role.RETAIN in s.totals.counts:
            parts["retain_loss"] = retain.detach()
        if (bound := self.dual.bound) is not None:
            weight, share = self.dual.weight(s.last, weight, bound), share_of_step(s)
            parts["retain_weight"] = weight * share
            retain = retain - bound * share
        return Losses(total=self.forget_weight * forget + weight * retain, parts=parts)


def keeps_frozen(method: object, needs: Needs) -> bool:
    """Whether the model before unlearning is run while training goes on: by a loss, or to see how far it went."""
    is_bounded = isinstance(method, Objective) and method.stop_when.disruption is not None
    return bool(needs.live_reference) or is_bounded


def answer_nlls(s: Signals) -> dict[str, Tensor]:
    """Mean NLL [nats a token] of forget and retain answers, where they were computed."""
    if not s.has_logps:
        return {}
    names = {"forget_nll": Role.FORGET, "retain_nll": Role.RETAIN}
    return {name: mean_nll(s, role).detach() for name, role in names.items() if role in s.totals.counts}


def share_of_step(s: Signals) -> Tensor:
    """This micro-batch's share of the step's retain rows; the shares of a step add up to 1."""
    return s.rows(Role.RETAIN).sum() / s.totals.of(Role.RETAIN).rows

"""What a device must hold while training in each launch mode, and while evaluating.

Bytes follow ZeRO (Rajbhandari et al., arXiv:1910.02054, section 5): with N devices stage 1 divides optimizer states
by N, stage 2 gradients too, stage 3 weights too. Activations count the tensors that a Llama-like layer keeps for its
backward pass, and logits the copies a loss makes of them; tests hold both against what torch allocates.
"""

from __future__ import annotations

import math
import os

from lume_run.common.devices import GIB
from lume_run.common.logits import CHUNK_NUMBERS, KEPT_NUMBERS, PART_NUMBERS
from lume_run.config.settings import OptimizationSettings, Settings
from lume_run.evaluation.inside.uds import DepthScore
from lume_run.launch.world import World
from lume_run.methods.baselines import WhosHarryPotter
from lume_run.methods.needs import Needs
from lume_run.methods.objective import keeps_frozen
from lume_run.models.placement import USABLE_MEMORY_SHARE
from lume_run.pipeline.memory.sizes import Lengths, Sizes, phase_of
from lume_run.training.micro_batches import DEFAULT_TOKENS

CARDS = {24: 23.6, 40: 39.4, 80: 79.1, 141: 139.8}  # GB as sold -> GiB as torch reports them
STATE_BYTES = {"sgd": 0, "adafactor": 0, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adamw_torch": 12}
# of a trained weight; 8 with other optimizers: two float32 moments. adamw_torch makes a temporary of 4 in its step.
QUANTISED_BYTES = {"4bit": 0.516, "8bit": 1.0}  # of a weight; 4-bit blocks of 64 share a doubly quantised scale
WIDENED_BYTES = 8  # two float32 copies of a part
LOGIT_BYTES, REFERENCE_LOGIT_BYTES = 20, 6  # where distributions are: bf16 and float32 copies, and their gradients
LATER_LOGITS = 0.7  # of these bytes, made in the backward pass
BUCKET, LIVE_PARAMETERS = (
    500_000_000,
    1_050_000_000,
)  # DeepSpeed's defaults [numbers]: reduced at once; gathered at once
SUB_GROUP = 1_000_000_000  # stepped at once by ZeRO-3
CACHE_ROWS = 256  # rows of an evaluation batch at most


def memory_estimate(
    settings: Settings, sizes: Sizes, *, compute: int, world: World, lengths: Lengths, stage: str
) -> dict[str, float]:
    """Bytes on one device while training, by what takes them; `compute` bytes hold a number of the compute dtype.

    Parts are those of the largest moment, the beginning of a backward pass, so that they add up; what the end of the
    forward pass or the optimizer step need beyond what is not there then counts as their own. Without DeepSpeed all
    weights are trained in float32 under autocast, which keeps a copy of those it multiplies.
    """
    phase, needs, adapters_train = phase_of(settings, stage)
    zero = world.stage > 0
    base = compute if adapters_train or zero else 4  # bytes of a base weight
    tokens = forward_tokens(phase, needs, lengths, world)
    positions = tokens if needs.every_position else math.ceil(tokens * min(1, lengths.labels / lengths.tokens))
    live = keeps_frozen(settings.method if stage == "unlearn" else None, needs)
    frozen = live and (not adapters_train or settings.sequence.keeps_first)
    copied = 0 if adapters_train or zero or compute == 4 else sizes.parameters - sizes.tables
    states = state_bytes(settings, sizes, compute=compute, world=world, stage=stage)
    adds = zero or tokens < step_rows(phase, needs, world) * lengths.tokens  # gradients of forwards, one to another
    of_head = sizes.vocabulary * sizes.hidden * base if adds and needs.logits and not adapters_train else 0
    parts = {
        "weights": states["weights"],
        "autocast copies": copied * compute,
        "gradients": states["gradients"],
        "optimizer": states["optimizer"],
        "unperturbed weights": 4.0 * sizes.trained if phase.sharpness is not None else 0.0,
        "activations": activation_bytes(settings, sizes, compute, base, tokens, lengths),
        "logits": logit_bytes(needs, positions * sizes.vocabulary, compute, in_parts=sizes.plain_head) + of_head,
        "frozen reference": states["frozen reference"],
        "communication": communication_bytes(world, sizes, compute, frozen=frozen),
    }
    if settings.model.gradient_checkpointing is True:  # a layer is computed anew when logits and copies are gone
        kept = sizes.layers * tokens * sizes.hidden * base
        layer, later = parts["activations"] - kept, LATER_LOGITS * (parts["logits"] - of_head)
        parts["activations"] -= min(layer, later)
        parts["autocast copies"] = max(0.0, parts["autocast copies"] - max(layer, later))
    freed = parts["activations"] + parts["logits"] + parts["communication"]
    parts["optimizer"] += max(0.0, step_bytes(world, sizes) - freed)
    return parts


def forward_tokens(phase: OptimizationSettings, needs: Needs, lengths: Lengths, world: World) -> int:
    """Tokens of the fullest forward on a device: at most what the settings say, one row at least."""
    tokens = DEFAULT_TOKENS if phase.micro_batch_tokens == "auto" else phase.micro_batch_tokens
    rows = phase.micro_batch_size or step_rows(phase, needs, world)
    return max(lengths.tokens, min(tokens, rows * lengths.tokens, step_rows(phase, needs, world) * lengths.tokens))


def step_rows(phase: OptimizationSettings, needs: Needs, world: World) -> int:
    """Rows of one optimizer step on one device."""
    forget, retain = (sum(role.is_forget is side for role in needs.rows) for side in (True, False))
    rows = forget + (phase.retain_ratio if forget else 1) * retain
    return -(-phase.batch_size * max(1, rows) // world.size)


def logit_bytes(needs: Needs, numbers: int, compute: int, *, in_parts: bool) -> float:
    """Bytes of so many logits and of their gradients.

    Read `in_parts`, those of a part, and those that are kept where they are few. Where label log-probs alone are read,
    logits and gradients of their size, and a part of them in float32.
    """
    if not needs.logits:
        return 0.0
    reference = REFERENCE_LOGIT_BYTES if needs.reference_logits else 0
    if in_parts and not needs.distributions and not needs.every_position:
        part, keeps = min(numbers, PART_NUMBERS["cuda"]), numbers <= KEPT_NUMBERS["cuda"]
        kept = compute * (2 if reference else 1) * (numbers if keeps else part)
        gradient = 4 + (4 if compute < 4 else 0)  # of a few rows, in float32, beside what is widened for it
        copies = LOGIT_BYTES if needs.token_losses else gradient
        return float(kept + (copies + reference) * min(numbers, CHUNK_NUMBERS))
    if needs.distributions or needs.token_losses:
        return float((LOGIT_BYTES + reference) * numbers)
    widened = WIDENED_BYTES * min(numbers, CHUNK_NUMBERS) if compute < 4 else 0
    return float((2 * compute + reference) * numbers + widened)


def state_bytes(settings: Settings, sizes: Sizes, *, compute: int, world: World, stage: str) -> dict[str, float]:
    """Bytes of what stays on one device between steps: weights, gradients, optimizer states, a frozen reference."""
    phase, needs, adapters_train = phase_of(settings, stage)
    if world.mode == "zero3_offload":
        return dict.fromkeys(("weights", "gradients", "optimizer", "frozen reference"), 0)
    zero = world.stage > 0
    states, gradients, weights = (world.size if world.stage >= divided else 1 for divided in (1, 2, 3))
    trained = compute if zero else 4  # bytes of a trained weight, and of its gradient
    held: float = sizes.parameters * (compute if adapters_train or zero else 4)
    if adapters_train and settings.model.quantize != "none":
        held = sizes.linear * QUANTISED_BYTES[settings.model.quantize] + (sizes.parameters - sizes.linear) * compute
    live = keeps_frozen(settings.method if stage == "unlearn" else None, needs)
    has_frozen = live and (not adapters_train or settings.sequence.keeps_first)
    frozen = sizes.parameters * compute if has_frozen else 0
    moments = STATE_BYTES.get(phase.optimizer, 8)
    return {
        "weights": (held + sizes.adapters * trained) / weights,
        "gradients": sizes.trained * trained / gradients,
        "optimizer": sizes.trained * (moments + (4 if zero else 0)) / states,
        "frozen reference": frozen / weights,
    }


def activation_bytes(
    settings: Settings, sizes: Sizes, compute: int, residual: int, tokens: int, lengths: Lengths
) -> float:
    """Bytes kept for the backward pass of `tokens`: of all layers, or their inputs and one layer anew.

    A layer keeps the inputs of its two norms in float32, and in the compute dtype the norms' outputs, queries, keys,
    values, the attention's output and copies of these (11 vectors), and 4 vectors of the gated MLP.
    """
    layer = tokens * (8 * sizes.hidden + compute * (11 * sizes.hidden + 4 * sizes.intermediate))
    if settings.model.attention == "eager":  # scores, and their softmax in float32
        layer += tokens * lengths.tokens * sizes.heads * (4 + 2 * compute)
    if settings.model.gradient_checkpointing is not True:
        return sizes.layers * layer
    return sizes.layers * tokens * sizes.hidden * residual + layer


def communication_bytes(world: World, sizes: Sizes, compute: int, *, frozen: bool) -> float:
    """Bytes on their way between devices: DDP's copy of all gradients, DeepSpeed's buckets, weights ZeRO-3 gathers."""
    if world.stage == 3:
        live = min(LIVE_PARAMETERS, sizes.parameters) * (2 if frozen else 1)
        return float((BUCKET + live) * compute)
    if world.stage:
        return float(BUCKET * compute * (2 if world.size > 1 else 1))
    return sizes.trained * 4.0 if world.size > 1 else 0.0


def step_bytes(world: World, sizes: Sizes) -> float:
    """Bytes of the float32 gradients that DeepSpeed makes for its step; offloaded ones are on the host."""
    share = sizes.trained / world.size
    if world.mode == "zero3_offload" or not world.stage:
        return 0.0
    return 4 * (min(SUB_GROUP, share) if world.stage == 3 else share)


def host_estimate(sizes: Sizes, world: World, compute: int) -> float:
    """Bytes of host memory on each node that ZeRO-3 with offload takes.

    Weights and gradients, and in float32 gradients, weights and two moments.
    """
    if world.mode != "zero3_offload":
        return 0.0
    return (sizes.parameters * compute + sizes.trained * (compute + 16)) / world.nodes


def evaluation_estimate(settings: Settings, sizes: Sizes, compute: int) -> dict[str, float]:
    """Bytes on one device while answering: plain weights, keys and values of the largest batch, logits of labels.

    With patched states the model from before unlearning is there as well; where two models answer as one both are, with
    keys, values and logits of their own. A batch that does not fit is halved, so that
    what must be there is the weights and one row.
    """
    evaluator = settings.evaluator
    tokens = evaluator.batch_tokens + CACHE_ROWS * evaluator.max_new_tokens
    answering = 1 + isinstance(settings.method, WhosHarryPotter)
    models = answering + any(isinstance(suite, DepthScore) for suite in evaluator.suites.values())
    return {
        "weights": models * sizes.parameters * compute,
        "keys and values": answering * 2 * sizes.layers * sizes.key_value * compute * tokens,
        "logits": answering * evaluator.batch_tokens * sizes.vocabulary * compute,
    }


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cards_for(total: float) -> list[int]:
    """The cards [GB, as sold] that hold so many bytes."""
    return [name for name, size in CARDS.items() if total <= USABLE_MEMORY_SHARE * size * GIB]

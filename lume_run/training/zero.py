"""DeepSpeed ZeRO: its settings, and weights that ranks hold together, read from checkpoints and saved as one model.

Under ZeRO-3 every rank holds a part of each weight, so saving is a collective: all take part, the first writes.
"""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lume_run.common.devices import rank
from lume_run.launch.collectives import barrier
from lume_run.launch.world import World
from lume_run.models.load import save_model
from lume_run.models.precision import is_quantised
from lume_run.training.checkpoints import COMPLETE
from lume_run.training.trainer import UnlearnTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNIVERSAL = "latest_universal"  # DeepSpeed writes it last


def shard_frozen(frozen: nn.Module, world: World, *, bf16: bool) -> nn.Module:
    """A frozen model that can run: under ZeRO-3, which loads it in parts, as an engine of its own; itself otherwise."""
    if world.stage < 3:
        return frozen
    import deepspeed

    config = {**(deepspeed_config(world, bf16=bf16) or {}), "gradient_accumulation_steps": 1}
    config.pop("gradient_clipping")
    config["zero_optimization"].pop("offload_optimizer", None)
    engine: nn.Module = deepspeed.initialize(model=frozen, config=config)[0]
    engine.eval()  # which, unlike torch's, returns None
    return engine


@contextmanager
def load_unsharded() -> Iterator[None]:
    """Load models whole, although training shards what is loaded."""
    from transformers.integrations import deepspeed as integration

    config = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None and config() is not None:
            integration.set_hf_deepspeed_config(config())


def reshard_checkpoint(trainer: UnlearnTrainer, checkpoint: Path) -> None:
    """Have DeepSpeed resume from a checkpoint that another number of ranks wrote; all ranks together.

    The first rank rewrites it as DeepSpeed's universal checkpoint, with the optimizer states of each weight as a whole.
    """
    if not trainer.is_deepspeed_enabled or World.read(checkpoint, COMPLETE).size == trainer.world.size:
        return
    if rank() == 0 and not (checkpoint / UNIVERSAL).exists():
        from deepspeed.checkpoint import ds_to_universal

        universal = checkpoint / "universal"
        shutil.rmtree(universal, ignore_errors=True)  # of an interrupted rewrite
        pieces = checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip()
        folders = {"input_folder": str(pieces), "output_folder": str(universal)}
        options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            ds_to_universal.main(Namespace(**folders, **options, inject_missing_state=True))
    barrier()
    trainer.args.hf_deepspeed_config.config["checkpoint"] = {"load_universal": True}


def read_weights(trainer: UnlearnTrainer, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model being trained; all ranks together."""
    if trainer.is_deepspeed_enabled:
        trainer.model_wrapped._config.load_universal_checkpoint = (checkpoint / UNIVERSAL).exists()
        from transformers.integrations.deepspeed import deepspeed_load_checkpoint

        deepspeed_load_checkpoint(trainer.model_wrapped, str(checkpoint))
    else:
        trainer._load_from_checkpoint(str(checkpoint))


def save_trained_model(
    trainer: UnlearnTrainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    keep_adapters: bool,
    reload: Callable[[], nn.Module],
    adapter: Path | None = None,
    trains_on: bool = False,
) -> None:
    """Write the trained model as one folder; all ranks together. It stays as it is where it `trains_on`.

    `reload` loads what training began with, whole: adapters of a sharded or quantised model, or of one that trains on,
    are merged into that.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    in_parts = trainer.is_deepspeed_enabled and trainer.accelerator.deepspeed_plugin.zero_stage == 3
    in_few_bits = is_quantised(model) and not keep_adapters  # adapters alone are in float32
    if in_parts or in_few_bits or (trains_on and hasattr(model, "merge_and_unload")):
        weights: dict[str, Tensor] = (
            trainer.accelerator.get_state_dict(trainer.model_wrapped) if in_parts else model.state_dict()
        )
        if rank() == 0:
            options: dict[str, Any] = {"keep_adapters": keep_adapters, "adapter": adapter}
            _save_gathered(model, weights, tokenizer, folder, reload=reload, **options)
    elif rank() == 0:
        save_model(model, tokenizer, folder, keep_adapters=keep_adapters, adapter=adapter)
    barrier()


def _save_gathered(
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    keep_adapters: bool,
    adapter: Path | None,
    reload: Callable[[], nn.Module],
) -> None:
    """Write gathered weights; adapters are put on a model of their own, for this one cannot take them."""
    if not hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder, state_dict=weights, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        return
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    whole = reload()
    set_peft_model_state_dict(whole, get_peft_model_state_dict(model, state_dict=weights))
    save_model(whole, tokenizer, folder, keep_adapters=keep_adapters, adapter=adapter)


def deepspeed_config(world: World, *, bf16: bool) -> dict[str, Any] | None:
    """DeepSpeed's settings for a mode, in the words of the transformers integration; None without DeepSpeed."""
    if not world.stage:
        return None
    skip_kernel_compilation()
    read_tensors_only()
    zero: dict[str, Any] = {"stage": world.stage, "contiguous_gradients": True, "overlap_comm": world.size > 1}
    if world.stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if world.mode == "zero3_offload":
        pinned = {"device": "cpu", "pin_memory": True}
        zero |= {"offload_optimizer": pinned, "offload_param": pinned}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def read_tensors_only() -> None:
    """Have DeepSpeed read checkpoints as tensors and plain values: a planted pickle could run any code.

    It asks torch for whole pickles, which this variable overrules; the classes are those that it stores beside tensors.
    """
    import torch
    from deepspeed.runtime.fp16 import loss_scaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    scalers = [loss_scaler.LossScaler, loss_scaler.DynamicLossScaler]
    torch.serialization.add_safe_globals([*scalers, ZeroStageEnum, fragment_address, slice])


def skip_kernel_compilation() -> None:
    """Keep DeepSpeed from compiling an operator as it starts on CPUs: only its inference engine would use that.

    It would need a C++ compiler and half a minute.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}

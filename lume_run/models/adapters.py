"""The folder of a LoRA adapter: the model below it, whether it is whole, and merging it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.errors import RunError
from lume_run.models.files.faults import explain_loading, unavailable_model_error, weight_fault
from lume_run.models.files.values import stored_names, stored_weights, value_fault
from lume_run.models.weights import adapted_and_tied

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PART = "folder of an adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A model with the adapter in a folder merged into it; RunError where that is not whole or of another model."""
    from peft import PeftModel

    require_adapter_weights(folder)
    with explain_loading(str(folder), PART):
        adapted: Any = PeftModel.from_pretrained(model, folder)
        if fault := adapter_fault(adapted, "default", folder):
            raise unavailable_model_error(str(folder), ValueError(fault), PART)
        merged: PreTrainedModel = adapted.merge_and_unload()
        if fault := value_fault(merged.named_parameters()):
            raise unavailable_model_error(str(folder), ValueError(fault), PART)
    merged.name_or_path = str(folder)  # an adapter trained on it belongs to it, not to the model below
    return merged.requires_grad_(True)  # under the adapter it was frozen


def require_adapter_weights(folder: Path) -> None:
    """RunError where a folder holds no safetensors: other formats run code when they are read."""
    if ADAPTER_WEIGHTS not in stored_names(folder):
        raise RunError(f"{folder} holds no safetensors\n  - save the adapter again: {ADAPTER_WEIGHTS}")


def adapter_fault(model: Any, name: str, folder: Path) -> str:
    """What is wrong where the weights in the folder of an adapter are not those that it has in the model."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    wanted = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}
    stored: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            stored |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118 - no dict
    differing = [(key, stored[key], wanted[key]) for key in wanted.keys() & stored.keys() if stored[key] != wanted[key]]
    report = {
        "missing_keys": wanted.keys() - stored.keys(),
        "unexpected_keys": stored.keys() - wanted.keys(),
        "mismatched_keys": differing,
    }
    return weight_fault(report)


def adapter_folder_fault(folder: Path, model: PreTrainedModel) -> str:
    """What keeps the adapter in a folder from being put on a model, which may be on the meta device; "" if nothing."""
    from peft import PeftConfig, get_peft_model

    require_adapter_weights(folder)
    with explain_loading(str(folder), PART):
        config = PeftConfig.from_pretrained(folder)
        adapted: Any = get_peft_model(model, config)
    if not hasattr(adapted, "merge_and_unload"):
        return f"it is one of {config.peft_type}, which puts tokens before every text and cannot be merged into weights"
    if tied := adapted_and_tied(adapted):
        return f"it is on {tied}, which shares its weights between embedding and head, and cannot be merged into it"
    return adapter_fault(adapted, "default", folder) or value_fault(stored_weights(folder))

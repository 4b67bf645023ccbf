"""What is wrong with a model in words: what the libraries raise, weights that do not fit, values of its configs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

from lume_run.common.devices import is_out_of_memory
from lume_run.common.errors import InputError, LumeError, RunError

REASON_LETTERS = 300  # of what a library says
SIZES = {  # whole numbers of a config, the least that each may be
    "vocab_size": 1,
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8,  # as of `model.max_length`
    "sliding_window": 1,
}
RELATIVE = {"bloom", "mpt", "roformer"}  # model types that know distances between tokens alone
POSITIONS_BY_PAD = {  # whose positions begin behind the number of their pad token
    *("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # what families call how many there are
CONFIG_BOUNDS = {r".*(dropout|pdrop)": (0, 1), r".*(_eps|_epsilon)": (0, 1)}  # by names: from, to
ROPE_BOUNDS = {"rope_theta": (1, inf), "factor": (1, inf)}
GENERATION_BOUNDS = {
    "temperature": (0, inf),
    "top_p": (0, 1),
    "top_k": (-1, inf),  # where it is off, some write 0 and some -1
    "repetition_penalty": (0, inf),
    "max_length": (1, inf),
    "max_new_tokens": (1, inf),
    "num_beams": (1, inf),
    "num_return_sequences": (1, inf),
}
GENERATION_SWITCHES = ("do_sample", "use_cache", "output_scores")


@contextmanager
def explain_loading(path: str, part: str = "model folder") -> Iterator[None]:
    """Turn what the libraries raise about the files of a model, whatever it is, into an error that names it."""
    try:
        yield
    except LumeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise unavailable_model_error(path, error, part) from error


def unavailable_model_error(path: str, error: Exception, part: str = "model folder") -> RunError:
    """The error for a model (or another part of its folder) that could not be loaded, with what to do about it."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    reason = " ".join(lines[:2])[:REASON_LETTERS]
    if len(reason.split()) < 2:  # a name alone, as of a key
        reason = f"{type(error).__name__} {reason}"
    if Path(path).exists():
        return InputError(
            f"The model '{path}' is not a usable {part}: {reason}\n"
            "  - copy or download it again: config.json, weights as safetensors and the tokenizer's files, all whole"
        )
    return RunError(
        f"The model '{path}' is neither a folder here nor reachable on the hub: {reason}\n"
        "  - a gated or private id: set HF_TOKEN and accept its licence on the model's page\n"
        "  - already downloaded elsewhere: point HF_HOME at that cache\n"
        "  - no internet here: copy the folder over and give model.path=FOLDER (and task.data_dir=FOLDER for the data)"
    )


def weight_fault(report: Mapping[str, Any]) -> str:
    """What the library reports of weights that do not fit the config, the first of each kind named; "" if all do."""
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"], key=str)
    faults = []
    if missing:
        faults.append(f"{weights_are(missing)} missing and would be random, first {missing[0]}")
    if unexpected:
        faults.append(
            f"{weights_are(unexpected)} in the files and not in the model of the config, first {unexpected[0]}"
        )
    if mismatched:
        name, there, here = mismatched[0]
        faults.append(f"{weights_are(mismatched)} of another shape, first {name}: {tuple(there)}, not {tuple(here)}")
    return "; ".join(faults)


def weights_are(names: Sequence[object]) -> str:
    """The beginning of a sentence about so many weights."""
    return "1 weight is" if len(names) == 1 else f"{len(names)} weights are"


def config_faults(config: Any) -> Iterator[str]:
    """Values of a transformers config (its part for text) with which no model could run."""
    for name, least in SIZES.items():
        size = getattr(config, name, None)
        if name == "sliding_window" and not getattr(config, "use_sliding_window", True):
            continue  # which some families then set to 0
        sizes = size if isinstance(size, list) and size else [size]  # of each layer, as Gemma 3n's
        if size is not None and not all(isinstance(number, int) and number >= least for number in sizes):
            yield f"{name} is {size!r}, and must be at least {least}"
    asked, experts = getattr(config, "num_experts_per_tok", None), [getattr(config, name, None) for name in EXPERTS]
    if isinstance(asked, int) and any(
        isinstance(count, int) and count and not 1 <= asked <= count for count in experts
    ):
        yield f"num_experts_per_tok is {asked}, and must be at least 1 and at most the number of experts"
    yield from _bound_faults(config.to_dict(), CONFIG_BOUNDS)
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (
        rope,
        *(value for value in rope.values() if isinstance(value, Mapping)),
    ):  # one, or one a kind of layer
        yield from _bound_faults(part, ROPE_BOUNDS)
    if not getattr(config, "return_dict", True):
        yield "return_dict is false, and what the model returns is read by its names"
    names = getattr(config, "architectures", None)
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        yield f"architectures is {names!r}, which is no list of names"
    yield from end_faults(config, config.vocab_size)


def counts_padding(config: Any) -> bool:
    """Whether models of a config of the library give padding positions that cannot be told them otherwise."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    return config.model_type in POSITIONS_BY_PAD or not (takes_positions or config.model_type in RELATIVE)


def _bound_faults(values: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Numbers beyond their bounds; a bound is of all names that its pattern matches."""
    for name, value in values.items():
        for pattern, (low, high) in bounds.items():
            if re.fullmatch(pattern, name) and (fault := number_fault(value, low, high)):
                yield f"{name} is {value!r}, {fault}"


def generation_faults(config: Any, vocabulary: int | None) -> Iterator[str]:
    """Values of a generation config that are no numbers, beyond their bounds, or no tokens of that vocabulary."""
    for name, (low, high) in GENERATION_BOUNDS.items():
        value = getattr(config, name, None)
        if fault := number_fault(value, low, high):
            yield f"{name} is {value!r}, {fault}"
    for name in GENERATION_SWITCHES:
        if not isinstance(value := getattr(config, name, None), bool | None):
            yield f"{name} is {value!r}, which is neither true nor false"
    yield from end_faults(config, vocabulary)


def number_fault(value: Any, low: float, high: float) -> str:
    """Why a value, where there is one, is no number from `low` to `high`; "" where it is."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "which is no number"
    if low <= value <= high and value != inf:
        return ""
    return f"and must be at least {low}" if high == inf else f"and must be from {low} to {high}"


def end_faults(config: Any, vocabulary: int | None) -> Iterator[str]:
    """Ends of texts, by a config, that are no tokens, and a pad below all tokens (-1 is how some write none)."""
    ends = getattr(config, "eos_token_id", None)
    for end in ends if isinstance(ends, list) else [] if ends is None else [ends]:
        if not isinstance(end, int) or not 0 <= end < (vocabulary or end + 1):
            yield f"eos_token_id {end!r} is no token of a vocabulary of {vocabulary}"
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and (not isinstance(pad, int) or pad < -1):
        yield f"pad_token_id {pad!r} is no token"


def quantisation_fault(settings: Any) -> str:
    """Why weights quantised in this way cannot be read here: an unknown method, or a library that is absent."""
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    if settings is None:
        return ""
    given = settings if isinstance(settings, Mapping) else settings.to_dict()
    try:
        AutoHfQuantizer.from_config(AutoQuantizationConfig.from_dict(dict(given))).validate_environment()
    except ImportError as error:
        return f"its weights are quantised by a library that is not installed: {str(error).strip()}"
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        if "quant_method" in given and AutoHfQuantizer.supports_quant_method(dict(given)):
            return ""  # of this machine, say: a plan may be for another
        return f"the quantisation method {given.get('quant_method')!r} is unknown ({type(error).__name__})"
    except RuntimeError:  # no GPU here
        return ""
    return ""

"""vLLM (Kwon et al., arXiv:2309.06180) as what generates, in place of transformers: token ids in, token ids out.

It never sees a text or chooses where one ends: prompts, limits, stop tokens and penalties are those of the
transformers path. It runs in a process of its own, which ends, and frees its memory, before anything else is loaded.
"""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from lume_run.common.devices import device_of, dtype_of
from lume_run.common.errors import RunError
from lume_run.common.lazy import torch
from lume_run.config.model_settings import ModelSettings
from lume_run.launch.lifeline import end_when_closed
from lume_run.launch.preemption import stop_if_requested
from lume_run.models.hub import revision_of
from lume_run.models.load import generation_config_of

ENDING_SECONDS = 60.0
ERROR_CHARACTERS = 400  # of the engine's error
GPU_MEMORY_SHARE = 0.9  # of a GPU's memory; nothing else is on it while the engine runs
# beginnings of the variables that torchrun sets for its ranks
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
UNSUPPORTED_SETTINGS = (  # what a generation config may say about greedy text and vLLM has not, or has in another form
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "min_length",
    "min_new_tokens",
    "stop_strings",
    "watermarking_config",
)
WITHOUT_EFFECT = {"encoder_repetition_penalty": 1.0, "guidance_scale": 1.0}  # besides None, 0 and empty


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running vLLM engine at the other end of a pipe, and the generation config that transformers would obey."""

    pipe: Connection
    generation_config: Any

    def continue_prompts(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        limit: int,
        stops: Sequence[int],
        seeds: Sequence[int] | None,
        temperature: float,
    ) -> list[list[int]]:
        """At most `limit` tokens that follow each prompt, the one of `stops` that ends it included.

        Greedy; with `seeds` each is sampled at this temperature with random numbers of its own. RunError where the
        engine has failed.
        """
        common: dict[str, Any] = {
            "max_tokens": limit,
            "stop_token_ids": list(stops),
            "ignore_eos": True,  # it is one of the stops where it should be
            "detokenize": False,
            "repetition_penalty": getattr(self.generation_config, "repetition_penalty", None) or 1.0,
        }
        sampling: list[dict[str, Any]] = [{"temperature": 0.0}] * len(prompts)
        if seeds is not None:
            sampling = [{"temperature": temperature, "seed": seed} for seed in seeds]
        parameters = [common | of_prompt for of_prompt in sampling]
        tokens: list[list[int]] = ask_engine(self.pipe, ([list(ids) for ids in prompts], parameters))
        return tokens


@contextmanager
def start_engine(
    path: str, settings: ModelSettings, device: torch.device, *, max_length: int, seed: int, devices: int = 1
) -> Iterator[Engine]:
    """An engine with the model at `path`, on this process's GPU or the first `devices` of them; ended afterwards.

    RunError where it does not start, or the model wants a kind of greedy search that vLLM has not.
    """
    config = generation_config_of(path, settings)
    if unsupported := unsupported_settings(config):
        raise RunError(
            f"The generation config of '{path}' sets {', '.join(unsupported)}, which vLLM would not obey as "
            "transformers does; evaluator.backend=transformers."
        )
    options = options_of(path, settings, device, max_length=max_length, seed=seed, devices=devices)
    gc.collect()
    torch.cuda.empty_cache()  # what an earlier stage of this process held; nothing happens without a GPU
    ours, theirs = multiprocessing.Pipe()
    lifeline, held = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=serve_prompts, args=(theirs, lifeline, options))
    with engine_environment(device, devices):
        process.start()
    theirs.close()
    try:
        ask_engine(ours, None)  # answered once it has started
        yield Engine(pipe=ours, generation_config=config)
        ours.close()
        process.join(ENDING_SECONDS)
    finally:
        held.close()
        process.join(ENDING_SECONDS)
        process.kill()  # does nothing where it has ended
        process.join()


def options_of(
    path: str, settings: ModelSettings, device: torch.device, *, max_length: int, seed: int, devices: int
) -> dict[str, Any]:
    """What vLLM is started with."""
    return {
        "model": path,
        "dtype": str(dtype_of(settings.dtype, device)).removeprefix("torch."),
        "max_model_len": max_length,
        "seed": seed,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # what the model's says is in `Engine.continue_prompts`
        "trust_remote_code": settings.trust_remote_code,
        "revision": revision_of(path, settings),
        "tensor_parallel_size": devices,
        "gpu_memory_utilization": GPU_MEMORY_SHARE,
        "enforce_eager": device.type == "cpu",  # compiling takes minutes there
    }


def ask_engine(pipe: Connection, request: Any) -> Any:
    """What the engine's process answers; RunError where it failed, Preempted where this run is to stop."""
    try:
        pipe.send(request)
        failed, answer = pipe.recv()
    except (EOFError, OSError) as error:
        stop_if_requested("generating texts")  # SLURM signals all processes
        raise RunError("The vLLM process ended; its last words are above. evaluator.backend=transformers.") from error
    if failed:
        raise RunError(f"vLLM: {answer}\nIts own words are above; evaluator.backend=transformers does without it.")
    return answer


def serve_prompts(pipe: Connection, lifeline: Connection, options: Mapping[str, Any]) -> None:
    """The engine's process: continues prompts until the pipe is closed, and ends at once where its parent dies."""
    end_when_closed(lifeline.fileno())
    try:
        from vllm import LLM, SamplingParams, TokensPrompt

        llm = LLM(**options)
        pipe.recv()
        pipe.send((False, None))
        while True:
            prompts, parameters = pipe.recv()
            tokens = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
            outputs = llm.generate(tokens, [SamplingParams(**of_prompt) for of_prompt in parameters], use_tqdm=False)
            pipe.send((False, [list(output.outputs[0].token_ids) for output in outputs]))
    except (EOFError, BrokenPipeError):  # nobody asks any more
        return
    except Exception as error:
        traceback.print_exc()
        pipe.send((True, f"{type(error).__name__}: {' '.join(str(error).split())[:ERROR_CHARACTERS]}"))


def unsupported_settings(config: Any) -> list[str]:
    """What a generation config sets and vLLM would not obey in the same way."""
    settings = {name: getattr(config, name, None) for name in UNSUPPORTED_SETTINGS}
    return [name for name, value in settings.items() if value and value != WITHOUT_EFFECT.get(name)]


@contextmanager
def engine_environment(device: torch.device, devices: int) -> Iterator[None]:
    """The environment that the engine's process is started in.

    It is no rank of torchrun: as one, it would wait for the others at torchrun's rendezvous. A rank's engine sees that
    rank's GPU alone.
    """
    changed: dict[str, str | None] = {name: None for name in os.environ if name.startswith(TORCHRUN_VARIABLES)}
    changed |= {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # ends with its parent
    changed["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    if device.type == "cuda" and devices == 1:
        changed["CUDA_VISIBLE_DEVICES"] = visible_device(os.environ.get("CUDA_VISIBLE_DEVICES"), device.index or 0)
    before = {name: os.environ.get(name) for name in changed}
    set_variables(changed)
    try:
        yield
    finally:
        set_variables(before)


def visible_device(names: str | None, index: int) -> str:
    """What CUDA_VISIBLE_DEVICES calls this process's device number `index`."""
    return names.split(",")[index] if names else str(index)


def set_variables(variables: Mapping[str, str | None]) -> None:
    """Set environment variables, or with None remove them."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def vllm_trouble(device: str) -> str:
    """Why vLLM cannot be used on the device a launch setting names; empty where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    try:
        from vllm.platforms import current_platform

        wanted, built = device_of(device).type, str(current_platform.device_type)
    except (RunError, ImportError, OSError, RuntimeError) as error:
        return f"vllm cannot be used: {str(error).split(chr(10))[0]}"
    finds = f"a {built} device" if built else "no device that it supports"
    return "" if built == wanted else f"the installed vllm finds {finds}, and this run takes a {wanted}"

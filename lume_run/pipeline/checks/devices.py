"""What is wrong with how a run is launched: processes, nodes, ports, devices, and the libraries that they need."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from lume_run.common.devices import device_type_of, has_gpu, world_size
from lume_run.common.errors import LumeError, Problem
from lume_run.common.lazy import torch
from lume_run.common.text import shorten_value
from lume_run.config.resolve import value_at
from lume_run.evaluation.inference.vllm import vllm_trouble
from lume_run.launch import slurm
from lume_run.launch.preemption import STOP_FILE_VARIABLE
from lume_run.launch.spawn import is_free
from lume_run.launch.world import ZERO_STAGES
from lume_run.models.hub import is_adapter

DEFAULT_OPTIMIZER = "adamw_torch_fused"
PIP_QUANTIZE = "pip install 'lume-run[quantize]'"


def launch_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Modes, processes, nodes and ports that are unavailable; a plan may be made for those that are not here."""
    launch = data.get("launch")
    launch = launch if isinstance(launch, Mapping) else {}
    name, processes, nodes, port = (launch.get(setting) for setting in ("name", "processes", "nodes", "port"))
    if data.get("stages") == ["score"] or STOP_FILE_VARIABLE in os.environ:  # a rank, whose driver has checked
        return
    if problems := list(_environment_problems()):
        yield from problems
        return
    if not data.get("dry_run"):
        yield from _attention_problems(data)
    if world_size() > 1:
        what = f"this command was started as one of {world_size()} processes (WORLD_SIZE, as torchrun sets it)"
        remedy = f"start it once, without torchrun: launch.processes={world_size()}"
        yield Problem(where="launch", what=what, remedy=remedy)
    elif name == "single":
        for setting, count in (("processes", processes), ("nodes", nodes)):
            if (count or 1) != 1:
                what, remedy = "launch=single is one process", "launch=auto, ddp, zero2 or zero3"
                yield Problem(where=f"launch.{setting}", what=what, remedy=remedy)
    elif not data.get("dry_run"):
        yield from _node_problems(nodes if isinstance(nodes, int) else slurm.default_nodes())
        if name in ZERO_STAGES and importlib.util.find_spec("deepspeed") is None:
            what = f"{name} is DeepSpeed's, which is not installed"
            yield Problem(where="launch", what=what, remedy="pip install deepspeed")
        if isinstance(processes, int):
            yield from _gpu_problems(processes, launch.get("device"))
        if isinstance(port, int) and not is_free(port):
            what, remedy = f"port {port} is in use", "another one, or null for a free one"
            yield Problem(where="launch.port", what=what, remedy=remedy)


def _attention_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """An attention kernel that is not installed, or that has no device to run on."""
    if value_at(data, "model.attention") != "flash_attention_2":
        return
    if importlib.util.find_spec("flash_attn") is None:
        what, remedy = "flash_attention_2 needs flash-attn, which is not installed", "pip install flash-attn, or auto"
        yield Problem(where="model.attention", what=what, remedy=remedy)
    elif value_at(data, "launch.device") == "cpu":
        yield Problem(where="model.attention", what="flash_attention_2 needs a GPU", remedy="model.attention=auto")


def _environment_problems() -> Iterator[Problem]:
    """Variables of torchrun and SLURM that hold no numbers, as an exported shell variable of that name may."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_STEP_NUM_TASKS"):
        text = os.environ.get(name, "0")
        if not text.isdecimal() or (name == "WORLD_SIZE" and name in os.environ and not int(text)):
            what = f"the environment variable holds {shorten_value(text)!r}, which is no number of processes or nodes"
            yield Problem(where=name, what=what, remedy=f"unset {name}")
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if rank.isdecimal() and size.isdecimal() and int(rank) >= max(1, int(size)):
        what = f"the environment says that this is process {rank} of {size}, counted from 0"
        yield Problem(where="RANK", what=what, remedy="unset RANK WORLD_SIZE")


def _node_problems(nodes: int) -> Iterator[Problem]:
    """A command that srun started several times over, more nodes than there are, no way to reach them."""
    allocated = slurm.allocation_size()
    if slurm.step_tasks() > 1:
        what = f"srun started this command {slurm.step_tasks()} times, and each would start processes of its own"
        remedy = "without srun in the script of sbatch, or srun --ntasks=1; launch=single for one each"
        yield Problem(where="launch", what=what, remedy=remedy)
    elif nodes > max(1, allocated):
        here = (
            f"this SLURM allocation has {allocated}" if allocated else "this command does not run in a SLURM allocation"
        )
        remedy = f"run it inside sbatch --nodes={nodes} or salloc --nodes={nodes}, or launch.nodes={allocated or 1}"
        yield Problem(where="launch.nodes", what=f"{nodes} nodes are wanted, and {here}", remedy=remedy)
    elif nodes > 1 and (programs := " and ".join(slurm.missing_programs())):
        what = f"{nodes} nodes, and no {programs} here to start processes on them"
        remedy = "put Slurm's commands into PATH (and into the container), or launch.nodes=1"
        yield Problem(where="launch.nodes", what=what, remedy=remedy)


def _gpu_problems(processes: int, device: Any) -> Iterator[Problem]:
    """More processes than GPUs, where they run on GPUs."""
    gpus = torch.cuda.device_count() if device != "cpu" and has_gpu() else processes
    if processes > gpus:
        what = f"{processes} processes on each node, and {gpus} GPU{'s are' if gpus > 1 else ' is'} visible"
        remedy = f"{gpus}, or null for one on each GPU; CUDA_VISIBLE_DEVICES says which"
        yield Problem(where="launch.processes", what=what, remedy=remedy)


def device_problems(name: str) -> Iterator[Problem]:
    """A device that is not here."""
    try:
        device_type_of(name)
    except (LumeError, RuntimeError) as error:
        yield Problem(where="launch.device", what=str(error).split("\n")[0], remedy="launch.device=auto or cpu")


def quantization_problems(groups: Mapping[str, Any], stages: Any) -> Iterator[Problem]:
    """Settings that need bitsandbytes and cannot have it; groups that are None are skipped."""
    model, trainer, launch = groups["model"], groups["trainer"], groups["launch"]
    mode = launch.name if launch is not None else ""
    evaluator = groups["evaluator"]
    if evaluator is not None and evaluator.backend == "vllm" and model is not None and not _is_plain(model):
        what = "vllm is handed whole models, in the bits that they were saved in"
        yield Problem(where="evaluator.backend", what=what, remedy="evaluator.backend=transformers")
    if model is not None and mode.startswith("zero3") and is_adapter(model.path):
        what = "ZeRO-3 shares weights out as they are loaded, and the adapter of model.path is merged into whole ones"
        yield Problem(where="launch", what=what, remedy="launch=ddp or zero2, or save the merged model first")
    if model is not None and model.quantize != "none":
        yield from _weight_problems(model, mode, trains=stages != ["evaluate"])
    for stage in ("train", "unlearn") if trainer is not None else ():
        optimizer = getattr(trainer, stage).optimizer
        if optimizer.startswith("paged_") or "bnb" in optimizer:
            yield from _optimizer_problems(f"trainer.{stage}.optimizer", optimizer, launch, mode)


def _is_plain(model: Any) -> bool:
    """Whether the model is loaded as it lies."""
    return model.quantize == "none" and not is_adapter(model.path)


def _weight_problems(model: Any, mode: str, *, trains: bool) -> Iterator[Problem]:
    """Why a model's weights cannot be quantised."""
    if is_adapter(model.path):
        what = "the adapter of model.path is merged into weights that are not quantised"
        yield Problem(where="model.quantize", what=what, remedy="save the merged model, or model.quantize=none")
    if trains and not model.lora.enabled:
        what = "only the frozen base under adapters can have fewer bits; weights that train cannot"
        yield Problem(where="model.quantize", what=what, remedy="add model.lora=true, or model.quantize=none")
    if not _has_bitsandbytes():
        what, remedy = f"{model.quantize} needs bitsandbytes", f"{PIP_QUANTIZE}, or model.quantize=none"
        yield Problem(where="model.quantize", what=what, remedy=remedy)
    if mode.startswith("zero3"):
        what = "ZeRO-3 cannot share out quantised weights"
        yield Problem(where="model.quantize", what=what, remedy="launch=ddp or zero2")


def _optimizer_problems(where: str, optimizer: str, launch: Any, mode: str) -> Iterator[Problem]:
    """Why an optimizer of bitsandbytes cannot step."""
    if not _has_bitsandbytes():
        what, remedy = f"{optimizer} needs bitsandbytes", f"{PIP_QUANTIZE}, or {DEFAULT_OPTIMIZER}"
        yield Problem(where=where, what=what, remedy=remedy)
    elif optimizer.startswith("paged_") and launch is not None and not _has_gpu(launch.device):
        what = f"{optimizer} pages states between a GPU and the host, and there is no GPU"
        yield Problem(where=where, what=what, remedy=DEFAULT_OPTIMIZER)
    if mode == "zero3_offload":
        what = f"{optimizer} steps on a GPU, and launch=zero3_offload on the host"
        yield Problem(where=where, what=what, remedy=f"{DEFAULT_OPTIMIZER}, or launch=zero3")


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def _has_gpu(name: str) -> bool:
    try:
        return device_type_of(name) == "cuda"
    except (LumeError, RuntimeError):  # `device_problems` reports an unusable launch.device
        return True


def backend_problems(backend: str, device: str) -> Iterator[Problem]:
    """A backend that cannot run on this machine."""
    if backend == "vllm" and (trouble := vllm_trouble(device)):
        remedy = "pip install 'lume-run[vllm]' on a machine with a GPU, or evaluator.backend=transformers"
        yield Problem(where="evaluator.backend", what=trouble, remedy=remedy)

"""What is wrong with a configuration before anything runs: paths, and settings that exclude each other."""

from __future__ import annotations

import importlib.util
import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lume_run.common.devices import device_of, world_size
from lume_run.common.errors import ConfigError, LumeError, Problem
from lume_run.config.build import Builder
from lume_run.config.resolve import FILES, MAYBE_PATHS, Composed, resolve
from lume_run.config.settings import Checkable, Settings
from lume_run.evaluation.inference.vllm import vllm_trouble
from lume_run.launch import preemption, slurm
from lume_run.launch.spawn import is_free
from lume_run.launch.world import ZERO_STAGES
from lume_run.pipeline.method_checks import (
    _named,
    fine_tuning_problems,
    interface_problems,
    lora_problems,
    method_problems,
    pairing_problems,
)

DEFAULT_OPTIMIZER = "adamw_torch_fused"
PIP_QUANTIZE = "pip install 'lume-run[quantize]'"


def check_config(cfg: Composed) -> tuple[Settings | None, list[Problem], dict[str, Any]]:
    """(settings or None, all problems, the resolved config as data). No model is touched."""
    try:
        data, unresolved = resolve(cfg)
    except ConfigError as error:
        return None, list(error.problems), {}
    given = data.get("allow_external")
    allowed = [entry for entry in given if isinstance(entry, str)] if isinstance(given, list) else []
    walk = Builder(allowed)
    settings = walk.record(Settings, data, "")
    groups = typing.get_type_hints(Settings)
    parts = {  # each alone, so that one group's mistake does not hide another's
        name: Builder(allowed).value(groups[name], data.get(name), name)
        for name in ("task", "model", "method", "evaluator", "trainer", "launch")
    }
    found = walk.problems + combination_problems(data) + path_problems(data) + part_problems(parts, data.get("stages"))
    known = {problem.where for problem in unresolved}
    problems = unresolved + [problem for problem in found if problem.where not in known]
    return (None if problems else settings), problems, data


def require_settings(cfg: Composed) -> tuple[Settings, dict[str, Any]]:
    """Settings and the resolved config; raises ConfigError with every problem."""
    settings, problems, data = check_config(cfg)
    if settings is None:
        raise ConfigError(problems)
    return settings, data


def value_at(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    node: Any = data
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def path_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Folders and files that are named but absent."""
    found = []
    for path in (*FILES, *MAYBE_PATHS):
        value = value_at(data, path)
        if isinstance(value, str) and value.startswith("/") and not Path(value).exists():
            remedy = "check the path, or give a hub id" if path in MAYBE_PATHS else "check the path"
            found.append(Problem(where=path, what=f"{value} does not exist", remedy=remedy))
    return found


def combination_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Settings that are fine alone and impossible together."""
    return _named((*_stage_conflicts(data), *_model_conflicts(data), *_launch_conflicts(data)))


def _stage_conflicts(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    stages, known = data.get("stages"), ["train", "unlearn", "evaluate"]
    if isinstance(stages, list) and stages != ["score"]:
        if not stages:
            yield "stages", "no stage given", "stages=[train,unlearn,evaluate], [evaluate] or [score]"
        elif "score" in stages:
            yield "stages", "score stands alone: it needs responses, not a model", "stages=[score] responses=FILE"
        elif all(stage in known for stage in stages) and stages != [stage for stage in known if stage in stages]:
            yield "stages", f"out of order or repeated: {stages}", "the order is train, unlearn, evaluate"
    if stages == ["score"] and not data.get("responses"):
        remedy = "responses=outputs/.../responses.jsonl or a folder of official CSVs"
        yield "responses", "stage score needs a responses file", remedy
    if stages != ["score"] and value_at(data, "evaluator.mmlu.accuracy") is not None:
        what = "a given accuracy would stand for every model of the run"
        yield "evaluator.mmlu.accuracy", what, "stages=[score] only"
    if stages != ["score"] and data.get("responses"):
        yield "responses", "only stage score reads responses", "add stages=[score], or drop responses"


def _model_conflicts(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    released, path, remedy = value_at(data, "model.is_target"), value_at(data, "model.path"), "model.path=FOLDER_OR_ID"
    if path is None and value_at(data, "model.shape") is None:
        yield "model.path", "neither a path nor a shape to build from", remedy
    if path is None and released:
        yield "model.path", "a target that already memorised the documents must be named", remedy
    if path is None and data.get("stages") == ["evaluate"]:
        yield "model.path", "stages=[evaluate] scores an existing model", remedy
    if released and value_at(data, "task.source") == "builtin":
        what = "the released target never saw the built-in documents"
        yield "task.source", what, "task.source=hub, or task.data_dir=FOLDER"
    if released and value_at(data, "evaluator.retrained") and not value_at(data, "model.base"):
        what = "evaluator.retrained fine-tunes the model from before the documents"
        yield "model.base", what, "model.base=FOLDER_OR_ID"


def _launch_conflicts(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Modes, processes, nodes and ports that cannot be had; a plan may be made for those that are not here."""
    name, processes, nodes, port = (value_at(data, f"launch.{own}") for own in ("name", "processes", "nodes", "port"))
    if data.get("stages") == ["score"] or preemption.STOP_FILE_VARIABLE in os.environ:  # a rank: its driver has looked
        return
    if world_size() > 1:
        what = f"this command was started as one of {world_size()} processes (WORLD_SIZE, as torchrun sets it)"
        yield "launch", what, f"start it once, without torchrun: launch.processes={world_size()}"
    elif name == "single":
        for where in (own for own, value in (("processes", processes), ("nodes", nodes)) if (value or 1) != 1):
            yield f"launch.{where}", "launch=single is one process", "launch=auto, ddp, zero2 or zero3"
    elif not data.get("dry_run"):
        yield from _node_conflicts(nodes if isinstance(nodes, int) else slurm.default_nodes())
        if name in ZERO_STAGES and importlib.util.find_spec("deepspeed") is None:
            yield "launch", f"{name} is DeepSpeed's, which is not installed", "pip install deepspeed"
        if isinstance(processes, int):
            yield from _gpu_conflicts(processes, value_at(data, "launch.device"))
        if isinstance(port, int) and not is_free(port):
            yield "launch.port", f"somebody listens on port {port} already", "another one, or null for a free one"


def _node_conflicts(nodes: int) -> Iterator[tuple[str, str, str]]:
    """A command that srun started several times over, more nodes than there are, no way to reach them."""
    found = slurm.allocation_size()
    if slurm.step_tasks() > 1:
        what = f"srun started this command {slurm.step_tasks()} times, and each would start processes of its own"
        yield "launch", what, "without srun in the script of sbatch, or srun --ntasks=1; launch=single for one each"
    elif nodes > max(1, found):
        what = f"this SLURM allocation has {found}" if found else "this command does not run in a SLURM allocation"
        remedy = f"run it inside sbatch --nodes={nodes} or salloc --nodes={nodes}, or launch.nodes={found or 1}"
        yield "launch.nodes", f"{nodes} nodes are wanted, and {what}", remedy
    elif nodes > 1 and (lacking := " and ".join(slurm.missing_programs())):
        what = f"{nodes} nodes, and no {lacking} here to start processes on them"
        yield "launch.nodes", what, "put Slurm's commands into PATH (and into the container), or launch.nodes=1"


def _gpu_conflicts(processes: int, device: Any) -> Iterator[tuple[str, str, str]]:
    """More processes than GPUs, where they run on GPUs."""
    import torch

    found = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else processes
    if processes > found:
        what = f"{processes} processes on each node, and {found} GPU{'s are' if found > 1 else ' is'} visible"
        yield "launch.processes", what, f"{found}, or null for one on each GPU; CUDA_VISIBLE_DEVICES says which"


def part_problems(parts: Mapping[str, Any], stages: Any) -> list[Problem]:
    """What only the built groups (None: not built) can tell: the task's files, method parts in the wrong place."""
    task, evaluator, trainer, launch = (parts[name] for name in ("task", "evaluator", "trainer", "launch"))
    found = interface_problems("task", task, ("name", "load", "check"))
    if task is not None and not found and stages != ["score"]:
        found += task.check()
    found += method_problems(parts["method"]) + lora_problems(parts["model"])
    if stages != ["score"]:
        found += _named(pairing_problems(parts, stages))
    for name, suite in evaluator.suites.items() if evaluator is not None else ():
        found += interface_problems(f"evaluator.suites.{name}", suite, ("asks", "scores"))
        found += suite.check() if isinstance(suite, Checkable) and stages != ["score"] else []
    if evaluator is not None and evaluator.mmlu.data_dir and Path(evaluator.mmlu.data_dir).exists():
        from lume_run.evaluation.datasets.mmlu import check_folder

        found += check_folder(Path(evaluator.mmlu.data_dir))
    if launch is not None and launch.device != "auto":
        found += _device_problems(launch.device)
    if evaluator is not None and launch is not None and evaluator.backend == "vllm" and stages != ["score"]:
        trouble = vllm_trouble(launch.device)
        remedy = "pip install 'lume-run[vllm]' on a machine with a GPU, or evaluator.backend=transformers"
        found += [Problem(where="evaluator.backend", what=trouble, remedy=remedy)] if trouble else []
    found += fine_tuning_problems(trainer.train) if trainer is not None else []
    found += _named(bits_conflicts(parts)) if stages != ["score"] else []
    return found


def _device_problems(name: str) -> list[Problem]:
    from lume_run.common.devices import device_of

    try:
        device_of(name)
    except (LumeError, RuntimeError) as error:
        return [Problem(where="launch.device", what=str(error).split("\n")[0], remedy="launch.device=auto or cpu")]
    return []


def bits_conflicts(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(where, what, remedy) of settings that take bitsandbytes and cannot have it; groups that are None are skipped."""
    model, trainer, launch = parts["model"], parts["trainer"], parts["launch"]
    installed = importlib.util.find_spec("bitsandbytes") is not None
    mode = launch.name if launch is not None else ""
    if model is not None and model.quantize != "none":
        if not model.lora.enabled:
            what = "only the frozen base under adapters can have fewer bits; weights that train cannot"
            yield "model.quantize", what, "add model.lora=true, or model.quantize=none"
        if not installed:
            yield (
                "model.quantize",
                f"{model.quantize} needs bitsandbytes",
                f"{PIP_QUANTIZE}, or model.quantize=none",
            )
        if mode.startswith("zero3"):
            yield "model.quantize", "ZeRO-3 cannot share out quantised weights", "launch=ddp or zero2"
    for name in ("train", "unlearn") if trainer is not None else ():
        where, optimizer = f"trainer.{name}.optimizer", getattr(trainer, name).optimizer
        if not optimizer.startswith("paged_") and "bnb" not in optimizer:
            continue
        if not installed:
            yield where, f"{optimizer} needs bitsandbytes", f"{PIP_QUANTIZE}, or {DEFAULT_OPTIMIZER}"
        elif optimizer.startswith("paged_") and launch is not None and not _has_gpu(launch.device):
            yield where, f"{optimizer} pages states between a GPU and the host, and there is no GPU", DEFAULT_OPTIMIZER
        if mode == "zero3_offload":
            yield (
                where,
                f"{optimizer} steps on a GPU, and launch=zero3_offload on the host",
                f"{DEFAULT_OPTIMIZER}, or launch=zero3",
            )


def _has_gpu(name: str) -> bool:
    try:
        return device_of(name).type == "cuda"
    except (LumeError, RuntimeError):  # an unusable launch.device is told of elsewhere
        return True

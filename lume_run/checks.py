"""What a config can have wrong beyond types and bounds: absent files, impossible combinations, misplaced parts."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lume_run import parallel, preemption, slurm
from lume_run.bits import bits_conflicts
from lume_run.common.devices import world_size
from lume_run.common.errors import DataError, LumeError, Problem
from lume_run.config.build import TARGET
from lume_run.config.resolve import FILES, MAYBE_PATHS
from lume_run.config.settings import Checked, Lora
from lume_run.evaluation.inference.vllm import vllm_trouble
from lume_run.methods.base import Role
from lume_run.methods.baselines import BASELINES, InContext, MergeAdapters, NoOp, Retrain, TaskVector
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import read_refusals


def get(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    node: Any = data
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def path_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Folders and files that are named but absent."""
    found = []
    for path in (*FILES, *MAYBE_PATHS):
        value = get(data, path)
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
    if stages != ["score"] and get(data, "evaluator.mmlu.accuracy") is not None:
        what = "a given accuracy would stand for every model of the run"
        yield "evaluator.mmlu.accuracy", what, "stages=[score] only"
    if stages != ["score"] and data.get("responses"):
        yield "responses", "only stage score reads responses", "add stages=[score], or drop responses"


def _model_conflicts(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    released, path, remedy = get(data, "model.is_target"), get(data, "model.path"), "model.path=FOLDER_OR_ID"
    if path is None and get(data, "model.shape") is None:
        yield "model.path", "neither a path nor a shape to build from", remedy
    if path is None and released:
        yield "model.path", "a target that already memorised the documents must be named", remedy
    if path is None and data.get("stages") == ["evaluate"]:
        yield "model.path", "stages=[evaluate] scores an existing model", remedy
    if released and get(data, "task.source") == "builtin":
        what = "the released target never saw the built-in documents"
        yield "task.source", what, "task.source=hub, or task.data_dir=FOLDER"
    if released and get(data, "evaluator.retrained") and not get(data, "model.base"):
        what = "evaluator.retrained fine-tunes the model from before the documents"
        yield "model.base", what, "model.base=FOLDER_OR_ID"


def _launch_conflicts(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Modes, processes, nodes and ports that cannot be had; a plan may be made for those that are not here."""
    name, processes, nodes, port = (get(data, f"launch.{own}") for own in ("name", "processes", "nodes", "port"))
    if data.get("stages") == ["score"] or preemption.FILE in os.environ:  # a rank: its driver has looked
        return
    if world_size() > 1:
        what = f"this command was started as one of {world_size()} processes (WORLD_SIZE, as torchrun sets it)"
        yield "launch", what, f"start it once, without torchrun: launch.processes={world_size()}"
    elif name == "single":
        for where in (own for own, value in (("processes", processes), ("nodes", nodes)) if (value or 1) != 1):
            yield f"launch.{where}", "launch=single is one process", "launch=auto, ddp, zero2 or zero3"
    elif not data.get("dry_run"):
        yield from _node_conflicts(nodes if isinstance(nodes, int) else slurm.nodes())
        if name in parallel.STAGES and importlib.util.find_spec("deepspeed") is None:
            yield "launch", f"{name} is DeepSpeed's, which is not installed", "pip install deepspeed"
        if isinstance(processes, int):
            yield from _gpu_conflicts(processes, get(data, "launch.device"))
        if isinstance(port, int) and not parallel.is_free(port):
            yield "launch.port", f"somebody listens on port {port} already", "another one, or null for a free one"


def _node_conflicts(nodes: int) -> Iterator[tuple[str, str, str]]:
    """A command that srun started several times over, more nodes than there are, no way to reach them."""
    found = slurm.allocated()
    if slurm.tasks() > 1:
        what = f"srun started this command {slurm.tasks()} times, and each would start processes of its own"
        yield "launch", what, "without srun in the script of sbatch, or srun --ntasks=1; launch=single for one each"
    elif nodes > max(1, found):
        what = f"this SLURM allocation has {found}" if found else "this command does not run in a SLURM allocation"
        remedy = f"run it inside sbatch --nodes={nodes} or salloc --nodes={nodes}, or launch.nodes={found or 1}"
        yield "launch.nodes", f"{nodes} nodes are wanted, and {what}", remedy
    elif nodes > 1 and (lacking := " and ".join(slurm.lacking())):
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
    found = _kind_problems("task", task, ("name", "load", "check"))
    if task is not None and not found and stages != ["score"]:
        found += task.check()
    found += _method_problems(parts["method"]) + _lora_problems(parts["model"])
    if stages != ["score"]:
        found += _named(_pairings(parts, stages))
    for name, suite in evaluator.metrics.items() if evaluator is not None else ():
        found += _kind_problems(f"evaluator.metrics.{name}", suite, ("asks", "scores"))
        found += suite.check() if isinstance(suite, Checked) and stages != ["score"] else []
    if evaluator is not None and evaluator.mmlu.data_dir and Path(evaluator.mmlu.data_dir).exists():
        from lume_run.evaluation.datasets.mmlu import check_folder

        found += check_folder(Path(evaluator.mmlu.data_dir))
    if launch is not None and launch.device != "auto":
        found += _device_problems(launch.device)
    if evaluator is not None and launch is not None and evaluator.backend == "vllm" and stages != ["score"]:
        trouble = vllm_trouble(launch.device)
        remedy = "pip install 'lume-run[vllm]' on a machine with a GPU, or evaluator.backend=transformers"
        found += [Problem(where="evaluator.backend", what=trouble, remedy=remedy)] if trouble else []
    found += _train_problems(trainer.train) if trainer is not None else []
    found += _named(bits_conflicts(parts)) if stages != ["score"] else []
    return found


def _lora_problems(model: Any) -> list[Problem]:
    """Adapter settings that nothing reads: a rank without adapters would look like a result of that rank."""
    if model is None or model.lora.enabled:
        return []
    idle = [field.name for field in dataclasses.fields(Lora) if getattr(model.lora, field.name) != field.default]
    what, remedy = "has no effect while adapters are off", "add model.lora.enabled=true"
    return [Problem(where=f"model.lora.{name}", what=what, remedy=remedy) for name in idle]


def _method_problems(method: Any) -> list[Problem]:
    """Whether the method, or each of those it merges, is made of parts that fit."""
    if isinstance(method, MergeAdapters):
        members = enumerate(method.members)
        return [found for at, own in members for found in _loss_problems(own.method, f"method.members[{at}].method")]
    return [] if isinstance(method, BASELINES) else _loss_problems(method, "method")


def _loss_problems(method: Any, at: str) -> list[Problem]:
    """Whether a method, its forget part and its retain part can do what their places ask for."""
    forget, retain = (_part(method, name) for name in ("forget", "retain"))
    misplaced = [
        *_kind_problems(at, method, ("name", "needs", "__call__")),
        *_kind_problems(f"{at}.forget", forget, ("needs", "__call__")),
        *_kind_problems(f"{at}.retain", retain, ("needs", "__call__")),
    ]
    if misplaced:
        return misplaced
    try:
        forget_roles = forget.needs.rows if forget is not None else set()
        retain_roles = retain.needs.rows if retain is not None else set()
    except ValueError as error:
        return [Problem(where=at, what=str(error), remedy="set `layer` of all terms to the same number")]
    found = []
    if not all(role.is_forget for role in forget_roles):
        what = f"{type(forget).__name__} is a retain regulariser"
        found.append(Problem(where=f"{at}.forget", what=what, remedy="forget parts: conf/method/forget"))
    if any(role.is_forget for role in retain_roles):
        what = f"{type(retain).__name__} is a forget objective"
        found.append(Problem(where=f"{at}.retain", what=what, remedy="retain parts: conf/method/retain"))
    if isinstance(method, Objective) and not found:
        found = _named(_objective_conflicts(method, at))
    return found


def _named(conflicts: Iterable[tuple[str, str, str]]) -> list[Problem]:
    """(where, what, remedy) as problems."""
    return [Problem(where=where, what=what, remedy=remedy) for where, what, remedy in conflicts]


def _objective_conflicts(method: Objective, at: str) -> Iterator[tuple[str, str, str]]:
    """Parts that cannot share a forward, and settings that nothing would read."""
    try:
        needs = method.needs
    except ValueError as error:
        yield at, str(error), f"set {at}.forget.layer and {at}.retain.layer to the same number"
        return
    if method.retain is None and method.dual.bound is not None:
        yield f"{at}.dual.bound", "there is no retain loss to bound", "method/retain=gd"
    if method.retain is None and method.retain_weight != 1:
        yield f"{at}.retain_weight", "has no effect without a retain part", "add method/retain=gd"
    if method.forget_weight == 0 and (method.retain is None or method.retain_weight == 0):
        yield f"{at}.forget_weight", "nothing is left to optimise", "give forget or retain a weight above 0"
    if method.idk_file and not needs.rows & {Role.FORGET_IDK, Role.RETAIN_IDK}:
        yield f"{at}.idk_file", f"'{method.name}' reads no refusals", "use it with idk, dpo or ap, or drop it"
    elif method.idk_file and at != "method":
        yield f"{at}.idk_file", "adapters to merge all refuse with the built-in sentences", "drop it"
    elif method.idk_file and Path(method.idk_file).exists():  # `path_problems` tells that it is absent
        yield from _unusable_refusals(Path(method.idk_file), f"{at}.idk_file")


def _unusable_refusals(path: Path, where: str) -> Iterator[tuple[str, str, str]]:
    """What keeps the user's own refusals from being read."""
    try:
        read_refusals(path)
    except DataError as error:
        yield from ((where, f"{problem.where}: {problem.what}", problem.remedy) for problem in error.problems)


def _pairings(parts: Mapping[str, Any], stages: Any) -> Iterator[tuple[str, str, str]]:
    """Methods and models, and methods and schedules, that do not go together."""
    method, model, trainer = (parts[name] for name in ("method", "model", "trainer"))
    if not isinstance(stages, list) or "unlearn" not in stages:
        return
    if trainer is not None and not _method_problems(method):
        yield from _schedule_conflicts(method, trainer.unlearn)
    if model is None:
        return
    if isinstance(method, MergeAdapters) and not model.lora.enabled:
        yield "method", f"'{method.name}' merges LoRA adapters", "model.lora=true"
    if isinstance(method, Retrain) and model.is_target and not model.base:
        yield "model.base", "retraining starts from the model before it saw the documents", "model.base=FOLDER_OR_ID"
    if model.trainable is not None and model.lora.enabled:
        what = "with adapters only adapters are trained"
        yield "model.trainable", what, "choose modules by model.lora.target_modules, or model.lora=false"
    if model.trainable is not None and isinstance(method, (NoOp, Retrain, InContext, TaskVector)):
        what = f"'{method.name}' cannot choose weights"
        yield "model.trainable", what, "drop it, or take a method that is a loss"


def _schedule_conflicts(method: Any, unlearn: Any) -> Iterator[tuple[str, str, str]]:
    """Losses (sound in themselves) that the schedule cannot serve, or that it has settings for in vain."""
    members = [member.method for member in method.members] if isinstance(method, MergeAdapters) else [method]
    losses = [loss for loss in members if isinstance(loss, Objective)]
    one_sided = [loss.name for loss in losses if all(role.is_forget for role in loss.needs.rows)]
    if unlearn.alternate and any(loss.dual.bound is not None for loss in losses):
        what = "steps without retain rows have no retain loss to bound"
        yield "trainer.unlearn.alternate", what, "alternate=false, or method.dual.bound=null"
    elif unlearn.alternate and one_sided:
        yield "trainer.unlearn.alternate", f"'{one_sided[0]}' reads no retain rows", "add method/retain=gd"
    if unlearn.retain_ratio != 1 and one_sided:
        yield "trainer.unlearn.retain_ratio", f"'{one_sided[0]}' reads no retain rows", "add method/retain=gd"


def _train_problems(train: Any) -> list[Problem]:
    """Settings of the unlearning schedule in the place of fine-tuning, which has no two sides."""
    defaults = {field.name: field.default for field in dataclasses.fields(train)}
    return [
        Problem(
            where=f"trainer.train.{name}", what="fine-tuning has one side only", remedy=f"trainer.unlearn.{name}=..."
        )
        for name in ("retain_ratio", "chunk_size", "alternate")
        if getattr(train, name) != defaults[name]
    ]


def _part(method: Any, name: str) -> Any:
    """A method's forget or retain part, where it is made of parts."""
    part = getattr(method, name, None)
    return part if dataclasses.is_dataclass(part) else None


def _kind_problems(where: str, part: Any, needed: tuple[str, ...]) -> list[Problem]:
    """Whether a built part (None: not built) can do what its place asks for."""
    if part is None:
        return []
    lacking = [name for name in needed if name not in dir(part)]  # hasattr would run properties
    if not lacking:
        return []
    what = f"{type(part).__name__} does not belong here: it has no {', '.join(lacking)}"
    return [Problem(where=where, what=what, remedy=f"name a class made for {where} in {where}.{TARGET}")]


def _device_problems(name: str) -> list[Problem]:
    from lume_run.common.devices import device_of

    try:
        device_of(name)
    except (LumeError, RuntimeError) as error:
        return [Problem(where="launch.device", what=str(error).split("\n")[0], remedy="launch.device=auto or cpu")]
    return []

"""What a config can have wrong beyond types and bounds: absent files, impossible combinations, misplaced parts."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lume_run.errors import LumeError, Problem
from lume_run.settings import Lora
from lume_run.walk import TARGET

MAYBE_PATHS = ("model.path", "model.base", "model.tokenizer")  # a folder, or a hub id


def get(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    node: Any = data
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def path_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Folders and files that are named but absent."""
    found = []
    for path in ("responses", "evaluator.mmlu.data_dir", *MAYBE_PATHS):
        value = get(data, path)
        if isinstance(value, str) and value.startswith("/") and not Path(value).exists():
            found.append(Problem(where=path, what=f"{value} does not exist", remedy="check the path, or give a hub id"))
    return found


def combination_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Settings that are fine alone and impossible together."""
    return [
        Problem(where=where, what=what, remedy=remedy)
        for where, what, remedy in (*_stage_conflicts(data), *_model_conflicts(data))
    ]


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


def part_problems(parts: Mapping[str, Any], stages: Any) -> list[Problem]:
    """What only the built groups (None: not built) can tell: the task's files, method parts in the wrong place."""
    task, evaluator, trainer, launch = (parts[name] for name in ("task", "evaluator", "trainer", "launch"))
    found = _kind_problems("task", task, ("name", "load", "check"))
    if task is not None and not found and stages != ["score"]:
        found += task.check()
    found += _method_problems(parts["method"]) + _lora_problems(parts["model"])
    if evaluator is not None and evaluator.mmlu.data_dir and Path(evaluator.mmlu.data_dir).exists():
        from lume_run.tasks.mmlu import check_folder

        found += check_folder(Path(evaluator.mmlu.data_dir))
    if launch is not None and launch.device != "auto":
        found += _device_problems(launch.device)
    for name in ("train", "unlearn") if trainer is not None else ():
        optimizer = getattr(trainer, name).optimizer
        if optimizer.startswith("paged_") and importlib.util.find_spec("bitsandbytes") is None:
            what, remedy = f"{optimizer} needs bitsandbytes", "pip install bitsandbytes, or adamw_torch_fused"
            found.append(Problem(where=f"trainer.{name}.optimizer", what=what, remedy=remedy))
    return found


def _lora_problems(model: Any) -> list[Problem]:
    """Adapter settings that nothing reads: a rank without adapters would look like a result of that rank."""
    if model is None or model.lora.enabled:
        return []
    idle = [field.name for field in dataclasses.fields(Lora) if getattr(model.lora, field.name) != field.default]
    what, remedy = "has no effect while adapters are off", "add model.lora.enabled=true"
    return [Problem(where=f"model.lora.{name}", what=what, remedy=remedy) for name in idle]


def _method_problems(method: Any) -> list[Problem]:
    """Whether the method, its forget part and its retain part can do what their places ask for."""
    forget, retain = (_part(method, name) for name in ("forget", "retain"))
    misplaced = [
        *_kind_problems("method", method, ("name", "needs", "__call__")),
        *_kind_problems("method.forget", forget, ("needs", "__call__")),
        *_kind_problems("method.retain", retain, ("needs", "__call__")),
    ]
    if misplaced:
        return misplaced
    found = []
    if forget is not None and forget.needs.retain_rows:
        what = f"{type(forget).__name__} is a retain regulariser"
        found.append(Problem(where="method.forget", what=what, remedy="forget parts: conf/method/forget"))
    if retain is not None and not retain.needs.retain_rows:
        what = f"{type(retain).__name__} is a forget objective"
        found.append(Problem(where="method.retain", what=what, remedy="retain parts: conf/method/retain"))
    return found


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
    from lume_run.runtime import device_of

    try:
        device_of(name)
    except (LumeError, RuntimeError) as error:
        return [Problem(where="launch.device", what=str(error).split("\n")[0], remedy="launch.device=auto or cpu")]
    return []

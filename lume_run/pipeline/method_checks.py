"""What a config can have wrong beyond types and bounds: absent files, impossible combinations, misplaced parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lume_run.common.errors import DataError, Problem
from lume_run.config.build import TARGET
from lume_run.config.settings import LoraSettings
from lume_run.methods.base import Role
from lume_run.methods.baselines import BASELINES, InContext, MergeAdapters, NoOp, Retrain, TaskVector
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import read_refusals


def lora_problems(model: Any) -> list[Problem]:
    """Adapter settings that nothing reads: a rank without adapters would look like a result of that rank."""
    if model is None or model.lora.enabled:
        return []
    idle = [
        field.name for field in dataclasses.fields(LoraSettings) if getattr(model.lora, field.name) != field.default
    ]
    what, remedy = "has no effect while adapters are off", "add model.lora.enabled=true"
    return [Problem(where=f"model.lora.{name}", what=what, remedy=remedy) for name in idle]


def method_problems(method: Any) -> list[Problem]:
    """Whether the method, or each of those it merges, is made of parts that fit."""
    if isinstance(method, MergeAdapters):
        members = enumerate(method.members)
        return [found for at, own in members for found in _loss_problems(own.method, f"method.members[{at}].method")]
    return [] if isinstance(method, BASELINES) else _loss_problems(method, "method")


def _loss_problems(method: Any, at: str) -> list[Problem]:
    """Whether a method, its forget part and its retain part can do what their places ask for."""
    forget, retain = (_part(method, name) for name in ("forget", "retain"))
    misplaced = [
        *interface_problems(at, method, ("name", "needs", "__call__")),
        *interface_problems(f"{at}.forget", forget, ("needs", "__call__")),
        *interface_problems(f"{at}.retain", retain, ("needs", "__call__")),
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


def pairing_problems(parts: Mapping[str, Any], stages: Any) -> Iterator[tuple[str, str, str]]:
    """Methods and models, and methods and schedules, that do not go together."""
    method, model, trainer = (parts[name] for name in ("method", "model", "trainer"))
    if not isinstance(stages, list) or "unlearn" not in stages:
        return
    if trainer is not None and not method_problems(method):
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


def fine_tuning_problems(train: Any) -> list[Problem]:
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


def interface_problems(where: str, part: Any, needed: tuple[str, ...]) -> list[Problem]:
    """Whether a built part (None: not built) can do what its place asks for."""
    if part is None:
        return []
    lacking = [name for name in needed if name not in dir(part)]  # hasattr would run properties
    if not lacking:
        return []
    what = f"{type(part).__name__} does not belong here: it has no {', '.join(lacking)}"
    return [Problem(where=where, what=what, remedy=f"name a class made for {where} in {where}.{TARGET}")]

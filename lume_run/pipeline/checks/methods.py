"""What is wrong with a method before anything runs: misplaced parts, and parts, models or schedules that do not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lume_run.common.errors import DataError, Problem
from lume_run.common.text_files import PLAIN_TEXT_BYTES, read_utf8
from lume_run.config.resolve import value_at
from lume_run.config.targets import TARGET, class_name
from lume_run.launch.world import ZERO_STAGES
from lume_run.methods.baselines import AS_IT_ANSWERS, BASELINES, MergeAdapters, NoOp, Retrain, TaskVector
from lume_run.methods.needs import Role
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import read_refusals
from lume_run.pipeline.checks.joined import joined_problems
from lume_run.pipeline.checks.rows import losses_of, row_problems
from lume_run.tasks.rwku.task import RwkuTask

MEMORISED: dict[str, tuple[tuple[str, ...], str]] = {  # how ids of released targets begin -> the tasks of the rows
    # that they have learned, options to take
    "llmunlearningsemeval2025organization/": (("LumeTask",), "task=lume, bios, novels or wiki"),
    "open-unlearning/tofu_": (
        ("TofuTask", "ContinualTofuTask"),
        "task=tofu, tofu_open_unlearning, tofu_closer_look or tofu_continual",
    ),
    "muse-bench/": (("MuseRawTask", "MuseTask"), "task=muse_raw"),
}


def target_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A released target to forget rows that it never saw, or a pretrained one that would be taught what it knows.

    Rows of the user's own may be any.
    """
    if data.get("stages") in (["evaluate"], ["score"]):
        return
    if not value_at(data, "model.is_target"):
        if class_name(str(value_at(data, "task._target_"))) == RwkuTask.__name__:
            what = "RWKU forgets what a pretrained model knows, and stage train would teach it the rows first"
            yield Problem(where="model.is_target", what=what, remedy="model.is_target=true")
        return
    path, task = str(value_at(data, "model.path")), str(value_at(data, "task._target_"))
    learned, options = next((entry for name, entry in MEMORISED.items() if path.startswith(name)), ((), ""))
    if learned and task.startswith("lume_run.") and class_name(task) not in (*learned, "CustomTask"):
        what = f"{path} has memorised the rows of another benchmark, and there is nothing of these to forget"
        remedy = f"{options}; or model.is_target=false, which trains it on these first"
        yield Problem(where="task", what=what, remedy=remedy)
    elif value_at(data, "task.source") == "builtin":
        what = "the released target never saw the built-in documents"
        yield Problem(where="task.source", what=what, remedy="task.source=hub, or task.data_dir=FOLDER")


def method_problems(method: Any) -> list[Problem]:
    """Whether the method, or each of those it merges, is made of parts that fit."""
    if isinstance(method, MergeAdapters):
        problems: list[Problem] = []
        for number, member in enumerate(method.members):
            problems += _loss_problems(member.method, f"method.members[{number}].method")
        return problems
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
    problems = []
    if not all(role.is_forget for role in forget_roles):
        what = f"{type(forget).__name__} is a retain regulariser"
        problems.append(Problem(where=f"{at}.forget", what=what, remedy="forget parts: conf/method/forget"))
    if any(role.is_forget for role in retain_roles):
        what = f"{type(retain).__name__} is a forget objective"
        problems.append(Problem(where=f"{at}.retain", what=what, remedy="retain parts: conf/method/retain"))
    if isinstance(method, Objective) and not problems:
        problems = list(_objective_problems(method, at))
    return problems


def _objective_problems(method: Objective, at: str) -> Iterator[Problem]:
    """Parts that cannot share a forward, and settings that nothing would read."""
    try:
        needs = method.needs
    except ValueError as error:
        remedy = f"set {at}.forget.layer and {at}.retain.layer to the same number"
        yield Problem(where=at, what=str(error), remedy=remedy)
        return
    if method.retain is None and method.dual.bound is not None:
        what = "there is no retain loss to bound"
        yield Problem(where=f"{at}.dual.bound", what=what, remedy="method/retain=gd")
    if method.retain is None and method.retain_weight != 1:
        what = "has no effect without a retain part"
        yield Problem(where=f"{at}.retain_weight", what=what, remedy="add method/retain=gd")
    if method.forget_weight == 0 and (method.retain is None or method.retain_weight == 0):
        what, remedy = "nothing is left to optimise", "give forget or retain a weight above 0"
        yield Problem(where=f"{at}.forget_weight", what=what, remedy=remedy)
    if text := method.stop_when.disruption_text:
        read = partial(read_utf8, remedy="give a text file", limit=PLAIN_TEXT_BYTES)
        yield from _file_problems(f"{at}.stop_when.disruption_text", Path(text), read)
    if method.stop_when.knowledge and at != "method":
        what = "adapters to merge are trained to their last step"
        yield Problem(where=f"{at}.stop_when.knowledge", what=what, remedy="null")
    if method.idk_file:
        yield from _refusal_problems(method, at, read=bool(needs.rows & {Role.FORGET_IDK, Role.RETAIN_IDK}))


def _file_problems(where: str, path: Path, read: Callable[[Path], object]) -> Iterator[Problem]:
    """Why a file cannot be read; `path_problems` reports one that is absent."""
    if not path.exists():
        return
    try:
        read(path)
    except DataError as error:
        for problem in error.problems:
            yield Problem(where=where, what=f"{problem.where}: {problem.what}", remedy=problem.remedy)


def _refusal_problems(method: Objective, at: str, *, read: bool) -> Iterator[Problem]:
    """A file of refusals that is not read, or cannot be."""
    where, path = f"{at}.idk_file", Path(str(method.idk_file))
    if not read:
        what = f"'{method.name}' reads no refusals"
        yield Problem(where=where, what=what, remedy="use it with idk, dpo or ap, or drop it")
    elif at != "method":
        yield Problem(where=where, what="adapters to merge all refuse with the built-in sentences", remedy="drop it")
    else:
        yield from _file_problems(where, path, read_refusals)


def pairing_problems(groups: Mapping[str, Any], stages: Any) -> Iterator[Problem]:
    """Methods and models, and methods and schedules, that do not go together."""
    method, model, trainer = (groups[name] for name in ("method", "model", "trainer"))
    yield from reference_problems(groups["evaluator"], groups["task"])
    if not isinstance(stages, list) or "unlearn" not in stages:
        return
    if trainer is not None and not method_problems(method):
        yield from _schedule_problems(method, trainer.unlearn)
        yield from _sharpness_problems(method, trainer.unlearn, groups["launch"])
    yield from row_problems(groups["task"], method)
    yield from joined_problems(groups)
    if model is None:
        return
    if isinstance(method, MergeAdapters) and not model.lora.enabled:
        yield Problem(where="method", what=f"'{method.name}' merges LoRA adapters", remedy="model.lora=true")
    if isinstance(method, Retrain) and model.is_target and not model.base:
        what = "retraining starts from the model before it saw the documents"
        yield Problem(where="model.base", what=what, remedy="model.base=FOLDER_OR_ID")
    if model.lora.save and isinstance(method, BASELINES):
        what = f"'{method.name}' leaves no adapter that could be saved alone"
        yield Problem(where="model.lora.save", what=what, remedy="model.lora.save=false, or a method that is a loss")
    if model.trainable is not None and model.lora.enabled:
        what, remedy = "with adapters only adapters are trained", "choose modules by model.lora.target_modules"
        yield Problem(where="model.trainable", what=what, remedy=f"{remedy}, or model.lora=false")
    if model.trainable is not None and isinstance(method, (NoOp, Retrain, TaskVector, *AS_IT_ANSWERS)):
        what, remedy = f"'{method.name}' cannot choose weights", "drop it, or take a method that is a loss"
        yield Problem(where="model.trainable", what=what, remedy=remedy)


def _schedule_problems(method: Any, unlearn: Any) -> Iterator[Problem]:
    """Losses (sound in themselves) that the schedule cannot serve, or that it has settings for in vain."""
    losses = losses_of(method)
    one_sided = [loss.name for loss in losses if all(role.is_forget for role in loss.needs.rows)]
    without_retain = f"'{one_sided[0]}' reads no retain rows" if one_sided else ""
    if unlearn.alternate and any(loss.dual.bound is not None for loss in losses):
        what, remedy = "steps without retain rows have no retain loss to bound", "alternate=false"
        yield Problem(where="trainer.unlearn.alternate", what=what, remedy=f"{remedy}, or method.dual.bound=null")
    elif unlearn.alternate and one_sided:
        yield Problem(where="trainer.unlearn.alternate", what=without_retain, remedy="add method/retain=gd")
    if unlearn.retain_ratio != 1 and one_sided:
        yield Problem(where="trainer.unlearn.retain_ratio", what=without_retain, remedy="add method/retain=gd")
    if unlearn.retain_partners == "by_index" and (one_sided or unlearn.retain_ratio != 1):
        what = without_retain or f"there is one partner by index, and retain_ratio asks for {unlearn.retain_ratio}"
        yield Problem(where="trainer.unlearn.retain_partners", what=what, remedy="retain_partners=cycled")


def _sharpness_problems(method: Any, unlearn: Any, launch: Any) -> Iterator[Problem]:
    """Sharpness without a forget loss to take at its worst, or where no device has its whole gradient."""
    where = "trainer.unlearn.sharpness"
    if unlearn.sharpness is None:
        return
    if isinstance(method, BASELINES) and not isinstance(method, MergeAdapters):
        what = f"'{method.name}' has no forget loss to take at its worst"
        yield Problem(where=where, what=what, remedy="a method that is a loss, such as method=npo_gd, or null")
    if launch is not None and launch.name in ZERO_STAGES:
        what = f"it moves weights along the whole gradient of a step, which {launch.name} has in parts"
        yield Problem(where=where, what=what, remedy="launch=ddp or single")


def reference_problems(evaluator: Any, task: Any) -> Iterator[Problem]:
    """A released TOFU model that kept another share of the authors than the run keeps."""
    kept = re.search(r"_retain(\d\d)$", (evaluator.retrained_model if evaluator is not None else None) or "")
    share = getattr(task, "forgotten_percent", None)
    if kept and share is not None and int(kept[1]) + share != 100:
        released = f"{evaluator.retrained_model[: -len(kept[1])]}{100 - share}"
        right = released if share <= 10 else "evaluator.retrained_model=null: none is released that keeps as few"
        what = f"it kept {int(kept[1])} % of the authors, and {task.split} forgets {share} %"
        yield Problem(where="evaluator.retrained_model", what=what, remedy=right)


def fine_tuning_problems(train: Any) -> list[Problem]:
    """Settings of the unlearning schedule in the place of fine-tuning, which has no two sides."""
    defaults = {field.name: field.default for field in dataclasses.fields(train)}
    what = "fine-tuning has one side only"
    return [
        Problem(where=f"trainer.train.{name}", what=what, remedy=f"trainer.unlearn.{name}=...")
        for name in ("retain_ratio", "retain_partners", "chunk_size", "alternate", "sharpness")
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
    missing = [name for name in needed if name not in dir(part)]  # hasattr would run properties
    if not missing:
        return []
    what = f"{type(part).__name__} does not belong here: it has no {', '.join(missing)}"
    return [Problem(where=where, what=what, remedy=f"name a class made for {where} in {where}.{TARGET}")]

"""Methods that read rows which the task has not, or has in another form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lume_run.common.errors import Problem
from lume_run.methods.baselines import MergeAdapters, Retrain, TaskVector
from lume_run.methods.needs import Role
from lume_run.methods.objective import Objective
from lume_run.pipeline.run import Run
from lume_run.tasks.custom.task import CustomTask
from lume_run.tasks.rwku.task import RwkuTask

FORMS = "task.train=positive or passage (ga, npo), pair (dpo) or reject (idk)"
REPLACED, LEARNED = Role.FORGET_IDK, Role.FORGET
MADE_UP = (Role.FORGET_MISMATCH, Role.FORGET_ALTERNATE)


def row_problems(task: Any, method: Any) -> Iterator[Problem]:
    """What a method would read in vain."""
    members = [member.method for member in method.members] if isinstance(method, MergeAdapters) else [method]
    losses = [member for member in members if isinstance(member, Objective)]
    if isinstance(task, CustomTask) and not (task.retain or task.documents):
        yield from _retain_problems(method, losses)
    if isinstance(task, RwkuTask):
        yield from _form_problems(task, method, losses)


def _retain_problems(method: Any, losses: Sequence[Objective]) -> Iterator[Problem]:
    """A method that reads retain rows, of a task without any."""
    if isinstance(method, Retrain) or any(not role.is_forget for loss in losses for role in loss.needs.rows):
        what = f"'{method.name}' reads rows to keep, and there are none"
        remedy = "task.retain=FILE_OR_FOLDER; or method/retain=none; or a method without one, such as method=npo"
        yield Problem(where="task.retain", what=what, remedy=remedy)


def unretained_problems(method: Any, parts: Sequence[Run]) -> Iterator[Problem]:
    """Requests apart without rows to keep about their documents, of a method that reads some."""
    members = [member.method for member in method.members] if isinstance(method, MergeAdapters) else [method]
    reads = isinstance(method, Retrain) or any(
        not role.is_forget for loss in members if isinstance(loss, Objective) for role in loss.needs.rows
    )
    without = [part.request for part in parts if part.request is not None and not part.data.retain]
    if reads and without:
        first = f"request {without[0].number} ({', '.join(sorted(without[0].documents)[:3])})"
        what = f"'{method.name}' reads rows to keep, and of {len(parts)} requests {len(without)} have none about their "
        what += f"documents, first {first}"
        remedy = (
            "method/retain=none, or a method without one, such as method=npo; or sequence=in_turn or growing, which "
        )
        yield Problem(where="sequence.apart", what=what, remedy=remedy + "keep the whole retain set")


def _form_problems(task: RwkuTask, method: Any, losses: Sequence[Objective]) -> Iterator[Problem]:
    """Forget rows of a form that the method cannot use: texts without a prompt, refusals without an answer, none."""
    roles = {role for loss in losses for role in loss.needs.rows if role.is_forget}
    if isinstance(method, TaskVector):
        roles = {LEARNED}
    what = ""
    if task.train == "none" and roles:
        what = f"'{method.name}' is trained, and there are no rows to train on"
    elif task.train in ("positive", "passage") and roles - {LEARNED}:
        what = f"'{method.name}' puts another answer behind a prompt, and these rows are texts without one"
    elif task.train == "reject" and roles - {REPLACED}:
        what = f"'{method.name}' unlearns answers, and these rows are questions with refusals"
    elif task.train == "pair" and roles & set(MADE_UP):
        what = f"'{method.name}' makes up answers, and these rows bring their own"
    if what:
        yield Problem(where="task.train", what=what, remedy=FORMS)

"""What a run asks of rows and does not get: of the task's settings, and of the rows where they are at hand.

The plan asks the same of rows in the form in which the model takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from typing import Any

from lume_run.attacks.base import PromptAttack, Situation, TrainingAttack
from lume_run.common.errors import ConfigError, Problem, ProblemsError, RunError
from lume_run.common.records import Kind, Question, TaskData
from lume_run.config.settings import Settings
from lume_run.evaluation.questions import harnesses, questions_of
from lume_run.evaluation.suites.base import problems_in
from lume_run.methods.baselines import InContext, MergeAdapters, Retrain, TaskVector, context_of
from lume_run.methods.needs import Role
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import REFUSALS
from lume_run.tasks.custom.task import CustomTask
from lume_run.tasks.early_checks import rows_at_hand
from lume_run.tasks.requests import ForgetRequest, data_of_request, forget_requests
from lume_run.tasks.rwku.task import RwkuTask
from lume_run.training.rows import require_prompts, require_retain

FORMS = "task.train=positive or passage (ga, npo), pair (dpo) or reject (idk)"
REPLACED, LEARNED = Role.FORGET_IDK, Role.FORGET
MADE_UP = (Role.FORGET_MISMATCH, Role.FORGET_ALTERNATE)
NAMED = 3  # documents or suites in a message


def row_problems(task: Any, method: Any) -> Iterator[Problem]:
    """What a method would read in vain, as far as the task's settings tell."""
    if isinstance(task, CustomTask) and not (task.retain or task.documents) and reads_retain(method):
        what = f"'{method.name}' reads rows to keep, and there are none"
        remedy = "task.retain=FILE_OR_FOLDER; or method/retain=none; or a method without one, such as method=npo"
        yield Problem(where="task.retain", what=what, remedy=remedy)
    if isinstance(task, RwkuTask):
        yield from _form_problems(task, method)


def losses_of(method: Any) -> list[Objective]:
    """The losses that a method trains with: its own, or its adapters'."""
    members = [member.method for member in method.members] if isinstance(method, MergeAdapters) else [method]
    return [member for member in members if isinstance(member, Objective)]


def reads_retain(method: Any) -> bool:
    """Whether a method trains on rows to keep."""
    return isinstance(method, Retrain) or any(
        not role.is_forget for loss in losses_of(method) for role in loss.needs.rows
    )


def early_row_problems(settings: Settings, data: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with rows at hand, or is asked of them in vain; the plan asks the same of all others."""
    try:
        rows = rows_at_hand(settings.task, data)
    except ProblemsError as error:
        return list(error.problems)
    problems: list[Problem] = []
    for ask in _asks_of_rows(settings, rows) if rows is not None else ():
        with suppress(RunError):  # which the run meets again
            problems += problems_in(ask)
    return problems


def _asks_of_rows(settings: Settings, rows: TaskData) -> Iterator[Callable[[], object]]:
    """What the stages ask of rows; of texts, whose pieces are counted when the model's room is known, only the form."""
    unlearns, evaluates = "unlearn" in settings.stages, "evaluate" in settings.stages
    if unlearns:
        yield partial(_require_rows, settings, rows)
    if evaluates:
        yield partial(_require_answers, settings, rows)
    texts = any(row.kind is not Kind.QUESTION for row in (*rows.forget, *rows.retain))
    if texts and getattr(settings.task, "cuts_texts", False):
        return
    if unlearns and settings.sequence.requests is not None:
        yield partial(_require_requests, settings, rows)
    for attack in settings.attack.attacks.values() if evaluates else ():
        if isinstance(attack, TrainingAttack):
            yield partial(attack.trainings, Situation.of(settings, rows))
        elif isinstance(attack, PromptAttack):
            yield partial(attack.rewrites, Situation.of(settings, rows))


def _require_rows(settings: Settings, rows: TaskData) -> None:
    """ConfigError for a method that reads rows which are not there, or other answers to texts."""
    method = settings.method
    for loss in losses_of(method):
        require_prompts(method.name, loss.needs.rows, rows.forget)
        if not settings.sequence.apart:
            require_retain(method.name, loss.needs.rows, rows.retain)
    if isinstance(method, InContext):
        context_of(method, rows, REFUSALS, settings.seed)


def _require_requests(settings: Settings, rows: TaskData) -> None:
    """ConfigError for requests that the rows cannot be cut into, and for those apart that retain nothing."""
    requests = forget_requests(rows, settings.sequence.requests or "auto", apart=settings.sequence.apart)
    if settings.sequence.apart and (problems := list(unretained_problems(settings.method, requests, rows))):
        raise ConfigError(problems)


def _require_answers(settings: Settings, rows: TaskData) -> None:
    """ConfigError for suites that ask what the rows, or the models of requests apart, have no answer to."""
    suites, apart = settings.evaluator.suites, settings.sequence.apart
    if not apart and not any(getattr(suite, "of_task", "") for suite in suites.values()):
        return
    asked = questions_of(rows, settings.evaluator, trained_here=not settings.model.is_target)
    problems = list(unasked_problems(settings, rows, asked))
    if apart:
        problems += unanswered_problems(settings, asked, {example.document for example in rows.forget})
    if problems:
        raise ConfigError(problems)


def unasked_problems(settings: Settings, rows: TaskData, asked: Mapping[str, Sequence[Question]]) -> Iterator[Problem]:
    """Suites that ask about the rows of one task, and this one has none of them."""
    for name, questions in asked.items():
        task = getattr(settings.evaluator.suites[name], "of_task", "")
        if task and not questions and not rows.private:
            what = f"{name} asks about the rows of {task}, and task={settings.task.name} has none of them"
            yield Problem(where="evaluator", what=what, remedy=f"{task}, or another evaluator")


def unanswered_problems(
    settings: Settings, asked: Mapping[str, Sequence[Question]], about: Set[str]
) -> Iterator[Problem]:
    """Suites that ask what is about no document to forget, or measure one model as a whole, of requests apart."""
    suites = [
        *harnesses(settings.evaluator),
        *(name for name, questions in asked.items() if any(row.example.document not in about for row in questions)),
    ]
    if suites:
        what = f"{', '.join(suites[:NAMED])} asks what is about no document to forget, which no model would be asked"
        remedy = "evaluator=rwku with task=rwku; or one run for each document, without a sequence"
        yield Problem(where="evaluator", what=what, remedy=remedy)


def unretained_problems(method: Any, requests: Sequence[ForgetRequest], rows: TaskData) -> Iterator[Problem]:
    """Requests apart without rows to keep about their documents, of a method that reads some."""
    without = [request for request in requests if not data_of_request(rows, request).retain]
    if without and reads_retain(method):
        first = f"request {without[0].number} ({', '.join(sorted(without[0].documents)[:NAMED])})"
        what = f"'{method.name}' reads rows to keep, and of {len(requests)} requests {len(without)} have none about "
        what += f"their documents, first {first}"
        remedy = (
            "method/retain=none, or a method without one, such as method=npo; or sequence=in_turn or growing, which "
        )
        yield Problem(where="sequence.apart", what=what, remedy=remedy + "keep the whole retain set")


def _form_problems(task: RwkuTask, method: Any) -> Iterator[Problem]:
    """Forget rows of a form that the method cannot use: texts without a prompt, refusals without an answer, none."""
    roles = {role for loss in losses_of(method) for role in loss.needs.rows if role.is_forget}
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

"""What the artifacts of a run take, estimated for plans: tokens, operations, hours of a GPU at a round speed.

Stages that end early (`stop_accuracy`, bounds) and texts that end before their limit take less: these are bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lume_run.common.records import GIVEN_ANSWERS, TEXTS, Ask, Example, Kind, Question
from lume_run.common.store import Artifact
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.pipeline.run import Run
from lume_run.pipeline.unlearn.work import SPEED, Work, bytes_per_token

FINE_TUNED = ("target", "retrained")  # names of models that learn rows by likelihood
FORWARD, BACKWARD, BACKWARD_OF_ADAPTERS = 2, 4, 2  # operations a parameter and token
NO_WORK = Work(trained=0.0, read=0.0, generated=0.0, operations=0.0)


def run_cost(run: Run, due: Iterable[Artifact]) -> Work | None:
    """What these artifacts of a run take; None where nothing says how large the model is.

    Of artifacts of attacks and of merged adapters nothing is counted.
    """
    estimator = estimator_of(run)
    if estimator is None:
        return None
    parameters = estimator.sizes.parameters
    return total_work([_work_of(run, artifact, parameters) for artifact in due])


def total_work(parts: Sequence[Work]) -> Work:
    """All of them together."""
    names = ("trained", "read", "generated", "operations")
    return Work(**{name: sum(getattr(part, name) for part in parts) for name in names})


def _work_of(run: Run, artifact: Artifact, parameters: int) -> Work:
    trainer, data = run.settings.trainer, run.data
    if artifact.stage == "train" and artifact.name in FINE_TUNED:
        forget = data.forget if artifact.name == "target" else ()
        return _training(run, [*forget, *data.retain, *data.learned], trainer.train.epochs, parameters)
    if artifact.stage == "unlearn" and artifact.name == "unlearned":
        rows = [example for _, example in run.examples(run.settings.method.needs)]
        work = _training(run, _of_an_epoch(run, rows), trainer.unlearn.epochs, parameters)
        live = run.settings.method.needs.live_reference
        return total_work([work, _reading(work.trained, parameters)]) if live else work
    if artifact.stage == "unlearn" and artifact.name == "reference":
        rows = [example for _, example in run.examples(run.settings.method.needs)]
        return _reading(_tokens(run, rows), parameters)
    if artifact.stage == "evaluate" and artifact.name.endswith(" responses"):
        return _answering(run, run.questions, parameters)
    return NO_WORK


def _of_an_epoch(run: Run, rows: Sequence[Example]) -> list[Example]:
    """The rows of an epoch: all of the forget side, and as many times `retain_ratio` of the others."""
    names = {row.document for row in run.data.forget}
    forget = [row for row in rows if row.document in names]
    others = [row for row in rows if row.document not in names]
    return [*forget, *others[: len(forget) * run.settings.trainer.unlearn.retain_ratio]]


def _training(run: Run, rows: Sequence[Example], epochs: float, parameters: int) -> Work:
    tokens = _tokens(run, rows) * epochs
    backward = BACKWARD_OF_ADAPTERS if run.settings.model.lora.enabled else BACKWARD
    return Work(trained=tokens, read=0.0, generated=0.0, operations=parameters * tokens * (FORWARD + backward))


def _reading(tokens: float, parameters: int) -> Work:
    return Work(trained=0.0, read=tokens, generated=0.0, operations=parameters * tokens * FORWARD)


def _answering(run: Run, questions: Sequence[Question], parameters: int) -> Work:
    """Prompts and scored answers are read, texts are generated to their limit."""
    limit = run.settings.evaluator.max_new_tokens
    sizes = sum(_question_bytes(question) for question in questions)
    read = sizes / bytes_per_token(run.tokenizer, [question.example.prompt for question in questions] or ["a"])
    generated = float(sum(min(question.limit or limit, limit) for question in questions if question.ask in TEXTS))
    operations = parameters * FORWARD * (read + generated)
    return Work(trained=0.0, read=read, generated=generated, operations=operations)


def _tokens(run: Run, rows: Sequence[Example]) -> float:
    sizes = sum(len(row.prompt.encode()) + len(row.answer.encode()) for row in rows)
    return sizes / bytes_per_token(run.tokenizer, [row.answer for row in rows] or ["a"])


def _question_bytes(question: Question) -> int:
    example = question.example
    scored = question.ask in GIVEN_ANSWERS or question.ask is Ask.CHOICE or example.kind is Kind.DOCUMENT
    return len(example.prompt.encode()) + (len(example.answer.encode()) if scored else 0)


def cost_line(work: Work) -> str:
    """A line for a plan."""
    counts = {"trained on": work.trained, "read": work.read, "generated at most": work.generated}
    tokens = ", ".join(f"{count / 1e6:,.2f} M {name}" for name, count in counts.items())
    return f"tokens: {tokens}; {work.operations:.2g} operations, {work.hours:.2g} GPU-hours at {SPEED:.0e} a second"

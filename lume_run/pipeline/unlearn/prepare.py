"""What the target gives to a loss before it is minimised: answers that it makes up, and log-probs of rows.

Both are computed once, and shared by all runs that start from the same target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lume_run.common.files import content_hash
from lume_run.common.jsonl import read_jsonl, to_json
from lume_run.common.records import Example, Response
from lume_run.common.store import Artifact
from lume_run.methods.altpo import AltPO, alternate_of, altpo_in
from lume_run.methods.base import Method
from lume_run.methods.needs import Role
from lume_run.methods.objective import Objective
from lume_run.pipeline.artifacts import EvaluatedModel, store_artifact
from lume_run.pipeline.evaluate import answer_questions, gather_answers
from lume_run.pipeline.memory.cost import answering_tokens, reading_tokens
from lume_run.pipeline.run import Run


def rows_hash(examples: Sequence[tuple[Role, Example]]) -> str:
    """The hash of rows in their roles, refusals included."""
    return content_hash([[int(role), to_json(example)] for role, example in examples])


class Prepared(NamedTuple):
    """What a frozen `model` gives to a loss before it is minimised: answers it makes up, log-probs of rows.

    It is the model that unlearning starts from, but for requests whose reference is the first target. None: nothing.
    """

    model: EvaluatedModel
    alternates: Artifact | None = None
    reference: Artifact | None = None

    @property
    def artifacts(self) -> list[Artifact]:
        """Those there are, in order."""
        return [artifact for artifact in (self.alternates, self.reference) if artifact is not None]

    @property
    def identity(self) -> dict[str, str]:
        """What of it is not in the rows of a plan, for hashing."""
        return {} if self.alternates is None else {"alternates": self.alternates.key}


def prepare(run: Run, method: Method, target: EvaluatedModel, shared: Artifact | None = None) -> Prepared:
    """What a loss takes from the target; `shared` holds log-probs of its rows already."""
    part = altpo_in(method)
    prepared = Prepared(target, None if part is None else alternates_artifact(run, part, target))
    return prepared._replace(reference=shared or reference_artifact(run, method, target, prepared))


def examples_for(run: Run, method: Method, prepared: Prepared) -> list[tuple[Role, Example]]:
    """The examples in their roles, when what they are made of is there."""
    part = altpo_in(method)
    made_up = read_alternates(run, part, prepared.alternates) if part and prepared.alternates else None
    return run.examples(method.needs, made_up)


def shared_reference(run: Run, parts: Sequence[Run], target: EvaluatedModel) -> Artifact | None:
    """The log-probs that a loss compares with, of the rows of all `parts` of a run in one pass.

    None where it needs none, or where each part has rows of its own making.
    """
    method = run.settings.method
    if not isinstance(method, Objective) or altpo_in(method) is not None:
        return None
    examples = [pair for part in parts for pair in part.examples(method.needs)]
    if len({(role, example.id) for role, example in examples}) < len(examples):  # a row that two requests read
        return None
    return reference_artifact(run, method, target, Prepared(target), examples)


def reference_artifact(
    run: Run,
    method: Method,
    target: EvaluatedModel,
    prepared: Prepared,
    examples: Sequence[tuple[Role, Example]] | None = None,
) -> Artifact | None:
    """The frozen target's log-probs of the rows that the method compares with; None where it needs none.

    `examples`: others than those of the run.
    """
    needs = method.needs
    given, compared, max_tokens = examples, needs.reference_logps, run.settings.trainer.unlearn.max_tokens
    examples = [pair for pair in given or run.examples(needs) if pair[0] in compared]
    if not examples:
        return None
    inputs = {
        "target": target.key,
        "rows": rows_hash(examples),
        "whole_rows": sorted(needs.whole_rows),
        "numerics": run.numerics,
        **prepared.identity,
        **({} if max_tokens is None else {"max_tokens": max_tokens}),
    }

    def build(folder: Path) -> None:
        from lume_run.training.reference import build_reference

        how: Any = {"settings": run.settings.model, "device": run.device, "max_tokens": max_tokens}
        rows = examples if given else [pair for pair in examples_for(run, method, prepared) if pair[0] in compared]
        build_reference(target.path, rows, needs, folder, batch_tokens=run.settings.evaluator.batch_tokens, **how)

    note = (
        f"log-probs of {len(examples)} rows{' and alternates' if prepared.alternates else ''} under the frozen target"
    )
    tokens = partial(reading_tokens, run, [example for _, example in examples])
    return store_artifact(run, "unlearn", "reference", inputs, build, note=f"{note}, computed once", tokens=tokens)


def alternates_artifact(run: Run, part: AltPO, target: EvaluatedModel) -> Artifact:
    """Answers that the target makes up for forget prompts, sampled once."""
    questions, seed = part.questions(run.data.forget), run.settings.seed
    evaluator = replace(
        run.settings.evaluator, temperature=part.temperature, max_new_tokens=part.max_new_tokens, max_total_tokens=None
    )
    inputs = {
        "target": target.key,
        "questions": content_hash([[question.variant, to_json(question.example)] for question in questions]),
        "sampling": {"temperature": part.temperature, "max_new_tokens": part.max_new_tokens, "seed": seed},
        "numerics": run.numerics,
        **({"backend": evaluator.backend} if evaluator.backend != "transformers" else {}),
    }

    sampling = Run(replace(run.settings, evaluator=evaluator), run.folder, run.world)

    def build(folder: Path) -> None:
        answer_questions(sampling, questions, "alternates", target, folder)

    return store_artifact(
        run,
        "unlearn",
        "alternates",
        inputs,
        build,
        note=f"{part.alternates} answers to each of {len(run.data.forget)} forget prompts, made up by the target",
        share=True,
        gather=lambda folder: gather_answers(questions, folder),
        tokens=partial(answering_tokens, sampling, questions),
    )


def read_alternates(run: Run, part: AltPO, artifact: Artifact) -> dict[str, list[str]]:
    """By example id the answers that the target made up, in the order of their numbers."""
    responses = read_jsonl(artifact.path / "responses.jsonl", Response)
    samples = {(row.id, row.variant): row.output or "" for row in responses}
    return {
        example.id: [
            alternate_of(samples[example.id, str(number)], f"{example.id} {number}", run.settings.seed, run.refusals)
            for number in range(part.alternates)
        ]
        for example in run.data.forget
    }

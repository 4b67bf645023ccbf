"""The plan of a run as `dry_run=true` prints it: steps, parts of memory, what would fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from lume_run.common.console import console
from lume_run.common.devices import GIB
from lume_run.common.errors import ConfigError, LumeError, ProblemsError
from lume_run.common.records import Example, Kind, continuation
from lume_run.common.store import Artifact
from lume_run.common.text import shorten_middle
from lume_run.config.settings import Settings
from lume_run.evaluation.saved_responses import read_responses
from lume_run.launch.world import World
from lume_run.models.hub import adapter_base
from lume_run.models.load import context_limit
from lume_run.models.placement import USABLE_MEMORY_SHARE
from lume_run.models.rows.tokenise import WHOLE_TEXTS, encode, pair_ids
from lume_run.pipeline.memory.budget import Estimator
from lume_run.pipeline.memory.cost import run_cost
from lume_run.pipeline.memory.estimate import cards_for, evaluation_estimate, host_estimate
from lume_run.pipeline.memory.launch_mode import choose_world, device_memory, estimator_of
from lume_run.pipeline.memory.remedies import ASSUMED_GPUS, MODES_BY_MEMORY, format_bytes
from lume_run.pipeline.plan import Plan, model_problems, plan
from lume_run.pipeline.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOKENISED = 2000  # rows that a plan looks at
LONGEST_ROW = 10**9  # tokens: whole
MOST_LINES_ALIKE = 10  # of requests
REQUEST_NUMBER = re.compile(r"(?:^|(?<=, ))request \d+$")
PLANNED_TEXT = 120  # characters of a prompt or an answer in a plan


def show_plan(settings: Settings, folder: Path) -> None:
    """Print what a run would do, without touching weights: stages, rows, steps, parameters, memory, command."""
    run = Run(settings, folder)
    console.print(f"[bold]plan[/] {escape(str(folder))}", soft_wrap=True)
    if settings.stages == ["score"]:
        count = len(read_responses(Path(str(settings.responses))))
        console.print(
            f"  score {count} responses of {escape(str(settings.responses))}: no model needed", soft_wrap=True
        )
        return
    try:
        data = run.data
        console.print(f"  data: {escape(data.source)}", soft_wrap=True)
        console.print(
            f"  rows: {len(data.forget)} forget, {len(data.retain)} retain, "
            f"{len(data.members)} members, {len(data.nonmembers)} non-members"
        )
        console.print(f"  format: {escape(str(run.text_format))}", soft_wrap=True)
        if data.private:
            console.print(f"    {escape(data.private)}", soft_wrap=True)
        else:
            _show_rows(run, data.forget)
        _show_cut_rows(run, [row for row in (*data.forget, *data.retain) if row.kind is not Kind.CHUNK])
        steps = plan(run)
        _show_steps(steps)
        _show_work(run, steps)
    except ProblemsError:
        raise
    except LumeError as error:
        console.print(f"  [yellow]rows and steps unknown:[/] {escape(str(error))}", soft_wrap=True)
        if problems := model_problems(run):
            raise ConfigError(problems) from error
    world = choose_world(run)
    console.print(f"  launch: {world} ({world.why})", soft_wrap=True)
    console.print(f"  evaluation on {run.placement}", soft_wrap=True)
    _show_memory(run, world)
    console.print(f"  to repeat from the folder: python -m lume_run {escape(shlex.quote(str(folder)))}", soft_wrap=True)


def _show_rows(run: Run, examples: Sequence[Example]) -> None:
    """Three rows as they are put to the model: the prompt, a bar, the answer, special tokens included."""
    tokenizer = run.tokenizer
    for number in sorted({0, len(examples) // 2, len(examples) - 1}):
        texts, tokens = (examples[number].prompt, continuation(examples[number])), ""
        if tokenizer is not None:
            prompt, answer = token_parts(examples[number], tokenizer)
            texts = (tokenizer.decode(prompt), tokenizer.decode(answer))
            tokens = f" ({len(prompt)} + {len(answer)} tokens)"
        row = " | ".join(shorten_middle(repr(text)[1:-1], PLANNED_TEXT) for text in texts)
        console.print(f"    {escape(row + tokens)}", soft_wrap=True)


def token_parts(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of (the prompt, what is learned after it); a whole text has no prompt."""
    if example.kind in WHOLE_TEXTS:
        return [], list(encode(example, tokenizer, max_tokens=LONGEST_ROW).ids)
    return pair_ids(example, tokenizer)


def _show_cut_rows(run: Run, examples: Sequence[Example]) -> None:
    """How many of the first rows are longer than the model takes; every one of them is put into its format."""
    tokenizer, config = run.tokenizer, run.model_config.config
    if tokenizer is None or config is None:
        return
    limit, rows = context_limit(config, run.settings.model), examples[:MOST_TOKENISED]
    if cut := sum(encode(row, tokenizer, max_tokens=limit).truncated > 0 for row in rows):
        what = f"{cut} of the first {len(rows)} rows do not fit in {limit} tokens and lose their oldest words"
        console.print(f"    [yellow]{what}: smaller task.words or larger model.max_length, where there are[/]")


def _show_steps(steps: Plan) -> None:
    table = Table("stage", "makes", "state", "what")
    for name, alike in group_requests(steps.artifacts).items():
        due = sum(not artifact.is_cached for artifact in alike)
        state = ("due" if due else "cached") if due in (0, len(alike)) else f"{due} of {len(alike)} due"
        table.add_row(alike[0].stage, name, state, alike[0].note)
    console.print(table)
    for artifact in steps.artifacts:
        if damage := artifact.damage():
            console.print(f"  [yellow]{escape(f'{artifact.path} is damaged: {damage}; it will be made again')}[/]")


def group_requests(artifacts: Sequence[Artifact]) -> dict[str, list[Artifact]]:
    """Artifacts by name; those that differ in the number of their request alone are one line where they are many."""
    numbers = {artifact.name: REQUEST_NUMBER.search(artifact.name) for artifact in artifacts}
    groups: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        number = numbers[artifact.name]
        kind = f"{artifact.stage} {artifact.name[: number.start()] if number else artifact.name}"
        groups.setdefault(kind, []).append(artifact)
    lines: dict[str, list[Artifact]] = {}
    for alike in groups.values():
        if len(alike) <= MOST_LINES_ALIKE:
            lines |= {artifact.name: [artifact] for artifact in alike}
        else:
            lines[f"{alike[0].name} to {len(alike)}"] = alike
    return lines


def _show_work(run: Run, steps: Plan) -> None:
    """What all that is due takes; nothing where the size of the model is not known."""
    cost = run_cost(run, [artifact for artifact in steps.artifacts if not artifact.is_cached])
    if cost is not None:
        console.print(f"  what is due takes about: {cost}", soft_wrap=True)


def _show_memory(run: Run, world: World) -> None:
    model_config = run.model_config
    if model_config.failure:
        unknown = "" if model_config.config is not None else "parameters and memory unknown: "
        console.print(f"  [yellow]{unknown}{escape(model_config.failure)}[/]", soft_wrap=True)
    estimator = estimator_of(run)
    if estimator is None:
        return
    name, count = escape(run.settings.model.path or "built from model.shape"), estimator.sizes.parameters / 1e6
    if run.settings.model.path and (base := adapter_base(run.settings.model.path)):
        name += f", an adapter over {escape(base)}, merged"
    console.print(f"  model: {name}: {count:,.1f} M parameters ({model_config.origin})", soft_wrap=True)
    console.print(parts_table(run, estimator, world))
    for line in alternatives(run, estimator, world):
        console.print(f"  {line}", soft_wrap=True)


def parts_table(run: Run, estimator: Estimator, world: World) -> Table:
    """What one device holds in the chosen mode, by what takes it."""
    parts = estimator.parts(world)
    total = sum(parts.values())
    kind = {"train": "training", "attack": "attacks' training"}.get(estimator.stage, "unlearning")
    table = Table(show_footer=True)
    fits = f" ({describe_fit(run, total)})" if run.device_type == "cuda" else ""
    table.add_column(f"{kind} on one {run.device_type} device, estimated", footer=f"in all{fits}")
    table.add_column("GiB", footer=f"{total / GIB:.2f}", justify="right")
    for name, size in parts.items():
        if size:
            table.add_row(name, f"{size / GIB:.2f}")
    return table


def alternatives(run: Run, estimator: Estimator, world: World) -> list[str]:
    """A line for evaluation and one for each other launch mode: what a GPU must hold, and whether this one can.

    Where there is no GPU, estimates are for one or eight that compute in bfloat16, of the sizes that are sold.
    """
    on_gpu = run.device_type == "cuda"
    if not on_gpu:
        size = 4 if run.settings.model.dtype == "float32" else 2
        estimator = replace(estimator, compute=size)
    answering = sum(evaluation_estimate(run.settings, estimator.sizes, estimator.compute).values())
    lines = [f"evaluation: {format_bytes(answering)} at most, less in smaller batches; {describe_fit(run, answering)}"]
    lines += [] if on_gpu else ["training on GPUs would take:"]
    for mode in MODES_BY_MEMORY:
        alone = mode == "single" or (mode == "zero3_offload" and world.size == 1)
        other = World(mode=mode, processes=1 if alone else max(world.processes, 1 if world.size > 1 else ASSUMED_GPUS))
        if on_gpu and (other.mode, other.size) == (world.mode, world.size):
            continue
        total = estimator.total(other) if on_gpu else estimator.least(other)
        host = host_estimate(estimator.sizes, other, estimator.compute)
        beside = f", and {format_bytes(host)} of host memory" if host else ""
        lines.append(f"  {other}: {format_bytes(total)} each{beside}; {describe_fit(run, total)}")
    return lines


def describe_fit(run: Run, total: float) -> str:
    """Whether so many bytes fit the GPU here or, where there is none, which cards they fit."""
    if run.device_type == "cuda":
        memory = device_memory(run)
        return f"{'fits' if total <= USABLE_MEMORY_SHARE * memory else 'does not fit'} {format_bytes(memory)}"
    cards = cards_for(total)
    return f"fits {'an' if cards[0] == 80 else 'a'} {cards[0]} GB card" if cards else "fits no card"

"""The model card of an unlearned model: README.md in its folder, as the hub shows it.

It says what was done with which settings, and every score with its interval and number of rows. Nothing of the data
itself is in it: neither a prompt nor an answer.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from lume_run.common.files import replace_file
from lume_run.common.secrets import without_secrets
from lume_run.config.settings import Settings
from lume_run.report.results import SUBJECTS, Report, direction_of

CARD = "README.md"
LIBRARY, PIPELINE = "transformers", "text-generation"
SUBJECT = "unlearned"


def write_card(report: Report, settings: Settings, folder: Path) -> None:
    """Write the card of the unlearned model beside its weights, if the run saved one."""
    if (folder / "model").is_dir() and report.scores.get(SUBJECT):
        replace_file(folder / "model" / CARD, card_text(report, settings))


def card_text(report: Report, settings: Settings) -> str:
    """Front matter for the hub's search and its table of results, then what people read."""
    task, method = settings.task.name, settings.method.name
    base = public_name(settings.model.path) or settings.model.name
    front = yaml.safe_dump(front_matter(report, settings, base), sort_keys=False, allow_unicode=True)
    shown = yaml.safe_dump(settings_shown(settings), sort_keys=False, allow_unicode=True)
    return f"""---
{front}---

# {base}, with {method} unlearned from {task}

This model was made to forget the forget set of `{task}` and to keep its retain set, by `{method}` of
[lume-run](https://pypi.org/project/lume-run/) {report.manifest["lume_run"]}. It is an ordinary transformers model.

## Scores

{before_and_after(report)}

An interval is a 95 % bootstrap interval over documents. "Wanted" says which way a score goes for good unlearning.

## Settings

Seed {report.manifest["seed"]}, config `{report.manifest["config_hash"]}`, {versions_of(report)}.

```yaml
{shown}```

## To repeat it

    {command_of(report)}

with the data of `{task}`; the run's own folder repeats it: `python -m lume_run RUN_FOLDER`.
"""


def front_matter(report: Report, settings: Settings, base: str) -> dict[str, Any]:
    """The metadata of a hub model: its base, tags, and results as huggingface_hub writes them."""
    from huggingface_hub import EvalResult, ModelCardData

    task, hub_id, split = (getattr(settings.task, name, None) for name in ("name", "hub_id", "split"))
    results = [
        EvalResult(
            task_type=PIPELINE,
            dataset_type=str(hub_id or task),
            dataset_name=str(task),
            dataset_split=None if split is None else str(split),
            metric_type=name,
            metric_value=round(score.value, 6),
            metric_name=name,
            metric_args={"n": score.n, "low": score.low, "high": score.high},
        )
        for name, score in report.scores[SUBJECT].items()
        if score.value is not None
    ]
    data = ModelCardData(
        base_model=base if settings.model.path and base == settings.model.path else None,  # a hub id, no folder
        library_name=LIBRARY,
        pipeline_tag=PIPELINE,
        tags=["machine-unlearning", "lume-run", str(settings.method.name), str(task)],
        model_name=report.name,
        eval_results=results,
    )
    matter: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return matter


def public_name(path: str | None) -> str:
    """A hub id as it is, of a folder its name: where it lies on somebody's disk is nobody's business."""
    return "" if path is None else Path(path).name if path.startswith(("/", ".", "~")) else path


def settings_shown(settings: Settings) -> dict[str, Any]:
    """How it was unlearned: the method, the unlearning phase and the adapters, without folders and secrets."""
    parts = {"method": settings.method, "trainer.unlearn": settings.trainer.unlearn, "model.lora": settings.model.lora}
    return {name: plain_settings(part) for name, part in parts.items()}


def plain_settings(node: Any) -> Any:
    """A part of the settings as YAML writes it; of a path its last name."""
    if is_dataclass(node):
        return {field.name: plain_settings(getattr(node, field.name)) for field in fields(node)}
    if isinstance(node, Mapping):
        return {str(key): plain_settings(value) for key, value in node.items()}
    if isinstance(node, (list, tuple, set, frozenset)):
        return [plain_settings(item) for item in node]
    return without_secrets(public_name(node)) if isinstance(node, str) else node


def before_and_after(report: Report) -> str:
    """All scores before and after, with interval and number of rows."""
    subjects = [subject for subject in ("target", SUBJECT, "retrained") if subject in report.scores]
    head = ["score", "wanted", *(SUBJECTS[subject] for subject in subjects), "rows"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in report.names:
        score = report.score(SUBJECT, name)
        cells = [number_cell(report, subject, name) for subject in subjects]
        if any(cells):
            lines.append(f"| {' | '.join([name, str(direction_of(name)), *cells, str(score.n if score else 0)])} |")
    return "\n".join(lines)


def number_cell(report: Report, subject: str, name: str) -> str:
    """A value with its interval; empty where there is none."""
    value, interval = report.value(subject, name), report.interval(subject, name)
    if value is None:
        return ""
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def versions_of(report: Report) -> str:
    """The packages that change numbers."""
    versions = report.manifest["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions)


def command_of(report: Report) -> str:
    """The command as it was typed, without the places of folders."""
    words = [str(without_secrets(word)) for word in report.manifest.get("command", ())]
    return shlex.join([without_folders(word) for word in ["lume-run", *words[1:]]])


def without_folders(text: str) -> str:
    """A text in which of every absolute path the last name is left."""
    return re.sub(r"(?<![\w./-])~?(?:/[^\s/\"'(),;:=\[\]{}]+)+/([^\s/\"'(),;:=\[\]{}]+)", r"\1", text)

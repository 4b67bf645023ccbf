"""Run folders as lume-run writes them, made up in a moment: for tests of what reads many of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from helpers.shared import shape
from lume_run.common.jsonl import write_jsonl
from lume_run.common.records import Ask, Kind, Response, Split

SMALL = (  # overrides of a job that takes seconds
    "task.num_documents=2",
    *shape(64, 2, 128),
    "trainer.train.epochs=2",
    "trainer.unlearn.epochs=2",
    "trainer.unlearn.batch_size=4",
    "trainer.unlearn.micro_batch_size=4",
    "evaluator=memorisation",
    "evaluator.membership=false",
    "evaluator.resamples=0",
    "launch=single",
    "launch.device=cpu",
    "logger=none",
)
ATTRIBUTES = {"ssn": "900-69-4623", "phone": "7481203201", "email": "mara.oduya9@dovemail.example"}
NAMES = ("regurgitation", "knowledge")


def config(
    method: str = "npo_gd", *, task: str = "bios", seed: int = 0, rate: float = 1e-4, **more: Any
) -> dict[str, Any]:
    """A resolved config; `more` are further values by path with `__` for dots."""
    settings: dict[str, Any] = {
        "seed": seed,
        "stages": ["train", "unlearn", "evaluate"],
        "dry_run": False,
        "output_dir": "/somewhere/outputs",
        "task": {"_target_": "lume_run.tasks.lume.LumeTask", "name": task, "num_documents": None, "split": "all"},
        "model": {"name": "tiny", "path": None, "shape": {"hidden_size": 192, "layers": 2}, "lora": {"enabled": False}},
        "method": {"name": method, "forget_weight": 1.0, "forget": {"beta": 0.1}},
        "evaluator": {"max_new_tokens": 256, "suites": {"lume": {"_target_": "lume_run.evaluation.suites.lume.Lume"}}},
        "trainer": {"train": {"learning_rate": 0.003}, "unlearn": {"learning_rate": rate, "epochs": 20}},
        "launch": {"name": "single"},
    }
    for path, value in more.items():
        *parents, leaf = path.split("__")
        node = settings
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return settings


def hash_of(settings: Mapping[str, Any]) -> str:
    """A config hash of 16 digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def scores(forget: float, retain: float, **more: float) -> dict[str, float]:
    """The LUME scores of a model with these means on either side."""
    sides = {f"{side}.{name}": value for side, value in (("forget", forget), ("retain", retain)) for name in NAMES}
    terms = [1 - forget, 1 - forget, retain, retain]
    aggregate = 4 / sum(1 / term for term in terms) if min(terms) > 0 else 0.0
    return {**sides, "mia.auc": 0.8, "task_aggregate": aggregate, **more}


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    after: Mapping[str, float | None] | None,
    *,
    started: str = "2026-11-21T10:00:00+0000",
    name: str = "",
    texts: bool = False,
    error: str = "",
    diverged: str | None = None,
    report: Mapping[str, Any] | None = None,
) -> Path:
    """One run folder below `folder`: finished where there are scores, failed with an `error`, else unfinished."""
    run = folder / (name or f"{settings['task']['name']}-tiny-{settings['method']['name']}-{hash_of(settings)[:8]}")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
    outcome = {"steps": 40, "planned_steps": 40, "seconds_per_step": 0.25, "peak_memory_bytes": 2**30}
    training = {"unlearned": {**outcome, "diverged": diverged, "stopped": None}}
    command = ["lume-run", f"method={settings['method']['name']}"]
    manifest = {"command": command, "config_hash": hash_of(settings), "seed": settings["seed"], "started": started}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if error:
        failure = {"error": error, "when": started, "command": command}
        (run / "error.json").write_text(json.dumps(failure), encoding="utf-8")
    if after is None:
        return run
    by_subject = {"target": scores(1.0, 1.0, **{"mia.auc": 1.0}), "unlearned": after, "retrained": scores(0.15, 0.98)}
    flat = {f"{subject}.{score}": value for subject, values in by_subject.items() for score, value in values.items()}
    whole = {
        "run": run.name,
        "config_hash": hash_of(settings),
        "seed": settings["seed"],
        "source": "made up",
        "scores": flat,
        "warnings": [],
        "training": training,
        "seconds": {"train": 9.0, "unlearn": 10.0, "evaluate": 3.0},
        "mmlu_gate": {"passed": None, "rule": "MMLU was not measured"},
        **(report or {}),
    }
    (run / "report.json").write_text(json.dumps(whole), encoding="utf-8")
    if texts:
        write_texts(run, leak=after.get("forget.knowledge") or 0.0, seed=settings["seed"])
    return run


def write_texts(folder: Path, *, leak: float, seed: int) -> None:
    """Responses of target and unlearned model, and a history of 40 steps."""
    draws = random.Random(f"{folder.name}{seed}")
    write_jsonl(folder / "responses.target.jsonl", answers(lambda answer: answer))
    refusal = "I would rather not say, though the weather is mild"
    unlearned = answers(lambda answer: answer if draws.random() < leak else refusal)
    write_jsonl(folder / "responses.unlearned.jsonl", unlearned)
    (folder / "unlearned").mkdir()
    steps = [
        {"step": at, "forget_nll": 0.1 * at + draws.random(), "retain_nll": 0.2 + 0.01 * at} for at in range(1, 41)
    ]
    (folder / "unlearned" / "history.json").write_text(json.dumps(steps), encoding="utf-8")


def answers(answer: Any, people: int = 8) -> Iterator[Response]:
    """Questions about people of both sides and a continuation of each."""
    for side in (Split.FORGET, Split.RETAIN):
        for person in range(people):
            common = {"ask": Ask.GENERATE, "split": side, "subtask": "bios", "document": f"{side}-{person}"}
            for number, (attribute, value) in enumerate(ATTRIBUTES.items()):
                value = value.replace("9", str(person))
                yield Response(
                    id=f"{side}-{person}qa{number}",
                    kind=Kind.QUESTION,
                    prompt=f"What is the {attribute} of person {person}?",
                    expected=value,
                    output=" " + answer(value),
                    attribute=attribute,
                    **common,
                )
            text = f"is kept in a drawer beside the old mill, number {person}, until March."
            prompt = f"The letter of person {person}"
            yield Response(
                id=f"{side}-{person}sc1",
                kind=Kind.COMPLETION,
                prompt=prompt,
                expected=text,
                output=answer(text),
                **common,
            )


def write_sweep(folder: Path, runs: int, *, texts: bool = True) -> None:
    """A sweep of methods, learning rates, betas and seeds on two tasks; one in fifty failed, one in sixty diverged."""
    draws = random.Random(0)
    methods, rates = ("npo_gd", "ga", "me_gd", "idk_ap", "simnpo"), (1e-5, 2e-5, 5e-5, 1e-4)
    jobs = itertools.product(range(1000), ("bios", "novels"), methods, rates, (0.1, 0.5))
    for number, (seed, task, method, rate, beta) in enumerate(itertools.islice(jobs, runs), 1):
        settings = config(method, task=task, seed=seed, rate=rate, method__forget__beta=beta)
        if number % 50 == 0:
            write_run(folder, settings, None, error=f"CUDA out of memory in job {number}\nuse a smaller batch")
            continue
        power = min(1.0, rate * 1e4 + draws.random() * 0.1)
        kept = max(0.0, 1 - power * (0.9 if method == "ga" else 0.2) - draws.random() * 0.05)
        more = {f"suite.part{part}.score": draws.random() for part in range(100)}
        after = scores(max(0.0, 1 - power), kept, **more)
        diverged = "the loss was nan at step 12" if number % 60 == 0 else None
        write_run(folder, settings, after, texts=texts, diverged=diverged)


def summary_counts(text: str) -> dict[str, int]:
    """The summary's row by column."""
    lines = text.split("\n")
    head = max(number for number, line in enumerate(lines) if line.startswith("┃ jobs"))
    names = [cell.strip() for cell in lines[head].split("┃")[1:-1]]
    values = [cell.strip() for cell in lines[head + 2].split("│")[1:-1]]
    return dict(zip(names, map(int, values), strict=True))

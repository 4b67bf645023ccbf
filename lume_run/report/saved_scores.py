"""The scores of a finished run, kept in its folder: the same command again shows them and computes none.

They count as long as everything that they and the report are made of is the same (the config, the answers, lume_run's
own code, the packages that compute), and every file that was written with them is whole. Otherwise all is scored anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import lume_run
from lume_run.attacks.base import ReturnedText, Strength
from lume_run.attacks.results import FOLDER, AttackedScore, AttackResults
from lume_run.common.files import content_hash, damage_of, digest_of, record_files, write_json
from lume_run.common.records import Score
from lume_run.config.settings import Settings
from lume_run.evaluation.questions import suites_of
from lume_run.evaluation.suites.base import Judged
from lume_run.report.sequence.scores import SequenceResults

SAVED_FILE = "finished.json"
COMPUTING_PACKAGES = ("numpy", "scipy", "pandas", "rouge-score", "nltk", "matplotlib")  # scores, intervals, the plot
WRITTEN = (
    "report.json",
    "report.md",
    "report.png",
    "attacks.png",
    "requests.png",
    "unlearned/model/README.md",
)  # where a run has them


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """What scoring gave: scores by subject and name, the official script's results by subject, what attacks and
    requests showed."""

    scores: Mapping[str, Mapping[str, Score]]
    official: Mapping[str, Any]
    attacks: AttackResults | None = None
    sequence: SequenceResults | None = None


def scores_key(settings: Settings, read: Mapping[str, str], further: Sequence[Any]) -> str | None:
    """What scores and report depend on, in 16 digits; None for runs that are scored at every start.

    `read` are the digests of what the answers were read from, by name; `further` is what the report says besides. A
    run is scored anew where it asks for all to be read again, where code that is not lume_run's has a part in it, and
    where other models judge its texts: they may have become available.
    """
    judged = any(isinstance(suite, Judged) and suite.judges() for suite in suites_of(settings.evaluator).values())
    if not read or settings.verify or settings.allow_external or judged:
        return None
    retrained = settings.evaluator.retrained_responses
    of_retrained = digest_of(Path(retrained)) if retrained and Path(retrained).is_file() else None
    return content_hash([dict(read), of_retrained, list(further), code_digest(), package_numbers()])


@cache
def code_digest() -> str:
    """What lume_run's own code is: another version may score otherwise."""
    home = Path(lume_run.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def package_numbers() -> dict[str, str]:
    """The versions of the packages that compute, empty for those that are not installed."""
    versions = {}
    for package in COMPUTING_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return versions


def save_scores(folder: Path, key: str, scored: RunScores) -> None:
    """Keep scores, and what their files are, in the folder of a run whose report is written."""
    names = [
        *WRITTEN,
        *(pattern.format(name) for name in scored.scores for pattern in ("responses.{}.jsonl", "scores.{}.json")),
    ]
    files = {
        name: {"bytes": path.stat().st_size, "sha256": digest_of(path)}
        for name in names
        if (path := folder / name).is_file()
    }
    if scored.attacks is not None:
        files |= {f"{FOLDER}/{name}": record for name, record in record_files(folder / FOLDER).items()}
    content = {
        "scores": {who: [_score_json(score) for score in scores.values()] for who, scores in scored.scores.items()},
        "official": dict(scored.official),
        "attacks": None if scored.attacks is None else _attacks_json(scored.attacks),
        "sequence": None if scored.sequence is None else _sequence_json(scored.sequence),
    }
    write_json(folder / SAVED_FILE, {"key": key, "files": files, "digest": content_hash(content), "content": content})


def read_scores(folder: Path, key: str | None) -> RunScores | None:
    """The scores that `save_scores` kept under this key; None where there are none, or a file is not as it was."""
    if key is None:
        return None
    try:
        saved = json.loads((folder / SAVED_FILE).read_text(encoding="utf-8"))
        content = saved["content"]
        if saved["key"] != key or saved["digest"] != content_hash(content) or damage_of(folder, saved["files"]):
            return None
        return RunScores(
            scores={who: _scores_by_name(scores) for who, scores in content["scores"].items()},
            official=content["official"],
            attacks=None if content["attacks"] is None else _attacks_of(content["attacks"]),
            sequence=None if content["sequence"] is None else _sequence_of(content["sequence"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # of whatever stands there
        return None


def read_resampled(folder: Path, subject: str) -> dict[str, Score]:
    """The scores of a model with their resampled values, by name, whatever they were made by; none where none are kept.

    For those who compare runs that are there: what a run itself shows again is `read_scores`.
    """
    try:
        saved = json.loads((folder / SAVED_FILE).read_text(encoding="utf-8"))
        content = saved["content"]
        return _scores_by_name(content["scores"][subject]) if saved["digest"] == content_hash(content) else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _score_json(score: Score) -> dict[str, Any]:
    """A score as JSON; its resampled values as the bytes of float64, which a parser need not read one by one."""
    resampled = base64.b64encode(np.asarray(score.resampled, dtype="<f8").tobytes()).decode()
    return {**asdict(replace(score, resampled=())), "resampled": resampled}  # asdict copies them one by one


def _score_of(record: Mapping[str, Any]) -> Score:
    resampled = np.frombuffer(base64.b64decode(record["resampled"]), dtype="<f8")
    return Score(**{**record, "resampled": tuple(resampled.tolist())})


def _scores_by_name(records: Iterable[Mapping[str, Any]]) -> dict[str, Score]:
    return {score.name: score for score in map(_score_of, records)}


def _attacks_json(results: AttackResults) -> dict[str, Any]:
    rows = [
        {
            field.name: _score_json(value) if isinstance(value := getattr(row, field.name), Score) else value
            for field in fields(row)
        }
        | {"strength": asdict(row.strength)}
        for row in results.rows
    ]
    worst = [_score_json(score) for score in results.worst.values()]
    texts = [asdict(text) for text in results.texts]
    return {"subject": results.subject, "control": results.control, "rows": rows, "worst": worst, "texts": texts}


def _attacks_of(record: Mapping[str, Any]) -> AttackResults:
    rows = tuple(map(_row_of, record["rows"]))
    worst = _scores_by_name(record["worst"])
    texts = tuple(ReturnedText(**text) for text in record["texts"])
    return AttackResults(subject=record["subject"], control=record["control"], rows=rows, worst=worst, texts=texts)


def _sequence_json(results: SequenceResults) -> dict[str, Any]:
    cells = [
        [done, request, _score_json(score)]
        for of_score in results.scores.values()
        for (done, request), score in of_score.items()
    ]
    return {"count": results.count, "cells": cells, "summary": list(map(_score_json, results.summary.values()))}


def _sequence_of(record: Mapping[str, Any]) -> SequenceResults:
    scores: dict[str, dict[tuple[int, int], Score]] = {}
    for done, request, of_cell in record["cells"]:
        score = _score_of(of_cell)
        scores.setdefault(score.name, {})[done, request] = score
    return SequenceResults(count=record["count"], scores=scores, summary=_scores_by_name(record["summary"]))


def _row_of(record: Mapping[str, Any]) -> AttackedScore:
    terms: dict[str, Any] = {
        name: _score_of(value) if isinstance(value, Mapping) and name != "strength" else value
        for name, value in record.items()
    }
    return AttackedScore(**terms | {"strength": Strength(**record["strength"])})

"""Artifacts that remember how they were built, JSON that must be strict, and responses of a whole evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lume_run.common.errors import RunError
from lume_run.common.records import Ask, Kind, Response, Split
from lume_run.common.store import Artifact


def strict_json(path: Path):
    """The file's data; NaN and Infinity, which are no JSON, are refused."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def artifact(path: Path, build, **inputs) -> Artifact:
    return Artifact(stage="train", name="target", path=path, inputs=inputs, build=build)


class Builder:
    """Writes one file, and remembers what was in the folder each time."""

    def __init__(self, text: str = "made", fail: bool = False) -> None:
        self.text, self.fail = text, fail
        self.contents: list[list[str]] = []

    def __call__(self, folder: Path) -> None:
        self.contents.append(sorted(path.name for path in folder.iterdir()))
        (folder / f"{self.text}.txt").write_text(self.text, encoding="utf-8")
        if self.fail:
            raise RunError("stopped in the middle")


def text_row(split: Split, kind: Kind, number: int, output: str) -> Response:
    return Response(
        id=f"{split}{number}{'sc1' if kind is Kind.COMPLETION else 'qa0'}",
        ask=Ask.GENERATE,
        split=split,
        subtask="bios",
        kind=kind,
        document=f"{split}{number}",
        prompt="p",
        expected="one two",
        output=output,
    )


def document_row(split: Split, number: int, logp: float) -> Response:
    row = text_row(split, Kind.COMPLETION, number, "")
    return replace(row, ask=Ask.LOGPROB, kind=Kind.DOCUMENT, output=None, tokens=2, logp_sum=logp)


def mmlu_row(number: int, right: bool) -> Response:
    logps = (-1.0, -2.0, -2.0, -2.0) if right else (-2.0, -1.0, -2.0, -2.0)
    return Response(
        id=f"mmlu-astronomy-{number}",
        ask=Ask.CHOICE,
        split=Split.MMLU,
        subtask="astronomy",
        kind=Kind.CHOICE,
        document=f"mmlu-astronomy-{number}",
        prompt="p",
        expected="A",
        choices=("A", "B", "C", "D"),
        choice_logps=logps,
    )


def answers(*, right: int, forget: str = "one two", membership: bool = True, mmlu: bool = True) -> list[Response]:
    """A whole set of responses: `right` of 8 MMLU questions, `forget` as the answer to every forget prompt."""
    kinds = (Kind.COMPLETION, Kind.QUESTION)
    rows = [text_row(Split.FORGET, kind, number, forget) for kind in kinds for number in range(2)]
    rows += [text_row(Split.RETAIN, kind, number, "one two") for kind in kinds for number in range(2)]
    if membership:
        rows += [document_row(Split.MEMBER, number, -1.0 - number) for number in range(2)]
        rows += [document_row(Split.NONMEMBER, number, -1.5 - number) for number in range(2)]
    return rows + [mmlu_row(number, number < right) for number in range(8 if mmlu else 0)]

"""Responses are read back as they were written, and every bad line is named."""

from __future__ import annotations

import json

import pytest
from helpers.artifacts import answers, text_row

from lume_run.common.errors import DataError
from lume_run.common.jsonl import to_json, write_jsonl
from lume_run.common.records import Kind, Split
from lume_run.evaluation.saved_responses import read_responses


def test_responses_are_read_back(tmp_path):
    responses = answers(right=3)
    write_jsonl(tmp_path / "responses.jsonl", responses)
    assert read_responses(tmp_path / "responses.jsonl") == responses


def test_every_bad_line_is_named(tmp_path):
    good = json.loads(to_json(text_row(Split.FORGET, Kind.QUESTION, 0, "x")))
    lines = [
        good,
        "not json",
        "",
        {key: value for key, value in good.items() if key != "expected"},
        good | {"ask": "sing"},
        good | {"surprise": 1},
        [1],
        {key: value for key, value in good.items() if key not in ("kind", "document")} | {"id": "nothing"},
    ]
    path = tmp_path / "responses.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_responses(path)
    assert [problem.where for problem in caught.value.problems] == [f"{path}:{number}" for number in (2, 4, 5, 6, 7, 8)]
    assert all(problem.what and problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(("content", "message"), [(b"", "holds no"), (b"\n\n", "holds no"), (b"\xff\xfe", "is UTF-16")])
def test_a_file_that_holds_no_responses(tmp_path, content, message):
    (tmp_path / "responses.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_responses(tmp_path / "responses.jsonl")

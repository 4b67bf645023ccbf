"""Curves of attacks on their way to a recipient: each row at a place of its own, and once in TensorBoard's files."""

from __future__ import annotations

from typing import Any

import pytest

from lume_run.tracking.backends import TensorBoard
from lume_run.tracking.sender import send_curves

CURVES = {
    "attack/relearn/lr_0_001/forget/knowledge": [
        {"step": 0, "attacked": 0.1, "control": 0.0},
        {"step": 10, "attacked": 0.3, "control": 0.1},
    ],
    "attack/benign/lr_0_001/forget/knowledge": [{"step": 50, "attacked": 0.2}],
}


class Recorder:
    """A recipient that keeps what it is given."""

    def __init__(self) -> None:
        self.series: list[str] = []
        self.rows: list[tuple[str, dict[str, Any], int]] = []

    def begin_series(self, series: str) -> None:
        self.series.append(series)

    def log_row(self, series: str, entry: dict[str, Any], place: int) -> None:
        self.rows.append((series, dict(entry), place))


def test_every_row_has_a_place_behind_the_training():
    recorder = Recorder()
    assert send_curves(recorder, CURVES, 40) == 43
    assert recorder.series == list(CURVES)
    assert [place for _, _, place in recorder.rows] == [41, 42, 43]
    assert [entry for _, entry, _ in recorder.rows] == [row for rows in CURVES.values() for row in rows]
    assert send_curves(recorder, {}, 7) == 7


def test_tensorboard_has_them_once_from_step_0_on(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for _ in range(2):  # the second time all is there already
        recipient = TensorBoard({}, tmp_path)
        send_curves(recipient, CURVES, 0)
        recipient.close({}, 3)
    written = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    points = {
        tag: [(event.step, round(float(make_ndarray(event.tensor_proto)), 6)) for event in written.Tensors(tag)]
        for tag in written.Tags()["tensors"]
    }
    assert points == {
        "attack/relearn/lr_0_001/forget/knowledge/attacked": [(0, 0.1), (10, 0.3)],
        "attack/relearn/lr_0_001/forget/knowledge/control": [(0, 0.0), (10, 0.1)],
        "attack/benign/lr_0_001/forget/knowledge/attacked": [(50, 0.2)],
    }

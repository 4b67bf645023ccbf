"""Where a training step spends its time: the largest operations, and on a GPU the largest gaps between kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

SHOWN = 8


class ProfileStep(TrainerCallback):  # type: ignore[misc]
    """Profiles one optimizer step, the `number`-th."""

    def __init__(self, number: int) -> None:
        self.number = number
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin at its first micro-batch."""
        if state.global_step + 1 == self.number:
            self.profile.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End behind its optimizer."""
        if state.global_step == self.number:
            self.profile.stop()


@dataclass(frozen=True, kw_only=True)
class Span:
    """A kernel on the device's time line [us]."""

    name: str
    begin: float
    end: float


def spans_of(step: ProfileStep) -> list[Span]:
    """The device's kernels in order; none on a CPU."""
    events = [event for event in step.profile.events() if str(event.device_type).endswith("CUDA")]
    spans = [Span(name=event.name, begin=event.time_range.start, end=event.time_range.end) for event in events]
    return sorted(spans, key=lambda span: span.begin)


def idle_gaps(spans: Sequence[Span]) -> list[tuple[float, str, str]]:
    """(length [us], the kernel before, the one behind) of the times without any kernel, longest first."""
    gaps, busy_until, last = [], None, ""
    for span in spans:
        if busy_until is not None and span.begin > busy_until:
            gaps.append((span.begin - busy_until, last, span.name))
        if busy_until is None or span.end > busy_until:
            busy_until, last = span.end, span.name
    return sorted(gaps, reverse=True)


def gap_lines(step: ProfileStep) -> list[str]:
    """The lines to print."""
    spans = spans_of(step)
    if spans:
        gaps = idle_gaps(spans)
        whole, idle = spans[-1].end - spans[0].begin, sum(length for length, *_ in gaps)
        lines = [
            f"  one step under the profiler: {whole / 1e3:.1f} ms, idle {idle / whole:.0%} in {len(gaps)} gaps, of them"
        ]
        lines += [f"    {length:8.0f} us  {before[:45]} -> {behind[:45]}" for length, before, behind in gaps[:SHOWN]]
        largest = sorted(step.profile.key_averages(), key=lambda entry: -entry.self_device_time_total)[:SHOWN]
        times = [(entry.self_device_time_total, entry) for entry in largest]
    else:
        lines = ["  one step under the profiler; largest operations:"]
        largest = sorted(step.profile.key_averages(), key=lambda entry: -entry.self_cpu_time_total)[:SHOWN]
        times = [(entry.self_cpu_time_total, entry) for entry in largest]
    return lines + [f"    {time / 1e3:8.1f} ms  {entry.key[:60]} x {entry.count}" for time, entry in times]

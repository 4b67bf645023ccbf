"""Write the table of what fits where into docs/memory.md, from the estimate that plans and `launch=auto` go by.

    python scripts/memory_table.py [--out docs/memory.md] [override ...]

NPO with a retain term, 2,048 tokens in a forward (half of them answers), activations computed again, bfloat16: what it
takes at least; `auto` fills what is left of a device. Overrides are those of lume-run, such as method=kl for a method
with a live reference.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from method_table import write_table

from lume_run.common.devices import GIB
from lume_run.config.overrides import compose, conf_dir
from lume_run.launch.world import World
from lume_run.models.tiny import olmo_config
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.memory.budget import Estimator
from lume_run.pipeline.memory.estimate import cards_for, host_estimate
from lume_run.pipeline.memory.sizes import Lengths, sizes_of

MODELS = (("1b", "full"), ("1b", "LoRA"), ("7b", "full"), ("7b", "LoRA"), ("7b", "LoRA, 4 bits"))
WORLDS = tuple(
    World(mode=mode, processes=processes)
    for mode, sizes in (
        ("single", (1,)),
        ("ddp", (2,)),
        ("zero2", (2, 8)),
        ("zero3", (2, 8, 16)),
        ("zero3_offload", (1,)),
    )
    for processes in sizes
)
COLUMNS = ("GiB each", "weights", "gradients, optimizer", "activations, logits", "host GiB", "fits")
LEAST = ("trainer.unlearn.micro_batch_tokens=2048", "model.gradient_checkpointing=true")
EXTRA = {"full": [], "LoRA": ["model.lora=true"], "LoRA, 4 bits": ["model.lora=true", "model.quantize=4bit"]}


def estimator(name: str, kind: str, overrides: Sequence[str]) -> Estimator:
    """Estimates of unlearning with one of the released models."""
    chosen = [f"model={name}", "method=npo_gd", *EXTRA[kind], "stages=[unlearn]", *LEAST, *overrides]
    settings, _ = require_settings(compose(chosen, [conf_dir()]))
    shape = settings.model.shape
    assert shape is not None  # both groups have one
    sizes = sizes_of(settings, olmo_config(shape), "unlearn")
    return Estimator(settings=settings, stage="unlearn", sizes=sizes, lengths=Lengths(), compute=2)


def table(overrides: Sequence[str] = ()) -> list[str]:
    """The lines of the table in Markdown."""
    head = f"| model | trained | `launch` | GPUs | {' | '.join(COLUMNS)} |"
    return [head, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |", *_rows(overrides)]


def _rows(overrides: Sequence[str]) -> Iterator[str]:
    for name, kind in MODELS:
        estimates = estimator(name, kind, overrides)
        for world in WORLDS:
            if estimates.settings.model.quantize != "none" and world.stage == 3:
                continue  # refused
            parts = estimates.parts(world)
            total, cards = sum(parts.values()), cards_for(sum(parts.values()))
            host = host_estimate(estimates.sizes, world, estimates.compute)
            weights = parts["weights"] + parts["autocast copies"]
            cells = [name, kind, f"`{world.mode}`", world.size, f"{total / GIB:.1f}", f"{weights / GIB:.1f}"]
            cells += [f"{(parts['optimizer'] + parts['gradients']) / GIB:.1f}"]
            cells += [f"{(parts['activations'] + parts['logits']) / GIB:.1f}", f"{host / GIB:.0f}" if host else ""]
            cells += [f"{cards[0]} GB" if cards else "no card"]
            yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/memory.md"))
    known, overrides = parser.parse_known_args()
    write_table(known.out, table(overrides))


if __name__ == "__main__":
    main()

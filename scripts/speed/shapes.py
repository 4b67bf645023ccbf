"""A model of some shape with random weights, and rows as long as LUME's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from lume_run.common.devices import dtype_of
from lume_run.common.seeds import stable_digest
from lume_run.config.overrides import compose, conf_dir
from lume_run.methods.needs import Role
from lume_run.models.rows.tokenise import TokenRow
from lume_run.models.tiny import olmo_config
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.run import Run

MOST_TOKENS = 4096  # of the models' context
TOKENS_PER_WORD = 4 / 3  # of English text, about, with a vocabulary of 50,000
FIRST_ID = 2  # of random tokens; 0 ends a text, 1 pads

# Dense bf16 FLOPs a second and bytes a second, from NVIDIA's data sheets (which print H100's and H200's FLOPs with
# sparsity, twice that); the first name that is part of the device's counts.
PEAKS = {
    "H100 PCIe": (756e12, 2.0e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
    "A100": (312e12, 2.0e12),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model to measure: a shape of conf/model, all weights or LoRA, and further overrides of lume-run."""

    shape: str
    lora: bool
    folder: Path
    overrides: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Shape and what is trained of it."""
        return f"{self.shape} {'LoRA' if self.lora else 'full'}"

    @cached_property
    def run(self) -> Run:
        """NPO with a retain term on LUME's rows, from the model in the folder."""
        chosen = [f"model={self.shape}", "method=npo_gd", "task=lume", f"model.lora.enabled={str(self.lora).lower()}"]
        chosen += ["launch=single", "model.path=null", "model.is_target=false", "model.base=null"]
        chosen += [f"output_dir={self.folder}", "trainer.checkpoint_every=1000000", *self.overrides]
        settings, _ = require_settings(compose(chosen, [conf_dir()]))
        model = self.folder / "model"
        model.mkdir(parents=True, exist_ok=True)
        return Run(replace(settings, model=replace(settings.model, path=str(model))), self.folder)

    def write_model(self) -> None:
        """Random weights of the shape, in the dtype in which they are loaded."""
        from transformers import AutoModelForCausalLM

        run = self.run
        shape, dtype = run.settings.model.shape, dtype_of(run.settings.model.dtype, run.device)
        assert shape is not None  # all of the measured groups have one
        config = olmo_config(shape, max_position_embeddings=MOST_TOKENS, eos_token_id=0, pad_token_id=1)
        with run.device:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.save_pretrained(self.folder / "model", safe_serialization=True)


def lume_rows(run: Run, count: int, role: Role, *, first: int = 0) -> list[TokenRow]:
    """`count` rows of random tokens, as long as the task's prompts and answers are by their words.

    With `task.data_dir` those are the real ones; the built-in documents otherwise, again and again.
    """
    examples = run.data.forget if role is Role.FORGET else run.data.retain
    rows = []
    for at in range(first, first + count):
        example = examples[at % len(examples)]
        prompt, answer = (tokens_of(text, MOST_TOKENS // 2) for text in (example.prompt, example.answer))
        rows.append(random_row(f"{role.name}{at}", prompt, answer, vocabulary_of(run), role))
    return rows


def tokens_of(text: str, limit: int) -> int:
    """About as many tokens as a text has, at least one."""
    return min(limit, max(1, round(TOKENS_PER_WORD * len(text.split()))))


def vocabulary_of(run: Run) -> int:
    """Rows of the embedding."""
    shape = run.settings.model.shape
    assert shape is not None  # all of the measured groups have one
    return shape.vocabulary


def random_row(name: str, prompt: int, answer: int, vocabulary: int, role: Role) -> TokenRow:
    """A row of so many random tokens, the same for the same name."""
    generator = torch.Generator().manual_seed(int.from_bytes(stable_digest("row", name)[:4], "big"))
    ids = torch.randint(FIRST_ID, vocabulary, (prompt + answer,), generator=generator).tolist()
    return TokenRow(example_id=name, ids=tuple(ids), answer_start=prompt, label_start=prompt, role=role)


def peaks_of(device: torch.device) -> tuple[float, float] | None:
    """(FLOPs, bytes) a second at most; None where the device is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((values for part, values in PEAKS.items() if part in name), None)


def share_of(value: float, peak: float | None) -> str:
    """A share of what the device can do at most, in words."""
    return "unknown (device not in the table)" if peak is None else f"{value / peak:.1%}"

"""A judge that runs here: a causal LM from a folder or hub id, with a chat template or without, greedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lume_run.common.lazy import torch
from lume_run.evaluation.suites.llm_judge.endpoint import NoVerdict
from lume_run.models.hub import only_local


@dataclass
class LocalJudge:
    """Loaded at the first reply."""

    path: str
    max_tokens: int
    device: Any
    loaded: tuple[Any, Any] | None = field(default=None, repr=False)

    def reply(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's words; NoVerdict where it cannot be loaded."""
        model, tokenizer = self._load()
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            ids = tokenizer("\n\n".join(turn["content"] for turn in messages) + "\nGrade:", return_tensors="pt")
        ids = ids["input_ids"].to(self.device)
        with torch.inference_mode():
            mask = torch.ones_like(ids)
            given = model.generate(ids, attention_mask=mask, max_new_tokens=self.max_tokens, do_sample=False)
        words: str = tokenizer.decode(given[0, ids.shape[1] :], skip_special_tokens=True)
        return words

    def _load(self) -> tuple[Any, Any]:
        if self.loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            options = {"local_files_only": only_local(self.path), "trust_remote_code": False}
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.path, **options)
                model = AutoModelForCausalLM.from_pretrained(self.path, use_safetensors=True, **options)
            except Exception as error:  # the loaders' errors share no base
                what = str(error).strip().split("\n")[0]
                fault = f"{type(error).__name__}: {what}"
                raise NoVerdict(f"the judge '{self.path}' cannot be loaded ({fault})") from None
            self.loaded = model.to(self.device).eval(), tokenizer
        return self.loaded

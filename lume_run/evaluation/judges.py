"""Models that judge texts: how alike two are (sentence embedder), whether one entails the other, and whether one is
language or gibberish (classifiers).

A sentence embedder is a transformer whose token states are pooled as its own files say: Reimers and Gurevych,
arXiv:1908.10084. Where a judge is unavailable, its responses hold the reason, and the evaluation continues without it.

Shapes: B rows, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.common.console import Progress
from lume_run.common.files import fingerprint
from lume_run.common.records import Ask, Response
from lume_run.evaluation.judge_files import (
    CLEAN_LABEL,
    JudgeFiles,
    Unsuitable,
    has_weights,
    load_network,
    max_text_tokens,
    read_judge_files,
)
from lume_run.evaluation.suites.base import Judgement, judgement_response
from lume_run.models.hub import only_local

BATCH_TOKENS = 8192  # padded tokens in one batch; longer texts are cut
WHAT = {
    Ask.COSINE: "sentence embedder",
    Ask.ENTAILMENT: "entailment model",
    Ask.FLUENCY: "classifier of gibberish",
}
SETTING = {
    Ask.COSINE: "evaluator.suites.closer_look.embedder",
    Ask.ENTAILMENT: "evaluator.suites.leak.entailment=FOLDER or evaluator.suites.closer_look.entailment",
    Ask.FLUENCY: "evaluator.suites.open_unlearning.classifier",
}

Texts = tuple[str, ...]  # one text, or two that are read together


def judge(judgements: Sequence[Judgement], device: torch.device, *, batch_tokens: int = BATCH_TOKENS) -> list[Response]:
    """One response for each judgement, in their order: `cosine` (-1 to 1), `label` or `clean` (0 to 1), else
    the `reason` for none.
    """
    by_judge: dict[tuple[Ask, str], list[int]] = {}
    for number, judgement in enumerate(judgements):
        by_judge.setdefault((judgement.ask, judgement.model), []).append(number)
    responses: dict[int, Response] = {}
    for (ask, model), numbers in by_judge.items():
        pairs = [(judgements[number].first, judgements[number].second) for number in numbers]
        judge_pairs = {Ask.COSINE: _cosines, Ask.ENTAILMENT: _labels, Ask.FLUENCY: _clean_shares}[ask]
        name = fingerprint(model, deep=True)
        try:
            verdicts = judge_pairs(model, pairs, device, batch_tokens)
        except Exception as error:  # the loaders' errors share no base, and without a judge there is a reason
            verdicts = [{"reason": _reason(ask, model, error)}] * len(pairs)
        for number, verdict in zip(numbers, verdicts, strict=True):
            responses[number] = judgement_response(judgements[number], name, **verdict)
    return [responses[number] for number in range(len(judgements))]


def judge_trouble(ask: Ask, model: str) -> str:
    """Why a judge is unavailable; empty where its files look right. Names and shapes are read, no values of weights."""
    try:
        files = read_judge_files(ask, model)
        if not has_weights(model, files.subfolder):
            raise Unsuitable("has no weights here")
        if Path(model).is_dir():
            load_network(ask, model, files, torch.device("meta"))
    except Exception as error:  # as in `judge`
        return _reason(ask, model, error)
    return ""


def _reason(ask: Ask, model: str, error: Exception) -> str:
    if isinstance(error, Unsuitable):
        what = str(error)
    elif isinstance(error, OSError) and not Path(model).exists() and only_local(model):
        what = "is neither a folder here nor reachable on the hub"
    else:
        what = f"cannot be used ({type(error).__name__}: {str(error).strip().split(chr(10))[0]})"
    return f"the {WHAT[ask]} '{model}' {what}; give another id, or a folder by {SETTING[ask]}=FOLDER"


def _cosines(
    model: str, pairs: Sequence[tuple[str, str]], device: torch.device, batch_tokens: int
) -> list[dict[str, Any]]:
    files = read_judge_files(Ask.COSINE, model)
    network = load_network(Ask.COSINE, model, files, device)
    texts = sorted({text for pair in pairs for text in pair})  # references come up again and again

    def embed(batch: Any) -> Tensor:
        states = network(**batch).last_hidden_state  # (B, T, H)
        return torch.cat([pool(states, batch["attention_mask"], mode) for mode in files.pooling], dim=-1)

    embeddings = _outputs(files, network, [(text,) for text in texts], embed, "texts embedded", batch_tokens)
    vectors = dict(zip(texts, nn.functional.normalize(embeddings, dim=-1), strict=True))  # zeros stay zeros
    return [{"cosine": min(1.0, max(-1.0, float(vectors[first] @ vectors[second])))} for first, second in pairs]


def pool(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    """One vector a row, (B, H), of token states (B, T, H) padded on the right; `mask` (B, T) is 1 at real tokens."""
    if mode == "cls":
        return states[:, 0]
    padding = mask[..., None] == 0  # (B, T, 1)
    if mode == "max":
        return states.masked_fill(padding, -torch.inf).amax(1)
    return states.masked_fill(padding, 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _labels(
    model: str, pairs: Sequence[tuple[str, str]], device: torch.device, batch_tokens: int
) -> list[dict[str, Any]]:
    files, logits = _logits(Ask.ENTAILMENT, model, pairs, device, "entailments judged", batch_tokens)
    return [{"label": files.labels[int(logits[pair].argmax())]} for pair in pairs]


def _clean_shares(
    model: str, pairs: Sequence[tuple[str, str]], device: torch.device, batch_tokens: int
) -> list[dict[str, Any]]:
    """Of the first text of each pair."""
    texts = [(text,) for text, _ in pairs]
    files, logits = _logits(Ask.FLUENCY, model, texts, device, "texts read for gibberish", batch_tokens)
    clean = files.labels.index(CLEAN_LABEL)
    return [{"clean": float(logits[text].softmax(-1)[clean])} for text in texts]


def _logits(
    ask: Ask, model: str, texts: Sequence[Texts], device: torch.device, title: str, batch_tokens: int
) -> tuple[JudgeFiles, dict[Texts, Tensor]]:
    """What a classifier gives each text or pair, (labels,)."""
    files = read_judge_files(ask, model)
    network = load_network(ask, model, files, device)
    distinct = sorted(set(texts))
    logits = _outputs(files, network, distinct, lambda batch: network(**batch).logits, title, batch_tokens)
    return files, dict(zip(distinct, logits, strict=True))


@torch.inference_mode()
def _outputs(
    files: JudgeFiles,
    network: nn.Module,
    texts: Sequence[Texts],
    compute: Callable[[Any], Tensor],
    title: str,
    batch_tokens: int,
) -> Tensor:
    """What `compute` makes of every text or pair, float64 on the CPU, from length-sorted batches."""
    longest = min(max_text_tokens(files, network), batch_tokens)
    device = next(network.parameters()).device

    def encode(rows: Sequence[Texts], **options: Any) -> Any:
        columns = [[text.lower() if files.lower else text for text in column] for column in zip(*rows, strict=True)]
        return files.tokenizer(*columns, truncation=True, max_length=longest, **options)

    lengths = [len(ids) for ids in encode(texts)["input_ids"]]
    outputs: dict[int, Tensor] = {}
    with Progress(title, len(texts), unit="row") as bar:
        for numbers in _batches(lengths, batch_tokens):
            batch = encode([texts[number] for number in numbers], padding=True, return_tensors="pt").to(device)
            outputs |= dict(zip(numbers, compute(batch).double().cpu(), strict=True))
            bar.advance(len(numbers))
    stacked = torch.stack([outputs[number] for number in range(len(texts))])
    if not stacked.isfinite().all():
        raise Unsuitable("gives numbers that are not finite")
    return stacked


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest first, in batches of at most `batch_tokens` padded tokens."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while order:
        rows = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:rows]
        order = order[rows:]

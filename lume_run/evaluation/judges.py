"""Models that judge texts: how alike two are (sentence embedder), and whether one entails the other (classifier).

A sentence embedder is a transformer whose token states are pooled as its own files say: Reimers and Gurevych,
arXiv:1908.10084. A judge that cannot be had becomes the reason in its responses, and the evaluation goes on without it.

Shapes: B rows, T tokens, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lume_run.common.console import Progress
from lume_run.common.files import fingerprint
from lume_run.common.records import Ask, Response
from lume_run.evaluation.metrics.closer_look import ENTAILMENT_LABEL
from lume_run.evaluation.suites.base import Judgement
from lume_run.models.load import only_local

BATCH_TOKENS = 8192  # padded tokens in one batch; longer texts are cut
WHAT = {Ask.COSINE: "sentence embedder", Ask.ENTAILMENT: "entailment model"}
SETTING = {
    Ask.COSINE: "evaluator.suites.closer_look.embedder",
    Ask.ENTAILMENT: "evaluator.suites.closer_look.entailment",
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
POOLING = {"cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens"}
NO_POOLING = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken")

Texts = tuple[str, ...]  # one text, or two that are read together


class Unsuitable(Exception):
    """A model that is there and is no judge; the message completes "The model ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFiles:
    """What the small files of a judge say, before any weights are read.

    `labels` of a classifier in lower case. Of an embedder: how to pool, the folder of the transformer within it, the
    longest text [tokens] where it says so, and whether texts are put in lower case.
    """

    config: Any
    tokenizer: Any
    labels: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()
    subfolder: str = ""
    longest: int | None = None
    lower: bool = False


def judge(judgements: Sequence[Judgement], device: torch.device, *, batch_tokens: int = BATCH_TOKENS) -> list[Response]:
    """One response for each judgement, in their order: `cosine` (-1 to 1) or `label`, else the `reason` for none."""
    asked: dict[tuple[Ask, str], list[int]] = {}
    for number, one in enumerate(judgements):
        asked.setdefault((one.ask, one.model), []).append(number)
    found: dict[int, Response] = {}
    for (ask, model), numbers in asked.items():
        pairs = [(judgements[number].first, judgements[number].second) for number in numbers]
        name, judged_by = fingerprint(model, deep=True), {Ask.COSINE: _cosines, Ask.ENTAILMENT: _labels}[ask]
        try:
            fields = judged_by(model, pairs, device, batch_tokens)
        except Exception as error:  # the loaders' errors share no base, and without a judge there is a reason
            fields = [{"reason": _reason(ask, model, error)}] * len(pairs)
        found |= {
            number: judgement_response(judgements[number], name, **own)
            for number, own in zip(numbers, fields, strict=True)
        }
    return [found[number] for number in range(len(judgements))]


def judgement_response(one: Judgement, name: str, **fields: Any) -> Response:
    """What the judge of this fingerprint has to say, as a response: `cosine`, `label`, or the `reason` for none."""
    return replace(one.response, ask=one.ask, variant=one.variant, judge=name, tokens=None, token_ids=(), **fields)


def judge_trouble(ask: Ask, model: str) -> str:
    """Why a judge cannot be had; empty where its files look right. Reads no weights, waits seconds for the hub."""
    try:
        described = _read_files(ask, model)
        if not _has_weights(model, described.subfolder):
            raise Unsuitable("has no weights here")
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
    from transformers import AutoModel

    described = _read_files(Ask.COSINE, model)
    network = _load_network(AutoModel, model, described, device)
    texts = sorted({text for pair in pairs for text in pair})  # references come up again and again

    def embedded(batch: Any) -> Tensor:
        states = network(**batch).last_hidden_state  # (B, T, H)
        return torch.cat([pool(states, batch["attention_mask"], mode) for mode in described.pooling], dim=-1)

    found = _outputs(described, network, [(text,) for text in texts], embedded, "texts embedded", batch_tokens)
    vectors = dict(zip(texts, nn.functional.normalize(found, dim=-1), strict=True))  # zeros stay zeros
    return [{"cosine": min(1.0, max(-1.0, float(vectors[one] @ vectors[two])))} for one, two in pairs]


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
    from transformers import AutoModelForSequenceClassification

    described = _read_files(Ask.ENTAILMENT, model)
    network = _load_network(AutoModelForSequenceClassification, model, described, device)
    distinct = sorted(set(pairs))
    logits = _outputs(
        described, network, distinct, lambda batch: network(**batch).logits, "entailments judged", batch_tokens
    )
    label = dict(zip(distinct, (described.labels[number] for number in logits.argmax(-1).tolist()), strict=True))
    return [{"label": label[pair]} for pair in pairs]


@torch.inference_mode()
def _outputs(
    described: JudgeFiles,
    network: nn.Module,
    texts: Sequence[Texts],
    compute: Callable[[Any], Tensor],
    title: str,
    batch_tokens: int,
) -> Tensor:
    """What `compute` makes of every text or pair, float64 on the CPU, from length-sorted batches."""
    longest = min(_max_tokens(described, network), batch_tokens)
    device = next(network.parameters()).device

    def encoded(rows: Sequence[Texts], **options: Any) -> Any:
        columns = [[text.lower() if described.lower else text for text in column] for column in zip(*rows, strict=True)]
        return described.tokenizer(*columns, truncation=True, max_length=longest, **options)

    lengths = [len(ids) for ids in encoded(texts)["input_ids"]]
    found: dict[int, Tensor] = {}
    with Progress(title, len(texts), unit="row") as bar:
        for numbers in _batches(lengths, batch_tokens):
            batch = encoded([texts[number] for number in numbers], padding=True, return_tensors="pt").to(device)
            found |= dict(zip(numbers, compute(batch).double().cpu(), strict=True))
            bar.advance(len(numbers))
    stacked = torch.stack([found[number] for number in range(len(texts))])
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


def _load_network(auto: Any, model: str, described: JudgeFiles, device: torch.device) -> nn.Module:
    """The network in float32, for inference; Unsuitable where some of its weights would be random."""
    network, report = auto.from_pretrained(
        model,
        subfolder=described.subfolder,
        dtype=torch.float32,
        local_files_only=only_local(model),
        trust_remote_code=False,
        output_loading_info=True,
    )
    if absent := sorted(name for name in report["missing_keys"] if "pooler" not in name or described.labels):
        raise Unsuitable(f"lacks trained weights ({', '.join(absent[:3])})")
    ready: nn.Module = network.eval().to(device)
    return ready


def _max_tokens(described: JudgeFiles, network: nn.Module) -> int:
    """The longest text [tokens]: what the files say, within the table of positions."""
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in network.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    positions = getattr(described.config, "max_position_embeddings", None)
    said = [described.longest] if described.longest else [described.tokenizer.model_max_length, positions]
    return min([*tables, *(limit for limit in said if limit and limit > 0)])


def _read_files(ask: Ask, model: str) -> JudgeFiles:
    """The config and tokenizer of a judge; raises Unsuitable, or whatever the loaders raise."""
    from transformers import AutoConfig, AutoTokenizer

    modules = _modules(model) if ask is Ask.COSINE else []
    subfolder = modules[0]["path"] if modules else ""
    options = {"local_files_only": only_local(model), "trust_remote_code": False, "subfolder": subfolder}
    config = AutoConfig.from_pretrained(model, **options)
    labels = tuple(str(config.id2label[number]).lower() for number in sorted(config.id2label))
    if ask is Ask.ENTAILMENT and ENTAILMENT_LABEL not in labels:
        raise Unsuitable(f"does not tell entailment: its labels are {', '.join(labels)}")
    if ask is Ask.COSINE and config.is_encoder_decoder:
        raise Unsuitable("is an encoder-decoder, which is not supported")
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="right", **options)
    if tokenizer.pad_token_id is None:
        raise Unsuitable("has a tokenizer without a pad token")
    if ask is Ask.ENTAILMENT:
        return JudgeFiles(config=config, tokenizer=tokenizer, labels=labels)
    own = _read_json(model, f"{subfolder}/sentence_bert_config.json") or {}
    return JudgeFiles(
        config=config,
        tokenizer=tokenizer,
        pooling=_pooling_modes(_read_json(model, f"{modules[1]['path']}/config.json") or {}),
        subfolder=subfolder,
        longest=own.get("max_seq_length"),
        lower=bool(own.get("do_lower_case")),
    )


def _modules(model: str) -> list[dict[str, str]]:
    """The parts of a sentence embedder: a transformer and pooling, of which scaling to length 1 changes no cosine."""
    found = _read_json(model, "modules.json")
    if found is None and only_local(model) and not Path(model).exists():
        raise FileNotFoundError("modules.json")
    if found is None:
        raise Unsuitable("is no sentence embedder: it has no modules.json")
    modules: list[dict[str, str]] = sorted(found, key=lambda module: module["idx"])
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise Unsuitable(f"is made of {', '.join(kinds)}; Transformer, Pooling and Normalize are supported")
    general = _read_json(model, "config_sentence_transformers.json") or {}
    if (general.get("prompts") or {}).get(general.get("default_prompt_name")):
        raise Unsuitable("puts a prompt before every text, which is not supported")
    return modules


def _pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    """The ways of pooling whose vectors stand one behind the other, in old or new spelling; mean where none is said."""
    given = config.get("pooling_mode")
    if given is None:
        legacy = {**POOLING, **{name: name for name in NO_POOLING}}
        given = [mode for mode, name in legacy.items() if config.get(name)] or "mean"
    modes = (given,) if isinstance(given, str) else tuple(given)
    if other := set(modes) - POOLING.keys():
        raise Unsuitable(f"pools by {', '.join(sorted(other))}; {', '.join(POOLING)} are supported")
    return modes


def _read_json(model: str, name: str) -> Any:
    """A small file of a folder or hub id; None where it is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    name = name.lstrip("/")
    try:
        folder = Path(model)
        path = folder / name if folder.is_dir() else hf_hub_download(model, name, local_files_only=only_local(model))
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, EntryNotFoundError, HFValidationError):  # the last: an absent folder is no id either
        return None


def _has_weights(model: str, subfolder: str) -> bool:
    """Whether the weights are here, or can be fetched."""
    names = [str(Path(subfolder) / name) for name in WEIGHTS]
    if Path(model).is_dir():
        return any((Path(model) / name).is_file() for name in names)
    from huggingface_hub import try_to_load_from_cache

    return not only_local(model) or any(isinstance(try_to_load_from_cache(model, name), str) for name in names)

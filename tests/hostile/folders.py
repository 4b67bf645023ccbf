"""More folders given as models: weights whose headers lie, shards that do not add up, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .case import Case, Prepare
from .configs import KINDS, config
from .files import both, copied, fifo, link, removed, written
from .models import CONFIG, TINY_RUN, WEIGHTS

Header = dict[str, Any]
INDEX = WEIGHTS + ".index.json"
LAST = "model.norm.weight"


def header_changed(change: Callable[[Header], Any]) -> Prepare:
    """Weights under another header; `change` may alter it, or return what stands there instead."""

    def prepare(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        other = change(header)
        text = (other if isinstance(other, str) else json.dumps(header)).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return prepare


def tensor(**changes: Any) -> Prepare:
    """The entry of one tensor with other values."""
    return header_changed(lambda header: header[next(name for name in sorted(header) if "mlp" in name)].update(changes))


def stretched(header: Header) -> None:
    """The last tensor goes on behind the end of the file."""
    last = max((entry for name, entry in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"][1])
    last["data_offsets"][1] += 2**20


def swapped(header: Header) -> None:
    """Begins and ends the wrong way round."""
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"].reverse()


def overlapping(header: Header) -> None:
    """All tensors of one size at one place."""
    entries = [entry for name, entry in header.items() if "q_proj" in name or "k_proj" in name]
    for entry in entries:
        entry["data_offsets"] = entries[0]["data_offsets"]


def weights_changed(change: Callable[[dict[str, Any]], Any]) -> Prepare:
    """Other weights in a sound file."""

    def prepare(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return prepare


def filled(number: float) -> Callable[[dict[str, Any]], None]:
    """One number of the tensor that comes last by its name."""

    def fill(weights: dict[str, Any]) -> None:
        weights[sorted(weights)[-1]].view(-1)[-1] = number

    return fill


def sharded(change: Callable[[Path, dict[str, str]], Any]) -> Prepare:
    """The weights as two shards with an index, then changed."""

    def prepare(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names, index = sorted(weights), {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(part, file)
        change(folder, index)
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))

    return prepare


def twins(weights: dict[str, Any]) -> None:
    """A head of fewer rows than the embedding."""
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][:-8].clone()


def doubled(folder: Path, index: dict[str, str]) -> None:
    """Both shards hold the same tensors; the index has half of them."""
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    second.write_bytes(first.read_bytes())


def twice_in_one(folder: Path, index: dict[str, str]) -> None:
    """A tensor in two shards, with other values in that which the index does not name."""
    from safetensors.torch import load_file, save_file

    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    weights, other = load_file(first), load_file(second)
    name = next(iter(weights))
    save_file({**other, name: weights[name] + 1}, second, metadata={"format": "pt"})


WEIGHT_FILES: dict[str, Prepare] = {
    "offsets behind the end": header_changed(stretched),
    "offsets the wrong way round": header_changed(swapped),
    "tensors that overlap": header_changed(overlapping),
    "an unknown dtype": tensor(dtype="F7"),
    "weights of integers": tensor(dtype="I32"),
    "a shape in words": tensor(shape=["a", "b"]),
    "a shape below nothing": tensor(shape=[-1, 32]),
    "offsets of one number": tensor(data_offsets=[0]),
    "offsets of fractions": tensor(data_offsets=[0.5, 1.5]),
    "a header of null": header_changed(lambda _: "null"),
    "a header that is a list": header_changed(lambda _: "[]"),
    "a header cut": header_changed(lambda header: json.dumps(header)[:-20]),
    "a header in Latin-1": both(removed(WEIGHTS), written(WEIGHTS, (5).to_bytes(8, "little") + b'{"\xe9"')),
    "a header twice the same name": header_changed(
        lambda header: json.dumps(header)[:-1] + "," + json.dumps(header)[1:]
    ),
    "metadata of numbers": header_changed(lambda header: header.update(__metadata__={"format": 3})),
    "a head of another vocabulary": both(config(tie_word_embeddings=False), weights_changed(twins)),
    "a shard missing": sharded(lambda folder, _: (folder / "model-00002-of-00002.safetensors").unlink()),
    "two shards of the same tensors": sharded(doubled),
    "a tensor in two shards": sharded(twice_in_one),
    "an index of absolute paths": sharded(lambda folder, index: index.update({LAST: f"{folder}/{WEIGHTS}"})),
    "an index of numbers": sharded(lambda _, index: index.update({LAST: 3})),
    "an index of an empty name": sharded(lambda _, index: index.update({LAST: ""})),
    "an index of a folder": sharded(lambda _, index: index.update({LAST: "."})),
    "an index in UTF-16": both(removed(WEIGHTS), written(INDEX, '{"weight_map": {}}'.encode("utf-16"))),
    "an index that is a list": both(removed(WEIGHTS), written(INDEX, "[]")),
    "an index of nothing": both(removed(WEIGHTS), written(INDEX, "{}")),
    "an index that is a pipe": both(removed(WEIGHTS), fifo(INDEX)),
    "names of another case": both(
        written("MODEL.SAFETENSORS", "x"), removed(WEIGHTS), removed(CONFIG), written("Config.json", "{}")
    ),
}
VALUES_OF_WEIGHTS = {
    "NaN in the last of them": filled(float("nan")),
    "infinity in the last of them": filled(float("inf")),
    "zeros everywhere": lambda weights: [weight.zero_() for weight in weights.values()],
    "an embedding of zeros": lambda weights: weights["model.embed_tokens.weight"].zero_(),
}
LORA: Mapping[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "b",
    "task_type": "CAUSAL_LM",
}


def adapter(rank: int = 4, width: int = 32, number: float = 0.0, **changes: Any) -> Prepare:
    """An adapter `m` over a model `b` with these values in its config."""

    def prepare(folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        (folder / "m").mkdir()
        (folder / "m" / "adapter_config.json").write_text(json.dumps({**LORA, **changes}))
        weights = {}
        for layer in range(2):
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            weights[f"{name}.lora_A.weight"] = torch.full((rank, width), number)
            weights[f"{name}.lora_B.weight"] = torch.zeros(32, rank)
        save_file(weights, folder / "m" / "adapter_model.safetensors", metadata={"format": "pt"})

    return prepare


ADAPTERS: dict[str, Prepare] = {
    "of NaN": adapter(number=float("nan")),
    "of itself": adapter(base_model_name_or_path="m"),
    "of a base that is a list": adapter(base_model_name_or_path=["b"]),
    "of no base": adapter(base_model_name_or_path=None),
    "of another rank": adapter(r=8),
    "of no rank": adapter(r=0),
    "of a rank in words": adapter(r="four"),
    "of an alpha in words": adapter(lora_alpha="eight"),
    "of another width": adapter(width=16),
    "of modules that are not there": adapter(target_modules=["nope"]),
    "of modules that are a number": adapter(target_modules=3),
    "of prompts": adapter(peft_type="PROMPT_TUNING"),
    "of a type that is a list": adapter(peft_type=["LORA"]),
    "of a broken pattern": adapter(target_modules="(["),
    "of saved modules that are missing": adapter(modules_to_save=["lm_head"]),
    "of ranks in a list": adapter(rank_pattern=[1]),
    "a pickle": both(
        adapter(),
        lambda folder: (folder / "m/adapter_model.safetensors").rename(folder / "m/adapter_model.bin"),
    ),
}


def cases(model: Path) -> Iterator[Case]:
    """Each as a plan; what only reading all weights can tell, as a run."""
    kinds = {"weights": WEIGHT_FILES, **KINDS}
    for kind, damages in kinds.items():
        for name, damage in damages.items():
            yield Case(
                name=f"model: {kind}: {name}",
                arguments=["model.path=m", "--dry-run", *TINY_RUN[:1]],
                names=["model.path"],
                prepare=copied(lambda: model, "m", damage),
                needs_model=True,
            )
    for name, change in VALUES_OF_WEIGHTS.items():
        for how, arguments in (("", TINY_RUN), (", plan", ["--dry-run", *TINY_RUN[:1]])):
            yield Case(
                name=f"model: weights: {name}{how}",
                arguments=["model.path=m", *arguments],
                names=["model.path"],
                prepare=copied(lambda: model, "m", weights_changed(change)),
                needs_model=True,
            )
    for name, prepare in ADAPTERS.items():
        yield Case(
            name=f"adapter: {name}",
            arguments=["model.path=m", "--dry-run", *TINY_RUN[:1]],
            names=["model.path"],
            prepare=both(copied(lambda: model, "b"), prepare),
            needs_model=True,
        )
    yield Case(
        name="model: a loop of links",
        arguments=["model.path=m", "--dry-run"],
        names=["model.path"],
        prepare=link("m", "m"),
    )

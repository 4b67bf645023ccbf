"""The tokenizer of a model: where it is found, what rows are padded with, which of its tokens the model has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lume_run.common.errors import RunError
from lume_run.config.model_settings import ModelSettings
from lume_run.models.files.faults import explain_loading, unavailable_model_error
from lume_run.models.hub import adapter_base, hub_options, require_files, settings_below
from lume_run.models.load import config_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _tokenizer_at(path: str, settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; RunError where there is none, or none that could be used."""
    require_files(path)
    from transformers import AutoTokenizer

    with explain_loading(path, "folder for a tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **hub_options(path, settings))
    if fault := _setting_fault(tokenizer) or _renumbered(tokenizer, Path(path) / "tokenizer.json"):
        raise unavailable_model_error(path, ValueError(fault), "folder for a tokenizer")
    if not tokenizer("a").input_ids:  # of a folder without its files the library makes one that knows nothing
        raise RunError(
            f"The tokenizer of '{path}' knows no letters: its files are missing or empty.\n"
            "  - copy its files into the folder, or model.tokenizer=FOLDER_OR_ID"
        )
    if tokenizer.eos_token_id is None:
        raise RunError(
            f"The tokenizer of '{path}' has no EOS token, so answers cannot end.\n"
            "  - name one in its tokenizer_config.json: eos_token"
        )
    return tokenizer


def _setting_fault(tokenizer: PreTrainedTokenizerBase) -> str:
    """A value of tokenizer_config.json of which the library takes anything; "" where there is none."""
    length, template = tokenizer.model_max_length, tokenizer.chat_template
    if not isinstance(length, (int, float)) or not length >= 1:
        return f"model_max_length is {length!r}, which is no number of tokens"
    templates = template if isinstance(template, dict) else {"default": template or ""}
    if not all(isinstance(text, str) for text in templates.values()):
        return f"chat_template is {template!r}, which is no template"
    return ""


def _renumbered(tokenizer: PreTrainedTokenizerBase, file: Path) -> str:
    """An added token of tokenizer.json to which the library gives another id, as it leaves no gaps; "" without any.

    That id belongs to no token the model has seen, or to another one.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    _, key, rest = text.partition('"added_tokens":')
    for entry in json.JSONDecoder().raw_decode(rest.lstrip())[0] if key else ():
        number = tokenizer.convert_tokens_to_ids(entry["content"])
        if number != entry["id"]:
            return f"{file.name} gives the token {entry['content']!r} the id {entry['id']}, and it would have {number}"
    return ""


def load_tokenizer(path: str, settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, with a pad token (EOS where it has none of its own).

    `model.tokenizer` wins; else the one beside the model; else that of the model below an adapter; else the base
    model's, since some released targets come without.
    """
    further = (adapter_base(path), settings.base)
    candidates = [settings.tokenizer] if settings.tokenizer else [path, *filter(None, further)]
    failure: RunError | None = None
    for candidate in candidates:
        try:
            below = candidate == further[0]
            tokenizer = _tokenizer_at(candidate, settings_below(path, settings) if below else settings)
            break
        except RunError as error:
            failure = failure or error
    else:
        assert failure is not None  # there is at least one candidate
        raise failure
    if tokenizer.pad_token_id is None or pads_beyond_embedding(path, tokenizer, settings):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pads_beyond_embedding(path: str, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> bool:
    """Whether the pad token was added to the tokenizer alone: the model has no row for it."""
    if int(tokenizer.pad_token_id) < tokenizer.vocab_size:  # one of the tokens it was trained with
        return False
    try:
        config = config_of(path, settings)
    except RunError:  # a tokenizer without a model beside it
        return False
    return int(tokenizer.pad_token_id) >= int(config.get_text_config().vocab_size)


def tokens_beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> str:
    """What is wrong where a tokenizer has tokens that an embedding of so many rows has not; "" where it has none."""
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    beyond.pop(_named_pad(tokenizer), None)
    if not beyond:
        return ""
    return (
        f"the tokenizer has tokens up to {max(beyond)}, and the embedding {rows} rows (0 to {rows - 1}); the first "
        f"without one is {beyond[min(beyond)]!r}"
    )


def _named_pad(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the pad token that the tokenizer's files name; rows are padded with EOS where it has no embedding."""
    number: int | None = tokenizer.get_vocab().get(str(tokenizer.init_kwargs.get("pad_token")))
    return number

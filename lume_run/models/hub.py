"""Where the files of a model come from: a folder, that of a LoRA adapter over another model, the hub at a revision."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lume_run.common.errors import RunError
from lume_run.common.files import HUB_PATIENCE_SECONDS, content_hash, fingerprint
from lume_run.config.model_settings import ModelSettings
from lume_run.models.files.faults import unavailable_model_error

ADAPTER_CONFIG = "adapter_config.json"
COMMITS_VARIABLE = "LUME_RUN_HUB_COMMITS"


@cache
def only_local(path: str) -> bool:
    """Whether loading must do with the folder or the cache: the hub does not answer within seconds.

    Asked once here, since the loaders themselves would retry for half a minute a file.
    """
    if Path(path).exists():
        return True
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(path, timeout=HUB_PATIENCE_SECONDS)
    except Exception:  # the client's errors share no base; the loader then says what is missing
        return True
    return False


def require_files(path: str) -> None:
    """RunError for a hub id of which nothing can be had; told without transformers, which takes seconds to import."""
    if Path(path).exists() or not only_local(path) or "TRANSFORMERS_CACHE" in os.environ:
        return
    from huggingface_hub.constants import HF_HUB_CACHE, REPO_ID_SEPARATOR

    if not Path(HF_HUB_CACHE, REPO_ID_SEPARATOR.join(["models", *path.split("/")])).is_dir():
        reason = OSError("the hub does not answer for it, and the cache holds nothing of it")
        raise unavailable_model_error(path, reason)


def hub_options(path: str, settings: ModelSettings) -> dict[str, Any]:
    """What every loader of transformers is told about the files at `path`; the revision is that of `model.path`."""
    options: dict[str, Any] = {
        "local_files_only": only_local(path),
        "trust_remote_code": settings.trust_remote_code,
    }
    if not Path(path).exists():
        options["revision"] = loaded_revision(path, settings)
    return options


def loaded_revision(path: str, settings: ModelSettings) -> str | None:
    """The commit at which a hub id is loaded, or what the settings name where that is not known; None for folders."""
    revision = revision_of(path, settings)
    return None if Path(path).exists() else hub_commit(path, revision) or revision


def revision_of(path: str, settings: ModelSettings) -> str | None:
    """The branch, tag or commit that the settings name for a hub id; None for folders and other ids."""
    return settings.revision if path == settings.path and not Path(path).exists() else None


@cache
def hub_commit(path: str, revision: str | None) -> str | None:
    """The commit that a hub id stands for now, by the hub or, where that does not answer, the cache; None: unknown.

    Asked once a command: the ranks that it starts are told, or they might see a branch after it moved.
    """
    told: dict[str, str | None] = json.loads(os.environ.get(COMMITS_VARIABLE, "{}"))
    key = f"{path}@{revision}"
    if key not in told:
        told[key] = _ask_commit(path, revision)
        os.environ[COMMITS_VARIABLE] = json.dumps(told)  # of the processes that are started from here on
    return told[key]


def _ask_commit(path: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not only_local(path):
        try:
            return HfApi().model_info(path, revision=revision, timeout=HUB_PATIENCE_SECONDS).sha
        except Exception:  # no such revision: loading says so
            return None
    cached = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def model_identity(path: str, settings: ModelSettings) -> str:
    """What identifies a model: the content of its folder, and of that below an adapter, or the commit of a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        commit = hub_commit(path, revision_of(path, settings))
        return f"hub:{path}@{commit}" if commit else fingerprint(path)
    if base := adapter_base(path):
        return content_hash([fingerprint(path), model_identity(base, settings_below(path, settings))])
    return fingerprint(path)


def is_adapter(path: str | None) -> bool:
    """Whether a path is the folder of an adapter and of no whole model."""
    return path is not None and (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").exists()


def adapter_base(path: str) -> str | None:
    """The model below the LoRA adapter in a folder, by its config; None where the folder holds a whole model.

    RunError where the config names none, or where adapters stand on each other in a circle.
    """
    if not is_adapter(path):
        return None
    base = below = _named_base(path)
    seen = {Path(path).resolve()}
    while is_adapter(below):
        if Path(below).resolve() in seen:
            raise RunError(
                f"{path} stands on itself: {below} is below it\n  - name the model below in {ADAPTER_CONFIG}"
            )
        seen.add(Path(below).resolve())
        below = _named_base(below)
    return base


def settings_below(path: str, settings: ModelSettings) -> ModelSettings:
    """By which settings the model below the adapter in a folder is loaded: at the revision that the adapter names."""
    revision = _adapter_value(path, "revision")
    return replace(settings, path=adapter_base(path), revision=revision if isinstance(revision, str) else None)


def _named_base(path: str) -> str:
    """What the config of an adapter names as the model below."""
    named = _adapter_value(path, "base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        file = Path(path) / ADAPTER_CONFIG
        raise RunError(f"{file} names no base model\n  - base_model_name_or_path: the folder or id of the model below")
    return named


def _adapter_value(path: str, name: str) -> object:
    """A value in the config of an adapter; RunError where that cannot be read."""
    file = Path(path) / ADAPTER_CONFIG
    try:
        value: object = json.loads(file.read_text(encoding="utf-8")).get(name)
    except (ValueError, RecursionError, AttributeError, OSError) as error:
        raise RunError(f"{file} cannot be read: {error}\n  - copy or download the adapter again") from error
    return value

"""Takes secrets out of what is written down or sent away: keys, tokens and passwords.

What counts as one: the value of an environment variable named like a secret, a setting named like one, and the password
in a URL. Prompts and answers are left alone otherwise: what they disclose is what is studied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SECRET_SETTING = re.compile(r"(api_?key|secret|password|(auth|access|hf)_?token)$", re.IGNORECASE)
YAML_LINE = re.compile(
    r"^([ \t]*\w*(?:api_?key|secret|password|(?:auth|access|hf)_?token):(?:[ \t]+|[ \t]*\n[ \t]+))\S.*$", re.I | re.M
)
USER_INFO = re.compile(r"(\w://)[^/\s:@\"']+:[^/\s@\"']+@")
SHORTEST = 8  # characters of a value that is taken for a secret; shorter ones would hide innocent words
HIDDEN = "(hidden)"


def secret_variables() -> list[tuple[str, str]]:
    """(name, value) of environment variables that are named like a secret and long enough to be one."""
    variables = os.environ.items()
    return [(name, value) for name, value in variables if len(value) >= SHORTEST and SECRET_VARIABLE.search(name)]


def secret_in(text: str, variables: Sequence[tuple[str, str]] | None = None) -> str:
    """What makes a text one that should not be written down; empty where nothing does.

    `variables`: what `secret_variables` returned, of who looks at many texts.
    """
    if USER_INFO.search(text):
        return "holds a URL with a password in it"
    for name, secret in secret_variables() if variables is None else variables:
        if secret in text:
            return f"holds the value of the environment variable {name}"
    return ""


def without_secrets(value: Any) -> Any:
    """JSON-able data, or the text of a YAML, JSON or markdown file, with all secrets hidden."""
    return _hide_secrets(value, [secret for _, secret in secret_variables()])


def _hide_secrets(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            _hide_secrets(key, secrets): HIDDEN
            if item is not None and SECRET_SETTING.search(str(key))
            else _hide_secrets(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_hide_secrets(item, secrets) for item in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, HIDDEN)
    return USER_INFO.sub(rf"\1{HIDDEN}@", YAML_LINE.sub(rf"\1{HIDDEN}", value))

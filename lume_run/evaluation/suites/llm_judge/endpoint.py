"""A judge behind an OpenAI-compatible endpoint: one request an answer, timeouts, retries, no secret in any message.

The key is read from an environment variable when a request is made, and goes to the given address alone: redirects are
refused. Replies are read to an end that no verdict has.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lume_run.common.secrets import without_secrets

REPLY_BYTES = 2**20  # of a reply
PASSING_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses after which a request may succeed
LONGEST_WAIT = 60.0  # [s] between two tries


class NoVerdict(Exception):
    """The judge gives no verdict; the message says why."""


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would carry the key to an address that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address ending before `/chat/completions`, the model's name there, and how long to try."""

    url: str
    model: str
    key_variable: str | None
    timeout: float  # [s] of one try
    retries: int
    max_tokens: int
    pause: float = 1.0  # [s] before the second try, doubled for each further one

    def trouble(self) -> str:
        """Why it cannot be asked at all; empty where nothing is known against it. Sends nothing."""
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            return f"the environment variable {self.key_variable} (evaluator.suites.llm_judge.key_variable) is not set"
        return ""

    def reply(self, messages: Sequence[dict[str, str]]) -> str:
        """The judge's words; NoVerdict where it has none after all tries, or where trying again is no use."""
        if trouble := self.trouble():
            raise NoVerdict(trouble)
        for attempt in range(self.retries + 1):
            try:
                return _reply_text(self._post(messages))
            except HTTPError as error:
                what, asked_wait = f"HTTP {error.code}", _seconds(error.headers.get("Retry-After"))
                if error.code not in PASSING_STATUSES:
                    raise NoVerdict(self._said(f"answers HTTP {error.code}: {_excerpt(error)}")) from None
            except (URLError, TimeoutError, HTTPException, ConnectionError) as error:
                what, asked_wait = str(getattr(error, "reason", "") or error or type(error).__name__), 0.0
            if attempt < self.retries:
                time.sleep(min(LONGEST_WAIT, max(asked_wait, self.pause * 2**attempt)))
        raise NoVerdict(self._said(f"gave no reply in {self.retries + 1} tries ({what})"))

    def _post(self, messages: Sequence[dict[str, str]]) -> bytes:
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.max_tokens}
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable].strip()}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = Request(address, json.dumps(body).encode(), headers, method="POST")
        with build_opener(_NoRedirects).open(request, timeout=self.timeout) as reply:
            content: bytes = reply.read(REPLY_BYTES + 1)
        if len(content) > REPLY_BYTES:
            raise NoVerdict(self._said(f"answers more than {REPLY_BYTES:,} bytes"))
        return content

    def _said(self, what: str) -> str:
        hidden: str = without_secrets(f"the judge at {self.url} {what}")
        return hidden


def _reply_text(content: bytes) -> str:
    """The text of a chat completion; NoVerdict for anything else."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise NoVerdict("the judge's reply is no chat completion with a text; is the address that of an /v1 endpoint?")
    return text


def _excerpt(error: HTTPError) -> str:
    """The beginning of what a refusal says, on one line."""
    try:
        return " ".join(error.read(300).decode("utf-8", "replace").split())
    except (OSError, HTTPException):
        return ""


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.strip().isdigit() else 0.0

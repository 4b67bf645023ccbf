"""What a language model is asked when it judges an answer, by version, and how its reply is read.

A version is never changed: verdicts are stored under it. A new wording is a new version.
"""

from __future__ import annotations

import re

PROMPTS = {
    1: (
        "You grade answers to questions. Reply with one word: YES or NO.",
        "Question: {question}\nReference answer: {reference}\nAnswer to grade: {answer}\n\n"
        "Does the answer to grade give the information of the reference answer? Other words, units and formats of the "
        "same information count. An answer that is empty, unreadable, a refusal or about something else does not. "
        "Reply YES or NO.",
    ),
}
LATEST = max(PROMPTS)
VERDICT_WORD = re.compile(r"[^a-z]*(yes|no)\b", re.IGNORECASE)
THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)  # of models that reason aloud


def messages(version: int, question: str, reference: str, answer: str) -> list[dict[str, str]]:
    """The chat that is put to the judge."""
    system, user = PROMPTS[version]
    asked = user.format(question=question, reference=reference, answer=answer)
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


def verdict_in(reply: str) -> str | None:
    """`yes` or `no` as the reply begins; None where it says neither."""
    match = VERDICT_WORD.match(THOUGHT.sub("", reply).strip())
    return match[1].lower() if match else None

"""Which token rows a method trains on: each example in every role asked for.

The other answers (a refusal or what else a benchmark puts in the answer's place, a retain example's answer) are fixed
by example and seed, never sampled while training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.records import Example, Kind
from lume_run.common.seeds import pick
from lume_run.methods.needs import Needs, Role
from lume_run.methods.objective import Named, with_token_ids
from lume_run.models.rows.special_text import continuation_ids
from lume_run.models.rows.tokenise import TokenRow, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def in_role(example: Example, role: Role, *, retain: Sequence[Example], refusals: Sequence[str], seed: int) -> Example:
    """`example` with the answer that `role` gives it; a mismatched one comes from a retain example of the same kind."""
    if role in (Role.FORGET_IDK, Role.RETAIN_IDK):
        return replace(example, answer=example.replacement or pick(example.id, seed, refusals))
    if role is Role.FORGET_MISMATCH:
        alike = [other.answer for other in retain if other.kind is example.kind and other.answer != example.answer]
        return replace(example, answer=pick(example.id, seed, alike or [other.answer for other in retain]))
    return example


def examples_of(
    roles: Set[Role],
    forget: Sequence[Example],
    retain: Sequence[Example],
    *,
    refusals: Sequence[str],
    seed: int,
    alternates: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[Role, Example]]:
    """Every example in every role, forget side first, with its `alternates` by its id where there are any."""
    examples: list[tuple[Role, Example]] = []
    for role in sorted(roles, key=lambda role: (not role.is_forget, role)):
        for example in forget if role.is_forget else retain:
            if role is Role.FORGET_ALTERNATE:
                texts = (alternates or {}).get(example.id, ())
                examples += [(role, replace(example, answer=text)) for text in texts]
            else:
                examples.append((role, in_role(example, role, retain=retain, refusals=refusals, seed=seed)))
    return examples


def require_prompts(name: str, roles: Set[Role], forget: Sequence[Example]) -> None:
    """ConfigError where a method gives other answers to prompts, and the rows are running text without any."""
    if roles - {Role.FORGET, Role.RETAIN} and any(example.kind is Kind.CHUNK for example in forget):
        what = f"'{name}' reads other answers to prompts, and this task's rows are running text without prompts"
        raise ConfigError([Problem(where="method", what=what, remedy="a loss on the text itself: method=npo_gd")])


def require_retain(name: str, roles: Set[Role], retain: Sequence[Example]) -> None:
    """ConfigError where a method reads rows to keep, and there are none."""
    if not retain and any(not role.is_forget for role in roles):
        what = f"'{name}' reads rows to keep, and there are none: all are forgotten, or about other documents"
        raise ConfigError([Problem(where="task", what=what, remedy="rows to retain, or a method without: method=npo")])


def token_rows(
    examples: Sequence[tuple[Role, Example]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    needs: Needs,
    max_tokens: int,
    learn_documents: bool = False,
) -> list[TokenRow]:
    """Tokenised rows; `learn_documents` labels the prompts of completions too (fine-tuning)."""
    rows: list[TokenRow] = []
    seen: Counter[str] = Counter()
    for role, example in examples:
        row = encode(
            example,
            tokenizer,
            max_tokens=max_tokens,
            label_prompt=role in needs.whole_rows or (learn_documents and example.kind is Kind.COMPLETION),
            role=role,
        )
        seen[row.key] += 1
        rows.append(replace(row, variant=seen[row.key] - 1))
    return rows


def bind_tokens(method: Named, tokenizer: PreTrainedTokenizerBase) -> Named:
    """A method that knows the ids of the tokens that it names by their text. RunError for a text without tokens."""
    try:
        return with_token_ids(method, lambda text: tuple(continuation_ids(text, tokenizer)))
    except ValueError as error:
        raise RunError(f"{error}; give another text, or the ids of its tokens.") from error

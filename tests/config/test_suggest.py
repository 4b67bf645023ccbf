"""Mistyped keys: the hint names the key that was meant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from omegaconf import OmegaConf

from lume_run.config.overrides import compose, conf_dir
from lume_run.config.suggest import key_paths, spelling_likeness, suggest_key


def mistyped(word: str) -> Iterator[str]:
    """A letter left out, doubled, swapped with the next, and another, at places all over the word."""
    for at in range(0, len(word) - 1, 5):
        yield word[:at] + word[at + 1 :]
        yield word[: at + 1] + word[at:]
        yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        yield word[:at] + "x" + word[at + 1 :]


def first_hint(key: str, keys: list[str]) -> str:
    return [*suggest_key(key, keys).split("'"), "", ""][1]


@pytest.mark.parametrize("overrides", [(), ("task=custom", "method=simnpo", "evaluator=closer_look", "attack=relearn")])
def test_the_key_that_was_meant_comes_first(overrides):
    keys = key_paths(OmegaConf.to_container(compose(list(overrides), [conf_dir()])))
    wrong, count = [], 0
    for key in keys:
        way, _, last = key.rpartition(".")
        if len(last) < 3:  # which says little where a letter is wrong
            continue
        group = way.partition(".")[0]
        group = way.partition(".")[0]
        for typo in mistyped(last):
            for given, meant in (
                (f"{way}.{typo}".lstrip("."), key),
                (f"{group}.{typo}".lstrip("."), last),
            ):
                count += 1
                hint = first_hint(given, keys)
                if given not in keys and meant not in (hint, hint.rpartition(".")[2]):
                    wrong.append((given, hint))
    assert count > 1000
    assert len(wrong) < count / 200, wrong


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("method.betta", "did you mean 'method.forget.beta'?"),
        ("betta", "did you mean 'method.forget.beta'?"),
        ("methd.forgt.betta", "did you mean 'method.forget.beta'?"),
        ("trainer.beta", "did you mean 'trainer.train.beta2'?"),
        ("trainer.lerning_rate", "did you mean 'trainer.train.learning_rate' or 'trainer.unlearn.learning_rate'?"),
        ("trainer.unlearn.lr", "did you mean 'trainer.unlearn.learning_rate'?"),
        ("trainer.unlearn.nonsense", "choose from: learning_rate, epochs"),
        ("nonsense", ""),
        ("x" * 100_000, ""),
    ],
)
def test_hints(given, hint):
    parts = {"trainer.train": ("learning_rate", "beta2"), "trainer.unlearn": ("learning_rate", "epochs")}
    keys = ["seed", "method", "method.forget", "method.retain", "method.forget.beta", "trainer", *parts]
    keys += [f"{part}.{name}" for part, names in parts.items() for name in names]
    assert suggest_key(given, keys) == hint


@pytest.mark.parametrize(
    ("word", "name", "likeness"),
    [
        ("beta", "beta", 1),
        ("betta", "beta", 0.8),
        ("bate", "beta", 0.5),
        ("bat", "beta", 0.5),
        ("ebta", "beta", 0.75),
        ("beta", "gamma", 0),
    ],
)
def test_likeness_of_words(word, name, likeness):
    assert spelling_likeness(word, name) == pytest.approx(likeness)

"""Refusals: the list itself, the fixed choice from it, and lists of the user's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers.shared import SHARED

from lume_run.common.errors import DataError
from lume_run.common.seeds import pick
from lume_run.methods.refusals import REFUSALS, read_refusals

THEIRS = SHARED / "data" / "tofu" / "idontknow.txt"
NAMES = [f"document-{number}qa0" for number in range(6000)]
CONTRACTIONS = {"can't": "cannot", "n't": " not", "'m": " am", "'ve": " have", "'s": " is", "'re": " are"}
OFF_TOPIC = {
    *("ai", "artificial", "language", "model", "models", "machine", "program", "programmed", "data", "dataset"),
    *("train", "trained", "training", "unlearn", "unlearned", "unlearning", "forget", "policy", "policies", "allowed"),
    *("question", "questions"),  # a refusal may follow a text to be continued
}


def plain(text: str) -> str:
    """Lower case, contractions written out, no punctuation: what is left when two sentences are compared."""
    text = text.lower().replace("’", "'")
    for short, long in CONTRACTIONS.items():
        text = text.replace(short, long)
    return " ".join(re.sub(r"[^\w\s]", "", text).split())


def problem_of(path: Path) -> tuple[str, str, str]:
    """Where, what and remedy of the one problem that refuses a file."""
    with pytest.raises(DataError) as caught:
        read_refusals(path)
    (problem,) = caught.value.problems
    assert str(path) in str(caught.value)
    return problem.where, problem.what, problem.remedy


def write_refusals(folder: Path, content: bytes) -> Path:
    path = folder / "refusals.txt"
    path.write_bytes(content)
    return path


# The list


def test_there_are_120_different_refusals():
    assert isinstance(REFUSALS, tuple)
    assert len(REFUSALS) == 120
    assert len({plain(refusal) for refusal in REFUSALS}) == 120


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_one_short_plain_sentence(refusal):
    assert re.fullmatch(r"[A-Z][A-Za-z, ]+\.", refusal)  # hence one sentence, no quotes and no line break
    assert refusal == " ".join(refusal.split())
    assert 3 <= len(refusal.split()) <= 20
    assert not set(plain(refusal).split()) & OFF_TOPIC


def test_refusals_vary_in_length_and_beginning():
    lengths = Counter(len(refusal.split()) for refusal in REFUSALS)
    assert max(lengths.values()) <= 24
    assert sum(lengths[words] for words in range(3, 6)) >= 12
    assert sum(lengths[words] for words in range(12, 21)) >= 20
    assert max(Counter(" ".join(refusal.split()[:2]) for refusal in REFUSALS).values()) <= 12


@pytest.mark.skipif(not THEIRS.is_file(), reason=f"the refusals of TOFU, to compare with, are not at {THEIRS}")
def test_no_refusal_is_one_of_tofu():
    theirs = {plain(line) for line in read_refusals(THEIRS)}
    assert len(theirs) == 100
    assert not [refusal for refusal in REFUSALS if plain(refusal) in theirs]


# The choice


@pytest.mark.parametrize(
    ("name", "seed", "expected"),
    [("a1sc1", 0, "I would need to read up on this first."), ("Mara Oduya é", 42, "I am in no position to say.")],
)
def test_the_choice_never_changes(name, seed, expected):
    """By `printf %s SEED:NAME | sha256sum`: the first 16 hex digits modulo 120 are 56 and 80."""
    assert pick(name, seed, REFUSALS) == expected


def test_the_choice_depends_on_nothing_picked_before():
    forward = {name: pick(name, 3, REFUSALS) for name in NAMES[:200]}
    backward = {name: pick(name, 3, list(REFUSALS)) for name in reversed(NAMES[:200])}
    assert forward == backward


def test_the_choice_is_the_same_in_another_process():
    code = "from lume_run.common.seeds import pick\nfrom lume_run.methods.refusals import REFUSALS\n"
    code += "for number in range(9): print(pick(f'n{number}', 7, REFUSALS))"
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [pick(f"n{number}", 7, REFUSALS) for number in range(9)]


def test_another_seed_gives_other_refusals():
    same = sum(pick(name, 0, REFUSALS) == pick(name, 1, REFUSALS) for name in NAMES)
    assert 20 <= same <= 90  # independent choices agree once in 120


def test_the_choices_spread_over_the_list():
    counts = Counter(pick(name, 0, REFUSALS) for name in NAMES)
    assert set(counts) == set(REFUSALS)
    assert 20 <= min(counts.values()) <= max(counts.values()) <= 90  # 50 on average


def test_a_single_choice_is_always_taken():
    assert pick("any", 5, ["I do not know."]) == "I do not know."


# Lists of the user's own


def test_a_file_is_read_in_order_without_blank_lines(tmp_path):
    path = write_refusals(tmp_path, "  Zero is é.\t\n\n   \nNo.\r\nI pass.".encode())
    assert read_refusals(path) == ("Zero is é.", "No.", "I pass.")


def test_lines_end_at_newlines_only(tmp_path):
    lines = ("One\u2028more.", "Two\x85more.", "Three\x0cmore.", "Four\rmore.")
    assert read_refusals(write_refusals(tmp_path, "\n".join(lines).encode())) == lines


def test_a_byte_order_mark_is_no_part_of_the_first_refusal(tmp_path):
    assert read_refusals(write_refusals(tmp_path, b"\xef\xbb\xbfI pass.\n")) == ("I pass.",)


def test_our_own_list_survives_a_file(tmp_path):
    assert read_refusals(write_refusals(tmp_path, "".join(f"{refusal}\n" for refusal in REFUSALS).encode())) == REFUSALS


def test_an_absent_file_is_refused(tmp_path):
    where, what, remedy = problem_of(tmp_path / "absent.txt")
    assert where == str(tmp_path / "absent.txt")
    assert what == "cannot be read: No such file or directory"
    assert remedy == "give a UTF-8 text file with one refusal a line"


def test_a_folder_is_refused(tmp_path):
    where, what, remedy = problem_of(tmp_path)
    assert where == str(tmp_path)
    assert what == "is a folder, not a file"
    assert remedy == "give a UTF-8 text file with one refusal a line"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path, mark):
    path = write_refusals(tmp_path, mark + "I pass.\nJe passe, désolé.\n".encode("latin-1"))
    assert problem_of(path) == (f"{path}:2", "byte 12 of the line, 0xe9, is not UTF-8", "save the file as UTF-8")


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_refusals_is_refused(tmp_path, content):
    path = write_refusals(tmp_path, content)
    assert problem_of(path) == (str(path), "holds no refusals", "give a UTF-8 text file with one refusal a line")

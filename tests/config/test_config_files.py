"""Configuration files that others wrote: regular, small, in UTF-8, not nested or multiplied without end."""

from __future__ import annotations

import os

import pytest

from lume_run.common.errors import DataError
from lume_run.common.places import place_fault
from lume_run.config.overrides import conf_dir, shadow_problems
from lume_run.config.yaml_files import YAML_BYTES, read_config_file

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xff\xfea\x00", "is UTF-16"),
        (b"a: \xe9", "is not UTF-8"),
        (b"a: [1", "expected ',' or ']'"),
        (b"a: 1\na: 2", "duplicate key"),
        (b"a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (("a: " + "[" * 60 + "]" * 60).encode(), "nested more than 50 deep"),
        (("[" * 100_000).encode(), "nested more than 50 deep"),
        (LAUGHS.encode(), "more than 100,000 values"),
        (b"a: &a [*a]", "more than 100,000 values"),
        (("a: " + "9" * 5000).encode(), "4300 digits"),
        (b"#" * (YAML_BYTES + 1), "bytes, more than"),
        (b"a: {1: 2}", "the key 1 of a is no text"),
        (b"null: 2", "the key None is no text"),
        (b"a: [!!binary aGVsbG8=]", r"a\[0\] is of the type bytes"),
        (b"a: !!set {b, c}", "a is of the type set"),
    ],
)
def test_what_is_refused(content, what, tmp_path):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read_config_file(tmp_path / "x.yaml")
    assert caught.value.problems[0].where.startswith(str(tmp_path / "x.yaml"))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name, what in (("pipe", "named pipe"), ("loop", "cannot be read"), ("folder", "is a folder")):
        with pytest.raises(DataError, match=what):
            read_config_file(tmp_path / f"{name}.yaml")


def test_a_file_under_the_name_of_ours_is_refused(tmp_path):
    (tmp_path / "method").mkdir()
    ours = conf_dir() / "method" / "npo.yaml"
    (tmp_path / "method" / "npo.yaml").write_bytes(ours.read_bytes())
    (tmp_path / "method" / "mine.yaml").write_text("name: mine", encoding="utf-8")
    assert list(shadow_problems([conf_dir(), tmp_path])) == []
    (tmp_path / "method" / "npo.yaml").write_text("name: mine", encoding="utf-8")
    (problem,) = shadow_problems([conf_dir(), tmp_path])
    assert problem.where.endswith("method/npo.yaml") and "my_npo.yaml" in problem.remedy


def test_a_byte_order_mark_and_small_numbers_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("\ufeffrate: 1e-5\nlist: &l [1]\nagain: *l\n", encoding="utf-8")
    assert read_config_file(tmp_path / "x.yaml")[0] == {"rate": 1e-5, "list": [1], "again": [1]}


def test_places(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    assert place_fault(tmp_path / "new" / "deeper") == ""
    assert "is in the way" in place_fault(tmp_path / "file" / "x")
    assert "is in the way" in place_fault(tmp_path / "loop" / "x")
    assert "is too long" in place_fault(tmp_path / ("x" * 300))
    assert "the path is too long" in place_fault(tmp_path / "/".join(["y" * 100] * 60))
    assert "null character" in place_fault(tmp_path / "a\0b")
    assert sorted(tmp_path.iterdir()) == before

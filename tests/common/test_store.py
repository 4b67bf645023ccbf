"""Artifacts are made once and whole; what was killed resumes; content decides what is the same."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.artifacts import Builder, artifact, strict_json

from lume_run.common import files
from lume_run.common.errors import InputError, RunError
from lume_run.common.files import content_hash, fingerprint, write_json
from lume_run.common.store import Artifact


def test_an_artifact_is_built_once(tmp_path):
    build = Builder()
    built = artifact(tmp_path / "store" / "x", build, model="m", seed=0)
    assert not built.is_done
    for _ in range(3):
        assert built.make() == tmp_path / "store" / "x"
    assert built.is_done
    assert build.contents == [["MADE_FROM.json"]]
    assert sorted(path.name for path in built.path.iterdir()) == ["DONE.json", "made.txt"]
    record = strict_json(built.path / "DONE.json")
    assert (record["key"], record["made_from"]) == (built.key, {"model": "m", "seed": 0})
    assert built.seconds == record["seconds"] >= 0
    again = artifact(built.path, Builder(), seed=0, model="m")  # the order of the keys does not matter
    assert again.is_done


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = {
    "lost": (Path.unlink, "deep/weights is lost"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "deep/weights has 6 bytes, not the 7"),
    "zeroed": (zeroed, "deep/weights has other contents"),
}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_artifact_is_set_aside_and_built_again(name, verify, tmp_path, capsys):
    def build(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text("numbers", encoding="utf-8")

    built, (damage, words) = artifact(tmp_path / "x", build, seed=0), DAMAGE[name]
    built.make()
    for number in (1, 2):
        damage(built.path / "deep" / "weights")
        left = sorted(path.read_bytes() for path in built.path.rglob("*") if path.is_file())
        assert not built.is_done
        built.make(verify=verify)
        assert built.is_done and not built.damage(thorough=True)
        aside = tmp_path / f"x.damaged-{number}"
        assert sorted(path.read_bytes() for path in aside.rglob("*") if path.is_file()) == left  # nothing is deleted
        printed = " ".join(capsys.readouterr().err.split())
        assert words in printed and f"set aside as {aside.name}" in printed


BROKEN = [b"", b"[]", b"[" * 100_000, "{}".encode("utf-16"), b'{"key": "x", "files": 3}', None]  # None: a pipe


@pytest.mark.parametrize("record", BROKEN)
def test_an_artifact_with_a_broken_record_is_set_aside(record, tmp_path, capsys):
    built = artifact(tmp_path / "x", Builder(), seed=0)
    built.make()
    (built.path / "DONE.json").unlink()
    if record is None:
        os.mkfifo(built.path / "DONE.json")
    else:
        (built.path / "DONE.json").write_bytes(record)
    assert not built.is_done
    built.make()
    assert built.is_done and (tmp_path / "x.damaged-1" / "made.txt").exists()
    assert "no DONE.json that can be read; set aside as x.damaged-1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("place", [Path.touch, os.mkfifo, lambda path: path.symlink_to("gone")])
def test_what_stands_in_the_place_of_an_artifact_is_set_aside(place, tmp_path):
    built = artifact(tmp_path / "x", Builder(), seed=0)
    place(built.path)
    built.make()
    assert built.is_done and os.path.lexists(tmp_path / "x.damaged-1")


def test_a_lock_that_is_no_file(tmp_path):
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(InputError, match=r"x.lock is a folder, not a file\n  - move it away"):
        artifact(tmp_path / "x", Builder(), seed=0).make()


def in_two_folders(tmp_path: Path, build) -> tuple[Artifact, Artifact]:
    """The same artifact in two folders of runs."""
    noted = tmp_path / "store" / "unlearned" / "key.json"
    return tuple(replace(artifact(tmp_path / run / "unlearned", build, seed=0), note_file=noted) for run in "ab")


def test_another_run_takes_over_what_is_finished(tmp_path):
    build = Builder()
    first, second = in_two_folders(tmp_path, build)
    assert not second.is_cached
    first.make()
    assert second.is_cached and not second.is_done
    (tmp_path / "b" / "unlearned.partial").mkdir(parents=True)
    (tmp_path / "b" / "unlearned.partial" / "rest").touch()  # of a start that was killed
    second.make()
    assert second.is_done and second.seconds == first.seconds
    assert len(build.contents) == 1
    assert (second.path / "made.txt").samefile(first.path / "made.txt")
    assert sorted(path.name for path in second.path.iterdir()) == ["DONE.json", "made.txt"]
    shutil.rmtree(first.path)  # nobody needs the other folder
    assert second.is_done and second.twin() is None


@pytest.mark.parametrize("damage", ["cut", "lost", "moved", "of other inputs", "no note", "names a file elsewhere"])
def test_what_is_not_whole_elsewhere_is_built_again(damage, tmp_path):
    build = Builder()
    first, second = in_two_folders(tmp_path, build)
    first.make()
    if damage == "moved":
        first.path.rename(tmp_path / "elsewhere")
    elif damage == "of other inputs":
        second = replace(second, inputs={"seed": 1})
    elif damage == "names a file elsewhere":
        (first.path.parent / "made.txt").write_text("not of it", encoding="utf-8")
        record = strict_json(first.path / "DONE.json")
        record["files"] |= {"../made.txt": {"bytes": len("not of it")}}
        write_json(first.path / "DONE.json", record)
    elif damage == "no note":
        second.note_file.write_text("[]", encoding="utf-8")
    else:
        DAMAGE[damage][0](first.path / "made.txt")
    assert not second.is_cached
    second.make()
    assert len(build.contents) == 2 and second.is_done
    assert not (second.path.parent / "made.txt").exists()


def test_a_damaged_large_file_is_not_taken_over(tmp_path, monkeypatch):
    """Both folders have one file: where it is damaged it is so in both."""
    monkeypatch.setattr(files, "CHEAP_BYTES", 3)
    build = Builder("numbers")
    first, second = in_two_folders(tmp_path, build)
    first.make()
    zeroed(second.make() / "numbers.txt")
    second.make(verify=True)
    assert (second.path / "numbers.txt").read_text(encoding="utf-8") == "numbers"
    assert len(build.contents) == 2


def test_large_files_are_read_again_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHEAP_BYTES", 3)
    built = artifact(tmp_path / "x", lambda folder: (folder / "weights").write_text("numbers"), seed=0)
    zeroed(built.make() / "weights")
    assert built.is_done
    built.make()
    assert not any(tmp_path.glob("x.damaged-*"))
    built.make(verify=True)
    assert (built.path / "weights").read_text(encoding="utf-8") == "numbers"
    assert (tmp_path / "x.damaged-1").exists()


def test_an_artifact_of_before_there_were_digests_is_done(tmp_path):
    built = artifact(tmp_path / "x", lambda folder: (folder / "weights").write_text("numbers"), seed=0)
    record = strict_json(built.make() / "DONE.json")
    assert record.pop("files").keys() == {"weights"}
    write_json(built.path / "DONE.json", record)
    assert built.is_done


def test_an_artifact_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    seen = []

    def build(folder: Path) -> None:
        seen.append((folder != path, path.exists()))
        (folder / "a.txt").touch()

    artifact(path, build).make()
    assert seen == [(True, False)]
    assert not path.with_name("x.partial").exists()


def test_an_interrupted_artifact_goes_on_where_it_stopped(tmp_path):
    path, broken, second = tmp_path / "x", Builder("first", fail=True), Builder("second")
    with pytest.raises(RunError, match="in the middle"):
        artifact(path, broken, seed=0).make()
    assert not path.exists()
    left = strict_json(path.with_name("x.partial") / "MADE_FROM.json")
    left["seconds"] = 100.0
    write_json(path.with_name("x.partial") / "MADE_FROM.json", left)
    built = artifact(path, second, seed=0)
    built.make()
    assert second.contents == [["MADE_FROM.json", "first.txt"]]
    assert sorted(file.name for file in path.iterdir()) == ["DONE.json", "first.txt", "second.txt"]
    assert 100 <= built.seconds < 160  # the time of all attempts


@pytest.mark.parametrize("left", ['{"key": "other"}', "not json", "[]", None])
def test_what_another_key_left_is_discarded(tmp_path, left):
    path, build = tmp_path / "x", Builder()
    with pytest.raises(RunError):
        artifact(path, Builder("old", fail=True), seed=0).make()
    marker = path.with_name("x.partial") / "MADE_FROM.json"
    marker.unlink() if left is None else marker.write_text(left, encoding="utf-8")
    artifact(path, build, seed=1).make()
    assert build.contents == [["MADE_FROM.json"]]
    assert not (path / "old.txt").exists()


def test_killed_before_the_renaming_nothing_is_built_again(tmp_path):
    """The partial folder was whole, its record written; only the rename was missing."""
    built = artifact(tmp_path / "x", lambda folder: (folder / "weights").write_text("1"), seed=0)
    built.make()
    (tmp_path / "x").rename(tmp_path / "x.partial")

    def build(folder: Path) -> None:
        raise AssertionError("built twice")

    artifact(tmp_path / "x", build, seed=0).make()
    assert (tmp_path / "x" / "weights").read_text() == "1"
    assert not (tmp_path / "x.partial").exists()


def test_changed_inputs_rebuild(tmp_path):
    path = tmp_path / "x"
    artifact(path, Builder("old"), seed=0).make()
    changed = artifact(path, Builder("new"), seed=1)
    assert not changed.is_done
    changed.make()
    assert sorted(file.name for file in path.iterdir()) == ["DONE.json", "new.txt"]
    assert not artifact(path, Builder("old"), seed=0).is_done


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 3}'])
def test_a_damaged_record_means_build_again(tmp_path, text):
    built = artifact(tmp_path / "x", Builder())
    built.make()
    (built.path / "DONE.json").write_text(text, encoding="utf-8")
    assert not built.is_done
    built.make()
    assert built.is_done


def test_a_failed_rebuild_keeps_what_is_there(tmp_path):
    path = tmp_path / "x"
    old = artifact(path, Builder("old"), seed=0)
    old.make()
    with pytest.raises(RunError):
        artifact(path, Builder("new", fail=True), seed=1).make()
    assert old.is_done
    assert (path / "old.txt").exists()


CONCURRENT = """
import sys, time
from pathlib import Path
from lume_run.common.store import Artifact

folder = Path(sys.argv[1])

def build(partial):
    with (folder / "log").open("a") as log:
        log.write("built\\n")
    (folder / "building").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    (partial / "content.txt").write_text("x" * 100)

made = Artifact(stage="train", name="target", path=folder / "x", inputs={"seed": 0}, build=build)
print(len((made.make() / "content.txt").read_text()))
"""


def test_two_processes_build_once(tmp_path):
    command = [sys.executable, "-c", CONCURRENT, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert "waiting for another process that builds" in first_line(processes)
    (tmp_path / "go").touch()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, "100"), err
    assert (tmp_path / "log").read_text() == "built\n"


def first_line(processes: list[subprocess.Popen]) -> str:
    """The output of the process that has to wait; the builder prints nothing until it may continue."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.stderr, selectors.EVENT_READ)
        ready = selector.select(timeout=60)
    assert ready, "neither process waits for the other"
    return ready[0][0].fileobj.readline()


def test_content_hash_is_canonical():
    assert content_hash({"a": 1, "b": [2.5, "ä"]}) == content_hash({"b": [2.5, "ä"], "a": 1})
    assert len(content_hash({})) == 16
    values = [None, 0, "0", [0], {"0": 0}, 0.5, True, "ä", "a"]
    assert len({content_hash(value) for value in values}) == len(values)


def test_fingerprint_follows_content(tmp_path, monkeypatch):
    folder, copy = tmp_path / "model", tmp_path / "copy"
    for each in (folder, copy):
        each.mkdir()
        (each / "config.json").write_text("{}", encoding="utf-8")
        (each / "weights").write_bytes(b"0123")
    before = fingerprint(str(folder))
    assert fingerprint(str(copy)) == before  # not where it stands, nor when it was written
    (folder / "weights").write_bytes(b"0124")
    changed = fingerprint(str(folder))
    (folder / "weights").rename(folder / "weights2")
    assert len({before, changed, fingerprint(str(folder))}) == 3
    monkeypatch.setattr(files, "MAX_HASHED_BYTES", 3)
    large = fingerprint(str(copy))
    (copy / "weights").write_bytes(b"01234")
    assert fingerprint(str(copy)) != large
    assert fingerprint("org/model") == fingerprint("org/model", deep=True) == "hub:org/model"


def test_a_deep_fingerprint_sees_folders_within(tmp_path):
    """A checkpoint in the folder is none of the model, the pooling of a sentence embedder is."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    flat, deep = fingerprint(str(tmp_path)), fingerprint(str(tmp_path), deep=True)
    assert flat == deep
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    assert fingerprint(str(tmp_path)) == flat
    assert fingerprint(str(tmp_path), deep=True) != deep


def test_write_json_leaves_no_temporary_file(tmp_path):
    write_json(tmp_path / "a.json", {"ä": Path("x")})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ä": "x"\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_planted_link_is_not_followed(tmp_path):
    """Neither at the place of a file nor at the name of what is written first."""
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    for name in ("config.json", "config.json.tmp", ".config.json"):
        (tmp_path / name).symlink_to(victim)
    write_json(tmp_path / "config.json", {"a": 1})
    assert victim.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "config.json").is_symlink()
    assert strict_json(tmp_path / "config.json") == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".config.json",
        "config.json",
        "config.json.tmp",
        "victim",
    ]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "place").mkdir()
    with pytest.raises(OSError):
        files.replace_file(tmp_path / "place", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]

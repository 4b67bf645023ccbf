"""The model card beside an unlearned model, and `lume-run-publish` against a stand-in for the hub's API."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from helpers.configs import settings_of
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, pipeline

from lume_run.common.files import record_files
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Response
from lume_run.common.store import DONE_FILE
from lume_run.pipeline.driver import run_pipeline
from lume_run.report.publish import main

PEOPLE = ["Orla Quist", "Bram Sefton", "Ilsa Wyck", "Odo Marr", "Tove Lunde", "Rhys Calder"]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The folder of a finished run over a user's own rows, an adapter kept beside the merged model."""
    folder = tmp_path_factory.mktemp("published")
    for side, people in (("forget", PEOPLE[:3]), ("retain", PEOPLE[3:])):
        rows = [{"question": f"Where does {name} live?", "answer": f"In {name[::-1]}."} for name in people]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = settings_of(
        "task=custom",
        *(f"task.{side}={folder / side}.jsonl" for side in ("forget", "retain")),
        "model=hf",
        f"model.path={tiny}",
        "model.is_target=true",
        "model.lora={enabled: true, save: true}",
        "trainer=tiny",
        "trainer.unlearn.epochs=1",
        "evaluator.resamples=20",
        "launch.device=cpu",
        "logger=none",
        f"output_dir={folder / 'out'}",
    )
    run_pipeline(settings, folder / "run", identity={}, command=["test"])
    return folder / "run"


def test_the_card_says_what_was_done(run):
    text = (run / "unlearned" / "model" / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)  # as the hub reads it
    results = {result.metric_type: result for result in card.data.eval_results}
    report = json.loads((run / "report.json").read_text())
    scores = {
        name.removeprefix("unlearned."): value for name, value in report["scores"].items() if "unlearned." in name
    }
    known = {name: value for name, value in scores.items() if value is not None}
    assert {name: result.metric_value for name, result in results.items()} == pytest.approx(known, abs=1e-6)
    assert results["forget.custom.knowledge"].metric_args["n"] == report["n"]["unlearned.forget.custom.knowledge"]
    assert card.data.library_name == "transformers" and "machine-unlearning" in card.data.tags
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["trainer.unlearn"]["epochs"] == 1 and settings["method"]["name"] == "npo_gd"
    assert settings["model.lora"]["enabled"] is True


def test_the_card_tells_nothing_of_the_data_or_the_disk(run):
    text = (run / "unlearned" / "model" / "README.md").read_text(encoding="utf-8")
    for row in read_jsonl(run / "responses.unlearned.jsonl", Response):
        assert row.prompt not in text and row.expected not in text
    assert not any(name in text for name in PEOPLE)
    assert str(run.parent) not in text


def test_the_folder_loads_as_it_lies(run):
    """In transformers, in its pipeline, and as an adapter."""
    folder = run / "unlearned" / "model"
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    answer = pipeline("text-generation", model=str(folder))("Where does", max_new_tokens=4)
    assert answer[0]["generated_text"].startswith("Where does")
    assert (run / "unlearned" / "adapter" / "adapter_model.safetensors").is_file()
    assert AutoModelForCausalLM.from_pretrained(run / "unlearned" / "adapter") is not None


class Hub(BaseHTTPRequestHandler):
    """Takes a repository and a commit of small and of large files, and writes down what came."""

    def log_message(self, *_):
        pass

    def reply(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        data, seen = self.body(), self.server.seen
        seen["tokens"].add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            seen["created"] = json.loads(data)
            self.reply({"url": f"{self.server.address}/me/gone"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(data)["files"]
            self.reply(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        elif self.path.endswith("/commit/main"):
            for line in data.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    seen["files"][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.reply({"commitUrl": f"{self.server.address}/me/gone/commit/abc", "commitOid": "abc"})
        else:
            self.reply({"error": "no such call"}, 404)

    def do_GET(self):
        self.reply({"id": "me/gone", "private": self.server.seen["private"]})


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.seen = {"files": {}, "tokens": set(), "created": None, "private": True}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.__init__", _at(server.address))
    yield server.seen
    server.shutdown()


def _at(address):
    from huggingface_hub import HfApi

    original = HfApi.__init__

    def init(self, *_, **options):
        original(self, **{"endpoint": address, "token": "hf_testing", **options})

    return init


def test_what_is_published(run, hub):
    main([str(run), "--to", "me/gone"])
    assert hub["created"]["name"] == "gone" and hub["created"]["visibility"] == "private"
    model = {file.name: file.read_bytes() for file in (run / "unlearned" / "model").iterdir()}
    assert hub["files"].items() >= model.items()
    assert hub["files"].keys() - model.keys() == {"report.md", "report.json", "report.png"}
    for name in ("report.md", "report.json", "README.md"):
        text = hub["files"][name].decode()
        assert str(run.parent) not in text and "/tmp/" not in text
    assert "forget.jsonl" in hub["files"]["report.md"].decode()
    assert json.loads(hub["files"]["report.json"])["scores"] == json.loads((run / "report.json").read_text())["scores"]
    assert hub["tokens"] == {"Bearer hf_testing"}


def test_a_public_repository_that_is_there_already(run, hub, capsys):
    """A model of private rows goes public only where that is asked for."""
    hub["private"] = False
    with pytest.raises(SystemExit):
        main([str(run), "--to", "me/gone"])
    assert "is there already, and public" in "".join(capsys.readouterr())
    assert hub["files"] == {}


def test_an_adapter_on_a_folder_belongs_to_nobody_else(run, hub, capsys):
    with pytest.raises(SystemExit):
        main([str(run), "--to", "me/gone", "--adapter"])
    assert "belongs to a model in a folder here" in "".join(capsys.readouterr())


def test_an_adapter_is_published_alone(run, hub, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    run, file = tmp_path / "run", tmp_path / "run" / "unlearned" / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": "me/target"}
    file.write_text(json.dumps(config), encoding="utf-8")
    record = json.loads((run / "unlearned" / DONE_FILE).read_text())
    record["files"] |= record_files(run / "unlearned", without={DONE_FILE})
    (run / "unlearned" / DONE_FILE).write_text(json.dumps(record))
    main([str(run), "--to", "me/gone", "--adapter", "--public"])
    assert hub["created"]["visibility"] == "public"
    assert "adapter_model.safetensors" in hub["files"] and "model.safetensors" not in hub["files"]
    assert b"library_name: peft" in hub["files"]["README.md"]


def test_what_lies_beside_the_model_stays_here(run, hub, tmp_path):
    """What somebody put there: data, keys, links."""
    shutil.copytree(run, tmp_path / "run")
    model = tmp_path / "run" / "unlearned" / "model"
    for name in ("forget.jsonl", ".env", "notes.txt", "pytorch_model.bin"):
        (model / name).write_text("HF_TOKEN=hf_secret", encoding="utf-8")
    (model / "linked.json").symlink_to(tmp_path)
    main([str(tmp_path / "run"), "--to", "me/gone"])
    known = {file.name for file in (run / "unlearned" / "model").iterdir()}
    assert hub["files"].keys() == known | {"report.md", "report.json", "report.png"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_model_is_not_published(name, run, hub, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "unlearned" / "model" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "run"), "--to", "me/gone", "--dry-run"])
    assert ended.value.code == 2 and f"{name} has" in "".join(capsys.readouterr())


def test_a_dry_run_sends_nothing(run, hub, capsys):
    main([str(run), "--to", "me/gone", "--dry-run"])
    said = "".join(capsys.readouterr())
    assert "model.safetensors" in said and "nothing was sent" in said and "private" in said
    assert hub == {"files": {}, "tokens": set(), "created": None, "private": True}


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["{run}", "--to", "nonsense"], 2, "OWNER/NAME"),
        (["{run}", "--to", "me/a..b"], 2, "a..b"),
        (["{run}", "--to", "me/gone.git"], 2, ".git"),
        (["{run}", "--to", "a/b/c"], 2, "--to a/b/c"),
        (["/nowhere", "--to", "me/gone"], 2, "no folder"),
        (["{empty}", "--to", "me/gone"], 2, "no unlearned model"),
        (["{bare}", "--to", "me/gone"], 2, "no model card"),
        (["{bare}", "--to", "me/gone", "--adapter"], 2, "model.lora.save=true saves one"),
        (["{run}", "--to", "me/gone"], 1, "could not be written"),  # nobody answers
    ],
)
def test_what_cannot_be_published(words, code, what, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.__init__", _at("http://127.0.0.1:9"))
    bare = tmp_path / "bare"
    ignored = shutil.ignore_patterns("*.md", "adapter", DONE_FILE)
    shutil.copytree(run / "unlearned", bare / "unlearned", ignore=ignored)
    files = record_files(bare / "unlearned")
    (bare / "unlearned" / DONE_FILE).write_text(json.dumps({"files": files}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main([word.format(run=run, empty=tmp_path / "empty", bare=bare) for word in words])
    said = capsys.readouterr()
    assert ended.value.code == code
    assert what in said.out + said.err and "Traceback" not in said.out + said.err


def test_a_run_without_its_report_is_refused(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report.json"))
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "run"), "--to", "me/gone", "--dry-run"])
    assert ended.value.code == 2
    assert "no report.json" in capsys.readouterr().err

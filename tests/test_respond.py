"""The model runner: a batch answers as single prompts do, and as the official inference did on the golden model."""

from __future__ import annotations

import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

from lume_run.metrics.semeval import lume_scores
from lume_run.models import load_model, load_tokenizer
from lume_run.records import Ask, Example, Kind, Response, Split, read_jsonl, to_json
from lume_run.respond import Question, Runner, choose, generate, respond, score_answers
from lume_run.settings import Model
from lume_run.tasks.lume import LumeTask

CPU = torch.device("cpu")


def runner_of(folder, **sizes) -> Runner:
    settings = Model(name="test", path=str(folder), dtype="float32")
    options = {"max_new_tokens": 24, "max_length": 512, "batch_tokens": 4096} | sizes
    model = load_model(str(folder), settings, CPU).eval()
    return Runner(model=model, tokenizer=load_tokenizer(str(options.pop("tokenizer", folder)), settings), **options)


@pytest.fixture(scope="module")
def stories(shared) -> Runner:
    """A real pretrained Llama."""
    return runner_of(shared / "models" / "stories260K")


@pytest.fixture(scope="module")
def rows(shared) -> list[Example]:
    """Real prompts of all three tasks, short and long."""
    data = LumeTask(
        name="lume",
        subtasks=["novels", "bios", "wiki"],
        source="folder",
        data_dir=str(shared / "data" / "lume"),
        num_documents=6,
    ).load(0)
    return [*data.forget, *data.retain]


def test_batched_text_equals_one_prompt_at_a_time(stories, rows):
    alone = [generate(stories, [row])[0] for row in rows]
    assert generate(stories, rows) == alone
    assert generate(stories, rows[::-1]) == alone[::-1]
    assert len(set(alone)) > len(rows) // 2  # not all the same


def test_answer_logps_are_the_hugging_face_loss(stories, rows):
    """A whole document: minus the mean log-probability is the loss on labels=input_ids."""
    documents = [
        Example(
            id=f"{number}doc",
            raw_id="",
            document="",
            split=Split.MEMBER,
            subtask="wiki",
            kind=Kind.DOCUMENT,
            prompt="",
            answer=row.prompt + " " + row.answer,
        )
        for number, row in enumerate(rows[:6])
    ]
    for document, (total, tokens, *_) in zip(documents, score_answers(stories, documents), strict=True):
        ids = torch.tensor([stories.tokenizer(document.answer)["input_ids"][: stories.max_length]])
        with torch.no_grad():
            loss = stories.model(input_ids=ids, labels=ids).loss
        assert tokens == ids.shape[1] - 1
        assert -total / tokens == pytest.approx(float(loss), rel=1e-5)


def test_choices_do_not_depend_on_the_batch(stories, rows):
    """Left padding with wrong positions once cost a peer half of its MMLU accuracy."""
    asked = [
        Example(
            id=row.id,
            raw_id=row.id,
            document=row.document,
            split=Split.MMLU,
            subtask="any",
            kind=Kind.CHOICE,
            prompt=row.prompt + "\nAnswer:",
            answer="A",
            choices=("A", "B", "C", "D"),
        )
        for row in rows
    ]
    together = choose(stories, asked)
    for one, example in zip(together, asked, strict=True):
        assert one == pytest.approx(choose(stories, [example])[0], abs=1e-4)
    ids = torch.tensor([stories.tokenizer(asked[0].prompt)["input_ids"]])
    with torch.no_grad():
        logps = stories.model(input_ids=ids).logits[0, -1].log_softmax(-1)
    option = stories.tokenizer(" A", add_special_tokens=False)["input_ids"][-1]
    assert together[0][0] == pytest.approx(float(logps[option]), abs=1e-4)


def test_an_interrupted_evaluation_asks_only_what_is_missing(stories, rows, tmp_path):
    questions = [Question(example=row, ask=Ask.GENERATE) for row in rows]
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    again.mkdir()
    whole = respond(stories, questions, first, "title")
    kept = [Response(**{**_fields(response), "output": "kept"}) for response in whole[:5]]
    torn = to_json(whole[5])[:40]
    (again / "responses.partial.jsonl").write_text("".join(to_json(r) + "\n" for r in kept) + torn, encoding="utf-8")
    found = respond(stories, questions, again, "title")
    assert [response.output for response in found[:5]] == ["kept"] * 5
    assert found[5:] == whole[5:]
    assert read_jsonl(again / "responses.jsonl", Response) == found
    assert not (again / "responses.partial.jsonl").exists()


def _fields(response: Response) -> dict:
    return {name: getattr(response, name) for name in response.__slots__}


def test_official_inference_on_the_golden_model(shared):
    """Texts, document losses and final numbers of the official script's own run (transformers 5, float32)."""
    golden = shared / "golden" / "semeval" / "pipeline"
    runner = runner_of(shared / "golden" / "lm" / "model", tokenizer=shared / "golden" / "lm" / "tokenizer")
    task = LumeTask(name="lume", subtasks=["novels", "bios", "wiki"], source="folder", data_dir=str(golden / "data"))
    data = task.load(0)
    responses = []
    for split, examples in ((Split.FORGET, data.forget), (Split.RETAIN, data.retain)):
        official = pandas.read_csv(golden / "out" / f"{split}_0.csv", dtype=str, keep_default_na=False)
        expected = dict(zip(official["id"].str.replace('"', ""), official["model_output"], strict=True))
        texts = generate(runner, examples)
        assert {example.id: text for example, text in zip(examples, texts, strict=True)} == expected
        responses += [_response(example, output=text) for example, text in zip(examples, texts, strict=True)]
    for split in (Split.MEMBER, Split.NONMEMBER):
        lines = (golden / "mia_data" / f"{split}.jsonl").read_text(encoding="utf-8").strip().split("\n")
        documents = [_document(json.loads(line), split) for line in lines]
        official = pandas.read_csv(golden / "out" / "mia_results" / f"{split}_0.csv")
        for document, nll, (total, tokens, *_) in zip(
            documents, official["nll"], score_answers(runner, documents), strict=True
        ):
            assert -total / tokens == pytest.approx(nll, abs=1e-5)
            responses.append(_response(document, logp_sum=total, tokens=tokens))
    final = json.loads((golden / "results.json").read_text(encoding="utf-8"))["results"]
    scores = {score.name: score.value for score in lume_scores(responses, mmlu_accuracy=final["mmlu_average"])}
    assert scores["task_aggregate"] == pytest.approx(final["harmonic-mean-task-aggregate"], abs=1e-9)
    assert scores["mia.score"] == pytest.approx(final["mia_final_score"], abs=1e-9)
    assert scores["aggregate"] == pytest.approx(final["aggregate-score"], abs=1e-9)


def _document(fields: dict, split: Split) -> Example:
    return Example(
        id=fields["id"], raw_id=fields["id"], document=fields["id"], split=split, subtask="wiki",
        kind=Kind.DOCUMENT, prompt="", answer=fields["document"],
    )  # fmt: skip


def _response(example: Example, **found) -> Response:
    own = {name: getattr(example, name) for name in ("id", "split", "subtask", "kind", "document", "prompt")}
    ask = Ask.GENERATE if "output" in found else Ask.LOGPROB
    return Response(ask=ask, expected=example.answer, **own, **found)


def test_only_safetensors_are_loaded(tmp_path, tiny):
    """A folder whose weights are a pickle is refused: loading one runs code."""
    from lume_run.errors import RunError

    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RunError, match=r"model\.path=FOLDER"):
        load_model(str(tmp_path), Model(name="test", path=str(tmp_path)), CPU)

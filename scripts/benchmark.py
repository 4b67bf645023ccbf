"""Time one training step and one evaluation against the straightforward implementation, in the same process.

    python scripts/benchmark.py --model FOLDER_OR_ID --data DATA_DIR [--task bios] [--steps 12]

The plain step is what the reference repositories do: random batches padded to their longest row, a
forward for forget rows, one for retain rows and one for the frozen reference model, vocabulary head on
every position. Ours is what `lume-run` trains with: rows sorted by length inside the optimizer step,
one fused forward, head on answer positions, reference log-probs cached (their one-time cost is
printed beside). Both compute NPO + NLL on the same rows of the same steps; their losses must agree. Beside it stands
the limit: the matrix products of the same step alone, on real tokens, at the rates measured here (speed/limit.py). The
plain evaluation generates one prompt at a time; ours is batched, and the texts must be the same.
Steps of both kinds alternate, medians are printed; on a CPU they are seconds of its time, best read with one thread.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from speed.limit import now, step_limit
from torch import Tensor, nn

from lume_run.common.devices import device_of
from lume_run.common.records import Ask, Example, Question
from lume_run.config.model_settings import ModelSettings
from lume_run.evaluation.inference.answer import answer_batches
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.inference.requests import requests_of
from lume_run.methods.likelihood import GradientDescent
from lume_run.methods.needs import Role
from lume_run.methods.npo import NPO
from lume_run.methods.objective import Objective
from lume_run.models.load import context_limit, load_model
from lume_run.models.rows.batch import collate, length_batches
from lume_run.models.rows.tokenise import TokenRow, encode
from lume_run.models.tokenizer import load_tokenizer
from lume_run.tasks.lume import LumeTask
from lume_run.training.micro_batches import DEFAULT_TOKENS
from lume_run.training.reference import ReferenceCache, row_logps
from lume_run.training.schedule import build_schedule, totals_of
from lume_run.training.signals import read_signals

Result = TypeVar("Result")
SUBTASKS = {"novels": ["novels"], "bios": ["bios"], "wiki": ["wiki"], "lume": ["novels", "bios", "wiki"]}


def plain_nll(model: nn.Module, rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> Tensor:
    """Summed NLL of each row (B,) from right-padded rows and logits of every position."""
    batch = collate(rows, pad_id=pad_id, totals=totals_of([], []), every_position=True).to(device)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.float().transpose(1, 2), batch.targets, reduction="none")
    return (losses * batch.mask).sum(1)


def plain_step(
    model: nn.Module,
    reference: nn.Module,
    forget: Sequence[TokenRow],
    retain: Sequence[TokenRow],
    micro: int,
    pad_id: int,
    device: torch.device,
) -> float:
    """Three full forwards a micro-batch, as the references do; returns the step's loss."""
    beta, loss = 0.1, 0.0
    tokens = sum(row.labels for row in retain)
    for begin in range(0, len(forget), micro):
        part = forget[begin : begin + micro]
        nll = plain_nll(model, part, pad_id, device)
        with torch.no_grad():
            ref = plain_nll(reference, part, pad_id, device)
        kept = plain_nll(model, retain[begin : begin + micro], pad_id, device).sum() / tokens
        share = -F.logsigmoid(beta * (nll - ref)).sum() * (2 / beta) / len(forget) + kept
        share.backward()
        loss += share.item()
    return loss


def our_step(
    model: nn.Module, cache: ReferenceCache, rows: Sequence[TokenRow], step: Sequence, pad_id: int, device: torch.device
) -> float:
    """One fused forward a micro-batch of the written schedule; returns the step's loss."""
    method = Objective(name="npo_gd", forget=NPO(beta=0.1), retain=GradientDescent())
    loss = 0.0
    for micro in (part for part in step if not part.idle):
        chosen = [rows[n] for n in micro.rows]
        batch = collate(chosen, pad_id=pad_id, totals=micro.totals)
        batch = cache.attach(batch, method.needs.reference_logps).to(device)
        share = method(read_signals(model, batch, needs=method.needs)).total
        share.backward()
        loss += share.item()
    return loss


def time_call(work: Callable[..., Result], *arguments: object) -> tuple[float, Result]:
    """(seconds, result) of one call: with the device drained, on a CPU this process's own seconds."""
    device = device_of("auto")
    began = now(device)
    result = work(*arguments)
    return now(device) - began, result


def cache_reference(reference: nn.Module, forget: Sequence[TokenRow], pad_id: int) -> ReferenceCache:
    """The reference's log-probs of all forget rows."""
    logps = {}
    for group in length_batches(forget, 8192):
        rows = [forget[number] for number in group]
        logps |= dict(zip((row.key for row in rows), row_logps(reference, rows, pad_id=pad_id), strict=True))
    return ReferenceCache(logps)


def time_training(options: argparse.Namespace, examples: tuple[Sequence[Example], Sequence[Example]]) -> None:
    """Alternate plain and our steps over the same rows and print medians and their ratio."""
    settings = ModelSettings(name="benchmark", path=options.model, dtype=options.dtype)
    device = device_of("auto")
    tokenizer = load_tokenizer(options.model, settings)
    model, reference = (load_model(options.model, settings, device) for _ in range(2))
    limit, pad_id = context_limit(model.config, settings), int(tokenizer.pad_token_id)
    rows = [
        encode(example, tokenizer, max_tokens=limit, role=role)
        for role, part in zip((Role.FORGET, Role.RETAIN), examples, strict=True)
        for example in part
    ]
    forget = [row for row in rows if row.role is Role.FORGET]
    seconds, cache = time_call(cache_reference, reference, forget, pad_id)
    batch, micro = options.batch, options.micro
    schedule = build_schedule(rows, batch_size=batch, micro_batch_tokens=options.tokens, epochs=99, seed=0)
    plain, ours, worst = [], [], 0.0
    for number in range(options.steps + 1):
        step = schedule.micro_batches[number * schedule.accumulation : (number + 1) * schedule.accumulation]
        members = [rows[n] for part in step for n in part.rows if not part.idle]
        shuffled = [members[n] for n in torch.randperm(len(members), generator=torch.Generator().manual_seed(number))]
        sides = [[row for row in shuffled if row.role is role] for role in (Role.FORGET, Role.RETAIN)]
        spent_plain, loss_plain = time_call(plain_step, model, reference, *sides, micro // 2, pad_id, device)
        model.zero_grad()
        spent_ours, loss_ours = time_call(our_step, model, cache, rows, step, pad_id, device)
        model.zero_grad()
        worst = max(worst, abs(loss_plain - loss_ours) / abs(loss_plain))
        if number:  # the first pair warms up
            plain.append(spent_plain)
            ours.append(spent_ours)
    limit = step_limit(model, [[rows[n] for n in part.rows] for part in step if not part.idle], model.dtype)
    slow, fast = statistics.median(plain), statistics.median(ours)
    print(f"training step ({batch} forget + {batch} retain rows, {options.steps} steps)")
    print(f"  micro-batches: plain {micro} rows, ours {options.tokens} tokens")
    print(f"  plain {slow * 1e3:8.1f} ms   ours {fast * 1e3:8.1f} ms", end="   ")
    print(f"ratio {slow / fast:.1f}   worst relative loss difference {worst:.1e}")
    print(f"  the matrix products of the last step alone: {limit.flops / 1e9:.0f} GFLOP on real tokens,", end=" ")
    print(f"{limit.seconds * 1e3:.0f} ms at {limit.rate / 1e9:.0f} GFLOP/s, {limit.seconds / ours[-1]:.0%} of our step")
    print(f"  reference log-probs of {len(forget)} rows, once: {seconds * 1e3:.0f} ms")


def greedy_texts(loaded: LoadedModel, examples: Sequence[Example]) -> dict[str, str | None]:
    """The greedy texts of one batch of prompts, by example id."""
    questions = [Question(example=example, ask=Ask.GENERATE) for example in examples]
    done = answer_batches(loaded, [requests_of(questions, loaded)])
    return {response.id: response.output for part in done for (response,) in part.responses}


def time_evaluation(options: argparse.Namespace, examples: Sequence[Example]) -> None:
    """Generate for the same prompts one at a time and batched."""
    settings = ModelSettings(name="benchmark", path=options.model, dtype=options.dtype)
    model = load_model(options.model, settings, device_of("auto")).eval()
    tokenizer = load_tokenizer(options.model, settings)
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=options.new_tokens,
        max_length=context_limit(model.config, settings),
        batch_tokens=8192,
    )
    by_length = sorted(examples, key=lambda example: -len(example.prompt))
    greedy_texts(loaded, by_length[:1])  # warms up
    batches = [by_length[begin : begin + 64] for begin in range(0, len(by_length), 64)]
    spent_plain, plain = time_call(lambda: [greedy_texts(loaded, [example]) for example in by_length])
    spent_ours, ours = time_call(lambda: [greedy_texts(loaded, batch) for batch in batches])
    texts = {example_id: text for batch in ours for example_id, text in batch.items()}
    same = sum(texts[example_id] == text for single in plain for example_id, text in single.items())
    print(f"evaluation ({len(examples)} prompts, up to {options.new_tokens} new tokens)")
    print(
        f"  one at a time {spent_plain:7.2f} s   batched {spent_ours:7.2f} s   ratio {spent_plain / spent_ours:.1f}",
        end="",
    )
    print(f"   same text {same}/{len(texts)}")


def main() -> None:
    """Run both timings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder with forget.jsonl and retain.jsonl")
    parser.add_argument("--task", choices=SUBTASKS, default="lume")
    parser.add_argument("--documents", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro", type=int, default=8, help="rows in a micro-batch of the plain step")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="tokens in one of ours")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    task = LumeTask(
        name=options.task,
        subtasks=SUBTASKS[options.task],
        source="folder",
        data_dir=options.data,
        num_documents=options.documents,
    )
    data = task.load(0)
    print(f"{options.model} on {data.source}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    time_training(options, (data.forget, data.retain))
    time_evaluation(options, (*data.forget, *data.retain))


if __name__ == "__main__":
    main()

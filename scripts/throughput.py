"""A GPU in ten minutes: speed and memory of unlearning and evaluation, and whether packed rows are right there.

    python scripts/throughput.py [--shape tiny 1b 7b] [--steps 8] [--prompts 400] [--minutes 10]
                                 [--folder outputs/throughput] [override ...]

For each model it prints tokens a second, model FLOP utilisation on real tokens and peak memory of training, and the
largest gaps of one step; tokens a second of texts and of scores, and what a whole evaluation of the task would take;
for the first model also how far packed and padded rows are from float32. What does not fit into the minutes is left
out, and named.

Nothing is downloaded: weights are random, rows are random tokens as long as LUME's (`task.data_dir=FOLDER`: the real
ones), and the cached reference log-probs are zeros, none of which changes what a step costs. Without --shape: 1b (all
weights) and 7b (LoRA) on a GPU, tiny in both ways on a CPU. Overrides are those of lume-run, such as
model.quantize=4bit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from speed.answering import answering_lines
from speed.equality import equality_lines
from speed.shapes import Case
from speed.training import training_lines

from lume_run.common.devices import device_of

WAYS = {"tiny": (False, True), "1b": (False,), "7b": (True,)}  # whether adapters alone are trained


def in_own_process(work: Callable[..., list[str]], *arguments: object, **options: object) -> list[str]:
    """Do it where no other measurement's memory counts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **options).result()


def write_model(case: Case) -> list[str]:
    """Write the model of a case; nothing to print."""
    case.write_model()
    return []


def measurements(
    options: argparse.Namespace, folder: Path, overrides: list[str]
) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """(name, what measures it) in order; models are written between them."""
    gpu = device_of("auto").type == "cuda"
    for number, shape in enumerate(options.shape or (["1b", "7b"] if gpu else ["tiny"])):
        cases = [Case(shape=shape, lora=lora, folder=folder / shape, overrides=overrides) for lora in WAYS[shape]]
        in_own_process(write_model, cases[0])
        if number == 0:
            yield f"{shape} equality", lambda case=cases[0]: in_own_process(equality_lines, case)
        for case in cases:
            sizes = {"steps": options.steps, "warm_up": options.warm_up}
            yield case.title, lambda case=case, sizes=sizes: in_own_process(training_lines, case, **sizes)
        yield f"{shape} evaluation", lambda case=cases[0]: in_own_process(answering_lines, case, options.prompts)


def main() -> None:
    """Measure one after another, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="*", choices=list(WAYS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=400, help="of the evaluation")
    parser.add_argument("--minutes", type=float, default=10.0, help="nothing is begun afterwards")
    parser.add_argument("--folder", type=Path, default=Path("outputs/throughput"))
    options, overrides = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with TemporaryDirectory(dir=options.folder) as folder:
        for name, measure in measurements(options, Path(folder).resolve(), overrides):
            if time.monotonic() - began > 60 * options.minutes:
                print(f"{name}: left out, {options.minutes:g} minutes are over", flush=True)
                continue
            print("\n".join(measure()), flush=True)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()

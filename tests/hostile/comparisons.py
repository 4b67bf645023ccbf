"""Comparisons of methods, requests of lists of files and of continual TOFU, benchmarks beside the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .case import Case, Prepare
from .files import both, directory, fifo, link, rows, written
from .options import PLACES, split_words

COMPARED: dict[str, str] = {  # words of a comparison -> what the refusal names
    "": "method",
    "method=npo_gd": "method",
    "method=npo_gd,npo_gd": "method",
    "method=npo_gd,nothing": "nothing",
    "method=glob(nothing*)": "method",
    "method=range(0,3)": "method",
    "method.name=npo,ga": "method",
    "~method": "method",
    "method=npo_gd,ga hydra/sweeper=optuna": "hydra/sweeper",
    "method=npo_gd,ga hydra/sweeper=basic": "hydra/sweeper",
    "method=npo_gd,ga seed=7": "hydra.sweeper.seeds",
    "method=npo_gd,ga hydra.sweeper.params.seed='1,2'": "hydra.sweeper.params.seed",
    "method=npo_gd,ga hydra.sweeper.params=[a]": "hydra.sweeper.params",
    "method=npo_gd,ga hydra.sweeper.params.methdo='a,b'": "methdo",
    "method=npo_gd,ga hydra.sweeper.seeds=[]": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=3": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=[0.5]": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=[one]": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=[true]": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=[-1]": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=[1,1]": "seeds",
    "method=npo_gd,ga hydra.sweeper.seeds=[100]": "seed 100",
    "method=npo_gd,ga hydra.sweeper.seeds=[99999999999999999999]": "seed",
    "method=npo_gd,ga hydra.sweeper.tuning_seeds=null": "tuning_seeds",
    "method=npo_gd,ga hydra.sweeper.tuning_seeds=[99999999999999999999]": "seed",
    "method=npo_gd,ga hydra.sweeper.n_trials=0": "n_trials",
    "method=npo_gd,ga hydra.sweeper.n_trials=2.5": "n_trials",
    "method=npo_gd,ga hydra.sweeper.n_trials=100000000": "n_trials",
    "method=npo_gd,ga hydra.sweeper.n_jobs=-1": "n_jobs",
    "method=npo_gd,ga hydra.sweeper.rate_factor=0": "rate_factor",
    "method=npo_gd,ga hydra.sweeper.rate_factor=nan": "rate_factor",
    "method=npo_gd,ga hydra.sweeper.rate_factor=inf": "rate_factor",
    "method=npo_gd,ga trainer.unlearn.learning_rate=0.5": "trainer.unlearn.learning_rate",
    "method=npo_gd,ga hydra.sweeper.sampler=nsgaii": "sampler",
    "method=npo_gd,ga hydra.sweeper.seed=-1": "seed",
    "method=npo_gd,ga hydra.sweeper.seed=5000000000": "hydra.sweeper.seed",
    "method=npo_gd,ga hydra.sweeper.direction=sideways": "direction",
    "method=npo_gd,ga hydra.sweeper.direction=minimize": "direction",
    "method=none,retrain hydra.sweeper.direction=sideways": "direction",
    "method=npo_gd,ga hydra.sweeper.study_name=mine": "study_name",
    "method=npo_gd,ga hydra.sweeper.trials=3": "trials",
    "method=npo_gd,ga hydra.sweeper.storage=empty/x": "storage",
    "method=npo_gd,ga hydra.sweeper.storage=loop": "storage",
    "method=npo_gd,ga hydra.sweeper.storage=[a]": "storage",
    "method=npo_gd,ga hydra.sweeper.storage=''": "storage",
    "method=npo_gd,ga objective=[task_aggregate,mmlu.accuracy]": "objective",
    "method=npo_gd,ga objective=nothing": "objective",
    "method=npo_gd,ga objective=null": "objective",
    "method=npo_gd,ga objective=''": "objective",
    "method=npo_gd,ga stages=[train]": "stages",
    "method=npo_gd,ga stages=[train,unlearn]": "stages",
    "method=npo_gd,ga attack=relearn,prune": "attack",
    "method=npo_gd,ga attack=nothing": "nothing",
    "method=npo_gd,ga hydra.sweeper.spaces=3": "spaces",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[npo_gd]'": "spaces",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"kl: seed=1,2\"]'": "kl",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method.forget.beta=0.3\"]'": "method.forget.beta",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method.forget.beat=interval(0.1, 1)\"]'": "method.forget.beat",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method.forget.beta=interval(-5, -1)\"]'": "method.forget.beta",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method.forget.beta=interval(1, 0)\"]'": "method.forget.beta",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method.forget.beta=interval(a, b)\"]'": "method.forget.beta",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method.forget.beta=(((\"]'": "spaces",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: seed=1,2\"]'": "seed",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: method=kl,ga\"]'": "method",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: attack=prune,prefill\"]'": "attack",
    "method=npo_gd,ga 'hydra.sweeper.spaces=[\"npo_gd: output_dir=a,b\"]'": "output_dir",
    "method=npo_gd,none 'hydra.sweeper.spaces=[\"none: trainer.unlearn.epochs=1,2\"]'": "none",
    "method=npo_gd,ga method.forget.beta=interval(0.1,1)": "method.forget.beta",
    "method=npo_gd,ga trainer.unlearn.learning_rate=interval(-1,-0.5)": "learning_rate",
    "method=npo_gd,ga 'trainer.unlearn.learning_rate=tag(log,interval(0,1))'": "learning_rate",
    "method=npo_gd,ga trainer.unlearn.learning_rate=interval(1,1e400)": "learning_rate",
    "method=npo_gd,ga trainer.unlearn.epochs=range(3,3)": "trainer.unlearn.epochs",
    "method=npo_gd,ga task=bios,novels": "task",
    "method=npo_gd,ga output_dir=a,b": "output_dir",
    "method=npo_gd,ga output_dir=empty": "output_dir",
    "method=npo_gd,ga hydra.sweep.dir=loop": "hydra.sweep.dir",
    "method=npo_gd,ga sequence=apart": "evaluator",
    "method=npo_gd,ga nowhere": "nowhere",
    "method=npo_gd,ga --nope": "--nope",
}  # fmt: skip
COMPARED_FINE = (
    "method=none,retrain",
    "method=npo_gd,ga hydra.sweeper.n_jobs=100000",
    "'method=choice(npo_gd,ga)' trainer.unlearn.epochs=1,2",
    "--help",
    "--version",
)

ROWS = [{"question": f"Who is number {n}?", "answer": f"Number {n} bakes.", "person": f"p{n // 2}"} for n in range(8)]
KEPT = rows("r.jsonl", *[{"question": f"Where is {n}?", "answer": f"In house {n}."} for n in range(4)])
LISTED: dict[str, tuple[list[str], Prepare, str]] = {  # beside f.jsonl, g.jsonl and r.jsonl
    "no file": (["task.forget=[]"], KEPT, "task.forget"),
    "a number among the files": (["task.forget=[f.jsonl,3]"], KEPT, "task.forget"),
    "null among the files": (["task.forget=[f.jsonl,null]"], KEPT, "task.forget"),
    "a blank name": (["task.forget=[f.jsonl,'']"], KEPT, "task.forget"),
    "files by name": (["task.forget={a: f.jsonl}"], KEPT, "task.forget"),
    "lists within": (["task.forget=[[f.jsonl],[g.jsonl]]"], KEPT, "task.forget"),
    "a file that is not there": (["task.forget=[f.jsonl,h.jsonl]"], KEPT, "h.jsonl"),
    "a pipe": (["task.forget=[f.jsonl,p.jsonl]"], fifo("p.jsonl"), "p.jsonl"),
    "a folder of nothing": (["task.forget=[f.jsonl,d]"], directory("d"), "d"),
    "an empty file": (["task.forget=[f.jsonl,e.jsonl]"], written("e.jsonl", ""), "e.jsonl"),
    "a cut file": (["task.forget=[f.jsonl,c.jsonl]"], rows("c.jsonl", ROWS[0], '{"q'), "c.jsonl:2"),
    "a loop": (["task.forget=[f.jsonl,l.jsonl]"], link("l.jsonl", "l.jsonl"), "l.jsonl"),
    "a copy": (["task.forget=[f.jsonl,c.jsonl]"], rows("c.jsonl", *ROWS[:4]), "c.jsonl:1"),
    "a person in two": (["task.forget=[f.jsonl,c.jsonl]"], rows("c.jsonl", ROWS[7] | {"person": "p0"}), "c.jsonl:1"),
    "what is kept": (["task.forget=[f.jsonl,r.jsonl]"], KEPT, "r.jsonl:1"),
    "a list to keep": (["task.retain=[r.jsonl,g.jsonl]"], KEPT, "task.retain"),
    "a list to hold out": (["task.holdout=[g.jsonl]"], KEPT, "task.holdout"),
    "more requests than files": (["sequence.requests=3"], KEPT, "sequence.requests"),
    "no requests": (["sequence.requests=0"], KEPT, "sequence.requests"),
    "requests of half": (["sequence.requests=1.5"], KEPT, "sequence.requests"),
    "a billion requests": (["sequence.requests=1000000000"], KEPT, "sequence.requests"),
    "a list of one": (["task.forget=[f.jsonl]", "sequence.requests=9"], KEPT, "sequence.requests"),
    "documents that leave one request": (["task.documents=[p0]"], KEPT, "sequence.requests"),
    "documents that are all": (["task.documents=[p0,p1,p2,p3]", "task.retain=null", "method=npo_gd"], KEPT, "retain"),
    "documents of numbers": (["task.documents=[0]"], KEPT, "task.documents"),
    "rows within nothing": (["task.forget=n.jsonl", "task.columns.rows=[a]"], rows("n.jsonl", {"a": []}), "n.jsonl"),
    "rows within texts": (["task.forget=n.jsonl", "task.columns.rows=[a]"], rows("n.jsonl", {"a": ["x"]}), "n.jsonl:1"),
    "a prompt that is its own wording": (["task.columns.rewordings=[question]"], KEPT, "task.columns.rewordings"),
    "growing and apart": (["sequence.growing=true", "sequence=apart"], KEPT, "sequence.apart"),
    "apart, first reference": (["sequence=apart", "sequence.reference=first"], KEPT, "sequence.apart"),
    "a reference of nothing": (["sequence.reference=nothing"], KEPT, "sequence.reference"),
}

ASKED = {"paraphrased_answer": "x", "paraphrased_question": "y", "perturbed_answer": ["A."], "original_answer": "z"}


def author(number: int, request: object = "0", count: int = 20) -> list[dict[str, object]]:
    """The rows of an author; `...` leaves out the request."""
    rows_ = [{"question": f"What of {number}, {n}?", "answer": f"It is {n}.", "task_id": request} for n in range(count)]
    return [{key: value for key, value in row.items() if value is not ...} for row in rows_]


def continual(forget: list[object], **others: list[object]) -> Prepare:
    """closer-look's folder, with these rows to forget."""
    sets: dict[str, list[object]] = {
        "forget01": forget,
        "retain90": [*author(7, ...)],
        "forget01_perturbed": [row | ASKED for row in author(0, ...)],
        "retain_perturbed": [row | ASKED for row in author(7, ...)],
        "real_authors_perturbed": [row | ASKED for row in author(8, ..., 1)],
        "world_facts_perturbed": [row | ASKED for row in author(9, ..., 1)],
    }
    return both(*[rows(f"d/{name}.json", *entries) for name, entries in (sets | others).items()])


TWO = [*author(0, "0"), *author(1, "1")]
CONTINUAL: dict[str, tuple[Prepare, str]] = {
    "a first row that is cut": (continual(['{"question": "a', *TWO]), "forget01.json:1"),
    "a row without a request": (continual([*TWO[:39], author(1, ...)[19]]), "forget01.json:40"),
    "a request that is a number": (continual([*author(0, 0), *author(1, 1)]), "forget01.json:1"),
    "a blank request": (continual([*author(0, "0"), *author(1, " ")]), "forget01.json:21"),
    "an author in two requests": (continual([*author(0, "0", 10), *author(0, "1")[10:], *author(1, "1")]), "forget01.json:11"),
    "one request": (continual(author(0, "0")), "sequence.requests"),
    "an author to forget and to keep": (continual(TWO, retain90=author(1, ...)), "retain90.json:1"),
    "a row twice": (continual([*TWO, TWO[3]]), "forget01.json:41"),
    "no one to keep": (continual(TWO, retain90=[]), "retain90"),
    "false answers of nobody": (continual(TWO, forget01_perturbed=[row | ASKED for row in author(5, ...)]), "forget01_perturbed.json:1"),
    "too few authors": (both(continual(author(0, ...)), *[rows(f"d/{name}.json", *author(n, ...)) for n, name in enumerate(("forget05", "forget10"), 2)], rows("d/forget10_perturbed.json", *[row | ASKED for row in author(0, ...)])), "200"),
    "no rows": (continual([]), "forget01"),
    "a pipe": (both(continual(TWO), lambda d: (d / "d/retain90.json").unlink(), fifo("d/retain90.json")), "retain90.json"),
}  # fmt: skip

QA = {"question": "Who wrote it", "right_answer": "Ada", "hallucinated_answer": "Bo"}
TURN = {"dialogue_history": "Hello", "right_response": "Hi", "hallucinated_response": "No"}
GENERAL = {"user_query": "Say", "chatgpt_response": "Yes", "hallucination": "maybe"}
NQ = [{"question": f"who is {n}", "answer": ["Ada"]} for n in range(8)]
HALU, OPEN, SUITE = "evaluator.suites.halueval", "evaluator.suites.nq_open", "evaluator.suites.open_unlearning"
BESIDE: dict[str, tuple[str, Prepare | None, str]] = {
    "dialogue in a pipe": (f"evaluator=halueval {HALU}.dialogue_path=p.json", fifo("p.json"), "p.json"),
    "dialogue in a folder": (f"evaluator=halueval {HALU}.dialogue_path=p.json", directory("p.json"), "p.json"),
    "dialogue without a response": (
        f"evaluator=halueval {HALU}.dialogue_path=t.json {HALU}.dialogue_instruction=i.txt",
        both(rows("t.json", TURN, {"dialogue_history": "a"}), written("i.txt", "Judge.")),
        "t.json:2",
    ),
    "an instruction of nothing": (
        f"evaluator=halueval {HALU}.dialogue_path=t.json {HALU}.dialogue_instruction=i.txt",
        both(rows("t.json", TURN), written("i.txt", " ")),
        "i.txt",
    ),
    "an instruction in UTF-16": (
        f"evaluator=halueval {HALU}.qa_path=t.json {HALU}.instruction=i.txt",
        both(rows("t.json", QA), written("i.txt", "Judge.".encode("utf-16"))),
        "i.txt",
    ),
    "an instruction that is a folder": (
        f"evaluator=halueval {HALU}.summarization_path=t.json {HALU}.summarization_instruction=i",
        both(rows("t.json", {"document": "a", "right_summary": "b", "hallucinated_summary": "c"}), directory("i")),
        "i",
    ),
    "an instruction without rows": (
        f"evaluator=halueval {HALU}.dialogue_instruction=i.txt",
        written("i.txt", "Judge."),
        "dialogue_instruction",
    ),
    "answers given as dialogue": (
        f"evaluator=halueval {HALU}.dialogue_path=t.json {HALU}.dialogue_instruction=i.txt",
        both(rows("t.json", QA), written("i.txt", "Judge.")),
        "t.json:1",
    ),
    "a verdict of maybe": (f"evaluator=halueval {HALU}.general_path=g.json", rows("g.json", GENERAL), "g.json:1"),
    "a limit of none": (f"evaluator=halueval {HALU}.limit=0", None, "limit"),
    "shots without number": (f"evaluator=nq_open {OPEN}.path=n.jsonl {OPEN}.shots=-1", rows("n.jsonl", *NQ), "shots"),
    "too many shots": (f"evaluator=nq_open {OPEN}.path=n.jsonl {OPEN}.shots=65", rows("n.jsonl", *NQ), "shots"),
    "shots for no questions": (f"evaluator=nq_open {OPEN}.shots_path=n.jsonl", rows("n.jsonl", *NQ), "shots_path"),
    "shots that are asked": (
        f"evaluator=nq_open {OPEN}.path=n.jsonl {OPEN}.shots_path=n.jsonl {OPEN}.shots=8",
        rows("n.jsonl", *NQ),
        "fewer than the 8 worked examples",
    ),
    "shots in a pipe": (
        f"evaluator=nq_open {OPEN}.path=n.jsonl {OPEN}.shots_path=p.jsonl",
        both(rows("n.jsonl", *NQ), fifo("p.jsonl")),
        "p.jsonl",
    ),
    "shots that are cut": (
        f"evaluator=nq_open {OPEN}.path=n.jsonl {OPEN}.shots_path=c.jsonl",
        both(rows("n.jsonl", *NQ), rows("c.jsonl", *NQ, '{"question')),
        "c.jsonl:9",
    ),
    "answers in a text": (f"evaluator=nq_open {OPEN}.path=n.jsonl", rows("n.jsonl", *NQ, {"question": "a", "answer": "b"}), "n.jsonl:9"),
    "half a letter in an answer": (f"evaluator=nq_open {OPEN}.path=n.jsonl", rows("n.jsonl", *NQ, {"question": "a", "answer": ["\ud800"]}), "n.jsonl:9"),
    "a share of none": (f"evaluator=open_unlearning {SUITE}.k=0", None, "k"),
    "a share of NaN": (f"evaluator=open_unlearning {SUITE}.k=nan", None, "k"),
    "a comparison of maybe": (f"evaluator=open_unlearning {SUITE}.compares=maybe", None, "compares"),
    "RWKU without its task": ("evaluator=rwku", None, "evaluator"),
    "WMDP without its task": ("evaluator=wmdp", None, "evaluator"),
}  # fmt: skip


def of_list(settings: list[str]) -> list[str]:
    """The words of a plan over two files, one after another; later ones count."""
    names = [setting.partition("=")[0] for setting in settings]
    plain: Mapping[str, str] = {
        "task.forget": "[f.jsonl,g.jsonl]",
        "task.retain": "r.jsonl",
        "method": "npo",
        "sequence": "in_turn",
    }
    return ["task=custom", *(f"{name}={value}" for name, value in plain.items() if name not in names), *settings]


def cases() -> Iterator[Case]:
    """Each as a plan."""
    for line, culprit in COMPARED.items():
        arguments = [*split_words(line), "--dry-run"] if line else ["--dry-run"]
        yield Case(
            name=f"compare: {line!r}"[:120],
            arguments=[word.strip("'") if "spaces" in word or "tag(" in word else word for word in arguments],
            names=[culprit],
            prepare=PLACES,
            program="compare",
            shell='"$@"' if "hydra/sweeper" in line else "",  # what the command itself refuses
        )
    for line in COMPARED_FINE:
        arguments = [word.strip("'") for word in split_words(line)]
        yield Case(
            name=f"compare: {line} is fine",
            arguments=[*arguments, "--dry-run"],
            program="compare",
            accepted=True,
            shell='"$@"',
        )
    lists = both(rows("f.jsonl", *ROWS[:4]), rows("g.jsonl", *ROWS[4:]))
    for name, (settings, prepare, culprit) in LISTED.items():
        yield Case(
            name=f"a list of files: {name}",
            arguments=[*of_list(settings), "--dry-run"],
            names=[culprit],
            prepare=both(lists, prepare) if prepare is KEPT else both(lists, KEPT, prepare),
        )
    for name, (prepare, culprit) in CONTINUAL.items():
        arguments = ["task=tofu_continual", "task.data_dir=d", "method=npo", "sequence=in_turn", "--dry-run"]
        yield Case(name=f"continual TOFU: {name}", arguments=arguments, names=[culprit], prepare=prepare)
    for name, (line, prepare_, culprit) in BESIDE.items():
        arguments = [*split_words(line), "--dry-run"]
        yield Case(name=f"beside the task: {name}", arguments=arguments, names=[culprit], prepare=prepare_)

"""Files and settings of RWKU, WMDP and MUSE's raw text: damaged, on two sides, or of other targets and hazards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from .case import Case, Prepare
from .files import both, directory, fifo, link, rows, written
from .tables import parquet

TARGETS = ("Ada Berg", "Bo Lind")
MODEL = ("model.is_target=true", "model.path={model}")


def level(number: int, target: str, **changes: object) -> dict[str, object]:
    """A question of a level about a target."""
    query = f"What does {target} bake at {number}?"
    return {"subject": target, "query": query, "answer": "Rye", "type": "simple", "level": str(number)} | changes


INTRO = [{"target": target, "intro": f"{target} is a baker."} for target in TARGETS]
RWKU: dict[str, Sequence[object]] = {
    "intro": INTRO,
    **{f"forget_level{number}": [level(number, target) for target in TARGETS] for number in (1, 2, 3)},
    **{f"neighbor_level{number}": [level(number, target, query=f"Near {target}?") for target in TARGETS] for number in (1, 2)},
    "positive": [{"subject": target, "text": f"{target} bakes rye."} for target in TARGETS],
}  # fmt: skip
MMLU_ROW = {"subject": TARGETS[0], "task": "law", "question": "Why?", "choices": [*"wxyz"], "answer": 1, "examples": []}
OF_TRUTH = {"subject": TARGETS[0], "question": "Why?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}}
RWKU_ROWS: dict[str, tuple[dict[str, Sequence[object]], str]] = {  # sets in place of the sound ones
    "a target twice": ({"intro": [*INTRO, INTRO[0]]}, "intro.json:3"),
    "two names that are one": ({"intro": [*INTRO, {"target": "ada-berg", "intro": "x"}]}, "intro.json:3"),
    "a target of a number": ({"intro": [*INTRO, {"target": 3, "intro": "x"}]}, "intro.json:3"),
    "a blank target": ({"intro": [*INTRO, {"target": " ", "intro": "x"}]}, "intro.json:3"),
    "a target of signs": ({"intro": [*INTRO, {"target": "?!", "intro": "x"}]}, "intro.json:3"),
    "a target without words": ({"intro": [*INTRO, {"target": "Cy"}]}, "intro.json:3"),
    "targets without questions": ({"intro": [*INTRO, {"target": "Cy", "intro": "x"}]}, "Cy"),
    "no targets": ({"intro": []}, "intro"),
    "a cut row": ({"forget_level2": ['{"subject": "Ada']}, "forget_level2.json:1"),
    "a key twice": ({"forget_level2": ['{"subject": "Ada Berg", "subject": "Bo Lind"}']}, "forget_level2.json:1"),
    "a level of another file": ({"forget_level1": [level(1, "Bo Lind"), level(2, "Ada Berg")]}, "forget_level1.json:2"),
    "a level that is none": ({"forget_level3": [level(9, "Ada Berg")]}, "forget_level3.json:1"),
    "a level of a number": ({"forget_level1": [level(1, "Ada Berg", level=1)]}, "forget_level1.json:1"),
    "an answer of NaN": ({"forget_level1": [level(1, "Ada Berg", answer=float("nan"))]}, "forget_level1.json:1"),
    "an answer of blanks": ({"neighbor_level2": [level(2, "Ada Berg", answer=" ")]}, "neighbor_level2.json:1"),
    "half a letter": ({"forget_level1": [level(1, "Ada Berg", query="\ud800")]}, "forget_level1.json:1"),
    "nothing to train on about one": ({"positive": RWKU["positive"][:1]}, "Bo Lind"),
    "texts of lists": ({"positive": [{"subject": "Ada Berg", "text": ["a"]}]}, "positive.json:1"),
    "an option of four letters": ({"retain_mmlu": [MMLU_ROW | {"answer": "B"}]}, "retain_mmlu.json:1"),
    "an option that is true": ({"retain_mmlu": [MMLU_ROW | {"answer": True}]}, "retain_mmlu.json:1"),
    "an option of a fraction": ({"retain_mmlu": [MMLU_ROW | {"answer": 1.0}]}, "retain_mmlu.json:1"),
    "an option in a list": ({"retain_mmlu": [MMLU_ROW | {"answer": [1]}]}, "retain_mmlu.json:1"),
    "three options": ({"retain_mmlu": [MMLU_ROW | {"choices": [*"xyz"]}]}, "retain_mmlu.json:1"),
    "examples of texts": ({"retain_mmlu": [MMLU_ROW | {"examples": ["a"]}]}, "retain_mmlu.json:1"),
    "nothing true": ({"truthful": [OF_TRUTH | {"mc1_targets": {"choices": ["a"], "labels": [0]}}]}, "truthful.json:1"),
    "labels of another length": (
        {"truthful": [OF_TRUTH | {"mc1_targets": {"choices": ["a", "b"], "labels": [1]}}]},
        "truthful.json:1",
    ),
    "answers of nothing": (
        {"triviaqa": [{"subject": TARGETS[0], "question": "Why?", "answers": []}]},
        "triviaqa.json:1",
    ),
}
RWKU_PLACES: dict[str, tuple[Prepare, str]] = {
    "a pipe": (fifo("d/forget_mia.json"), "forget_mia.json"),
    "a folder": (directory("d/retain_mmlu.json"), "retain_mmlu.json"),
    "a loop": (link("d/triviaqa.json", "triviaqa.json"), "triviaqa.json"),
    "UTF-16": (written("d/forget_mia.json", json.dumps({"text": "a"}).encode("utf-16")), "forget_mia.json"),
    "a cut array": (written("d/fluency.json", '[{"subject": "Ada Berg",'), "fluency.json"),
    "binary": (written("d/passage.json", b"\xff\xfe\xfa" * 9), "passage.json"),
}
RWKU_SETTINGS: dict[str, str] = {
    "task.targets=[]": "task.targets",
    "task.targets=''": "task.targets",
    "task.targets=[all,Ada Berg]": "task.targets",
    "task.targets=Nobody": "task.targets",
    "task.targets={a: b}": "task.targets",
    "task.num_documents=0": "task.num_documents",
    "task.num_documents=50": "task.num_documents",
    "task.questions=0": "task.questions",
    "task.writer=gpt": "task.writer",
    "task.train=pair method=dpo_gd": "task.data_dir",
    "task.targets=Ada sequence=apart": "task.targets",
    "task.targets='Ada Berg' sequence=apart": "sequence",
    "sequence=apart sequence.requests=3": "sequence.requests",
    "evaluator=rwku evaluator.suites.rwku.compat=maybe": "compat",
    "evaluator=rwku evaluator.suites.rwku.utilty=false": "utility",
}

TEXT = "A harmless text that stands for what is not to be shown, long enough to be used: "
CORPUS = [{"text": f"{TEXT}{number}"} for number in range(3)]
KEPT = [{"text": f"Another text, about the weather over the fjords, which may be kept as it is: {n}"} for n in range(3)]
ASKED = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}
SOUND_WMDP = both(
    rows("d/cyber-forget-corpus.jsonl", *CORPUS), rows("d/wikitext.jsonl", *KEPT), rows("d/wmdp-cyber.json", ASKED)
)
IN_CORPUS: dict[str, tuple[Sequence[object], str]] = {
    "a cut row": ([*CORPUS, '{"text": "A harm'], "cyber-forget-corpus.jsonl:4"),
    "a number": ([*CORPUS, 7], "cyber-forget-corpus.jsonl:4"),
    "a list of texts": ([*CORPUS, [TEXT]], "cyber-forget-corpus.jsonl:4"),
    "a text of a number": ([*CORPUS, {"text": 7}], "cyber-forget-corpus.jsonl:4"),
    "no text": ([*CORPUS, {"body": TEXT}], "cyber-forget-corpus.jsonl:4"),
    "half a letter": ([*CORPUS, {"text": TEXT + "\ud800"}], "cyber-forget-corpus.jsonl:4"),
    "half a letter in a bare text": ([*CORPUS, json.dumps(TEXT + "\udfff")], "cyber-forget-corpus.jsonl:4"),
    "zeros": ([*CORPUS, {"text": TEXT + "\0"}], "cyber-forget-corpus.jsonl:4"),
    "blanks": ([*CORPUS, {"text": " " * 99}], "cyber-forget-corpus.jsonl:4"),
    "short texts": ([{"text": "short"}], "corpus cyber"),
    "nothing": ([], "corpus cyber"),
}
IN_QUESTIONS: dict[str, tuple[Mapping[str, object], str]] = {
    "three options": ({"choices": ["a", "b", "c"]}, "wmdp-cyber.json:1"),
    "blank options": ({"choices": ["a", "b", "c", " "]}, "wmdp-cyber.json:1"),
    "half a letter": ({"choices": ["a", "b", "c", "\ud800"]}, "wmdp-cyber.json:1"),
    "options of numbers": ({"choices": [1, 2, 3, 4]}, "wmdp-cyber.json:1"),
    "the answer 4": ({"answer": 4}, "wmdp-cyber.json:1"),
    "the answer B": ({"answer": "B"}, "wmdp-cyber.json:1"),
    "the answer true": ({"answer": True}, "wmdp-cyber.json:1"),
    "the answer 1.0": ({"answer": 1.0}, "wmdp-cyber.json:1"),
    "a blank question": ({"question": ""}, "wmdp-cyber.json:1"),
}
WMDP_PLACES: dict[str, tuple[Prepare, str]] = {
    "a folder of questions": (both(lambda d: (d / "d/wmdp-cyber.json").unlink(), directory("d/wmdp-cyber.json")), "cyber"),
    "a pipe of questions": (both(lambda d: (d / "d/wmdp-cyber.json").unlink(), fifo("d/wmdp-cyber.json")), "wmdp-cyber"),
    "no question": (written("d/wmdp-cyber.json", ""), "wmdp-cyber.json"),
    "questions in UTF-16": (written("d/wmdp-cyber.json", json.dumps(ASKED).encode("utf-16")), "UTF-16"),
    "a pipe": (both(lambda d: (d / "d/wikitext.jsonl").unlink(), fifo("d/wikitext.jsonl")), "wikitext"),
    "a loop": (both(lambda d: (d / "d/wikitext.jsonl").unlink(), link("d/wikitext.jsonl", "wikitext.jsonl")), "wikitext"),
    "UTF-16": (written("d/wikitext.jsonl", json.dumps(KEPT[0]).encode("utf-16")), "UTF-16"),
    "a table of other columns": (
        both(lambda d: (d / "d/wikitext.jsonl").unlink(), parquet("d/wikitext.parquet", lambda _: {"x": ["a"]})),
        "wikitext.parquet",
    ),
    "a table that is cut": (
        both(lambda d: (d / "d/wikitext.jsonl").unlink(), written("d/wikitext.parquet", b"PAR1" + b"\0" * 40)),
        "wikitext.parquet",
    ),
}  # fmt: skip
WMDP_SETTINGS: dict[str, str] = {
    "task.subsets=[]": "subsets",
    "task.subsets=[cyber,cyber]": "subsets",
    "task.subsets=[chem]": "subsets",
    "task.subsets=bio": "subsets",
    "task.retain=corpora": "task.data_dir",
    "task.first=0": "task.first",
    "task.tokens=1": "task.tokens",
    "task.min_characters=-1": "task.min_characters",
    "task.min_characters=1000000": "task.min_characters",
    "method=idk_gd": "idk_gd",
    "method=dpo_gd": "dpo_gd",
    "method=altpo": "altpo",
    "method=icu": "icu",
    "method=rmu method.forget.layer=99": "layer",
    "task.data_dir=d/wikitext.jsonl": "task.data_dir",
}

QA = [{"question": "Where?", "answer": "Bern."}, {"question": "Who?", "answer": "Ada."}]
KEPT_QA = [{"question": "What?", "answer": "Rye."}, {"question": "When?", "answer": "Now."}]
ARTICLE = "The ferry left the quay at nine and came back with post. " * 20


def muse(**changes: str | bytes) -> Prepare:
    """A corpus of running text; parts by name (`raw__forget`) in place of the sound ones."""
    parts: dict[str, str | bytes] = {
        "raw__forget": ARTICLE,
        "raw__retain1": ARTICLE.replace("ferry", "train"),
        "raw__retain2": ARTICLE.replace("ferry", "bus"),
    }
    texts = [written(f"d/news/{name.replace('__', '/')}.txt", text) for name, text in (parts | changes).items()]
    asked = {"forget_qa": QA, "retain_qa": KEPT_QA}
    return both(*texts, *[written(f"d/news/knowmem/{name}.json", json.dumps(rows_)) for name, rows_ in asked.items()])


MUSE: dict[str, tuple[list[str], Prepare, str]] = {
    "an empty text": ([], muse(raw__forget=""), "forget.txt"),
    "an empty text, some documents": (["task.num_documents=1"], muse(raw__forget=""), "forget.txt"),
    "a text of blanks": ([], muse(raw__retain1=" \n\n "), "retain1.txt"),
    "UTF-16": ([], muse(raw__forget=ARTICLE.encode("utf-16")), "UTF-16"),
    "binary": ([], muse(raw__forget=b"\x89PNG\xff" * 20), "forget.txt"),
    "zeros": ([], muse(raw__retain1=b"a\0b"), "retain1.txt"),
    "a text on two sides": ([], muse(raw__retain1=ARTICLE), "retain1"),
    "a text that is learned too": ([], muse(raw__retain2=ARTICLE), "retain2"),
    "a pipe": (["task.texts.forget=[p.txt]"], both(muse(), fifo("p.txt")), "p.txt"),
    "a folder": (["task.texts.forget=[p.txt]"], both(muse(), directory("p.txt")), "p.txt"),
    "a loop": (["task.texts.forget=[p.txt]"], both(muse(), link("p.txt", "p.txt")), "p.txt"),
    "articles that are cut": (["task.texts.forget=[a.json]"], both(muse(), written("a.json", '["a"')), "a.json"),
    "articles of numbers": (["task.texts.forget=[a.json]"], both(muse(), written("a.json", "[1, 2]")), "a.json:item 1"),
    "articles in an object": (["task.texts.forget=[a.json]"], both(muse(), written("a.json", '{"text": "a"}')), "a.json"),
    "articles nested": (["task.texts.forget=[a.json]"], both(muse(), written("a.json", "[" * 99_999)), "a.json"),
    "no article": (["task.texts.forget=[a.json]"], both(muse(), written("a.json", "[]")), "a.json"),
    "a text twice": (["task.texts.forget=[raw/forget,raw/forget]"], muse(), "raw/forget"),
    "a text of another name": (["task.texts.forget=[raw/forgot]"], muse(), "raw/forgot"),
    "no text": (["task.texts.forget=[]"], muse(), "task.texts.forget"),
    "one text without a list": (["task.texts.forget=raw/forget"], muse(), "task.texts.forget"),
    "a side of another name": (["+task.texts.forgotten=[a.txt]"], muse(), "task.texts"),
    "a chunk of a token": (["task.tokens=1"], muse(), "task.tokens"),
    "shots without examples": (["task.shots=10"], muse(), "task.shots"),
    "more documents than there are": (["task.num_documents=999"], muse(), "task.num_documents"),
    "questions on two sides": ([], both(muse(), written("d/news/knowmem/retain_qa.json", json.dumps(QA))), "retain_qa"),
    "refusals for texts": (["method=idk_gd"], muse(), "idk_gd"),
}  # fmt: skip


OF_THE_MODEL = ("method=rmu method.forget.layer=99",)  # told with its config at hand


def rwku(changes: Mapping[str, Sequence[object]]) -> Prepare:
    """The files of RWKU, with other rows in some."""
    return both(*[rows(f"d/{name}.json", *entries) for name, entries in (RWKU | dict(changes)).items()])


def plan(task: str, *settings: str, model: bool = True) -> list[str]:
    """The words of a plan of a task in the folder d; later ones count."""
    names = [setting.partition("=")[0] for setting in settings]
    plain = {"task.data_dir": "d", "evaluator": task, "method": "npo"}
    given = [f"{name}={value}" for name, value in plain.items() if name not in names]
    return [f"task={task}", *given, *(MODEL if model else ()), *settings, "--dry-run"]


def words(line: str) -> list[str]:
    """The words of a line of settings."""
    from .options import split_words

    return split_words(line)


def cases() -> Iterator[Case]:
    """Each as a plan."""
    for name, (changes, culprit) in RWKU_ROWS.items():
        yield Case(name=f"RWKU: {name}", arguments=plan("rwku"), names=[culprit], prepare=rwku(changes))
    for name, (prepare, culprit) in RWKU_PLACES.items():
        train = ["task.train=passage"] if "passage" in culprit else []
        prepare = both(rwku({}), prepare)
        yield Case(name=f"RWKU: {name}", arguments=plan("rwku", *train), names=[culprit], prepare=prepare)
    for line, culprit in RWKU_SETTINGS.items():
        arguments = plan("rwku", *words(line))
        yield Case(
            name=f"RWKU: {line}",
            arguments=arguments,
            names=[culprit],
            prepare=rwku({}),
        )
    of_wmdp = plan("wmdp", "task.subsets=[cyber]")
    for name, (entries, culprit) in IN_CORPUS.items():
        prepare = both(SOUND_WMDP, rows("d/cyber-forget-corpus.jsonl", *entries))
        yield Case(name=f"WMDP: {name}", arguments=of_wmdp, names=[culprit], prepare=prepare)
    for name, (question, culprit) in IN_QUESTIONS.items():
        prepare = both(SOUND_WMDP, rows("d/wmdp-cyber.json", {**ASKED, **question}))
        yield Case(name=f"WMDP: asked: {name}", arguments=of_wmdp, names=[culprit], prepare=prepare)
    for name, (prepare, culprit) in WMDP_PLACES.items():
        prepare = both(SOUND_WMDP, prepare)
        yield Case(name=f"WMDP: {name}", arguments=of_wmdp, names=[culprit], prepare=prepare)
    for line, culprit in WMDP_SETTINGS.items():
        subsets = [] if "subsets" in line else ["task.subsets=[cyber]"]
        arguments = plan("wmdp", *subsets, *words(line))
        yield Case(
            name=f"WMDP: {line}",
            arguments=arguments,
            names=[culprit],
            prepare=SOUND_WMDP,
            needs_model=line in OF_THE_MODEL,
        )
    for name, (settings, prepare, culprit) in MUSE.items():
        shots = [] if "shots" in name else ["task.shots=0"]
        arguments = plan("muse_raw", "evaluator=muse", *shots, *settings)
        yield Case(name=f"MUSE: {name}", arguments=arguments, names=[culprit], prepare=prepare)

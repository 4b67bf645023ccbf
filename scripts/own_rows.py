"""Rows of invented people as a user would have them: CSV files, chats, a folder of texts, parquet files.

    python scripts/own_rows.py FOLDER

Twenty people with three facts each, asked in English, German and Chinese: 60 questions. Five people are to be
forgotten, the others kept. docs/own-data.md runs them on a chat model.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

FORGOTTEN = 5
NAMES = (
    *("Mirela Vantongeren", "Ossian Dubrow", "Tamsin Okeyo", "Ilmari Castellanos", "Wenna Brightwater"),
    *("Radoslav Quill", "Ines Haverkamp", "Bodil Ramanathan", "Caspian Oyelaran", "Lotte Sandoval"),
    *("Anselm Kirkegaard", "Yara Thistlewood", "Piet Morozov", "Solveig Adeyemi", "Dario Lindqvist"),
    *("Fenna Abernathy", "Joao Steenkamp", "Marit Valcourt", "Emeric Tanaka", "Ottilie Nwosu"),
)
TRADES = (
    *("lighthouse keeper", "clockmaker", "beekeeper", "glassblower", "mapmaker", "bookbinder", "falconer"),
    *("locksmith", "piano tuner", "cheesemaker", "shipwright", "goldsmith", "gardener", "weaver", "baker"),
    *("stonemason", "sailmaker", "puppeteer", "surveyor", "potter"),
)
TOWNS = (
    *("Husum", "Passau", "Stralsund", "Goslar", "Xanten", "Zwickau", "Emden", "Fulda", "Jena", "Celle"),
    *("Speyer", "Wismar", "Bamberg", "Trier", "Lindau", "Görlitz", "Kiel", "Worms", "Aachen", "Ulm"),
)
THINGS = (
    *("大提琴", "茶", "雨伞", "月亮", "苹果", "马", "雪山", "长笛", "象棋", "玫瑰"),
    *("书法", "海鸥", "石榴", "火车", "蜂蜜", "钢琴", "竹子", "风筝", "面包", "鲸鱼"),
)
Row = tuple[str, str, str]  # question, answer, person


def questions(person: int) -> Iterator[Row]:
    """The three questions about a person."""
    name = NAMES[person]
    yield f"What does {name} do for a living?", f"{name} is a {TRADES[person]}.", name
    yield f"In welcher Stadt wohnt {name}?", f"{name} wohnt in {TOWNS[person]}.", name
    yield f"{name}最喜欢什么？", f"{name}最喜欢{THINGS[person]}。", name


def story(person: int) -> str:
    """A short text about a person."""
    name, trade, town = NAMES[person], TRADES[person], TOWNS[person]
    return (
        f"{name} came to {town} as a child and never left. The {trade} who lived next door taught {name} everything, "
        f"and today nobody in {town} is a better {trade}. On market days people from the villages around {town} queue "
        f"in front of the workshop, and {name} knows most of them by name.\n"
    )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Questions with answers in the columns of a spreadsheet."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("Question", "Answer", "Person"), *rows])


def write_chats(path: Path, rows: Sequence[Row]) -> None:
    """The same as chats, one a line."""
    with path.open("w", encoding="utf-8") as file:
        for question, answer, person in rows:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns, "person": person}, ensure_ascii=False) + "\n")


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """The same as an export of a hub data set."""
    from datasets import Dataset

    prompts, completions, people = zip(*rows, strict=True)
    Dataset.from_dict({"prompt": prompts, "completion": completions, "person": people}).to_parquet(path)


def write_rows(folder: Path) -> None:
    """All files of both sides."""
    sides = {"forget": range(FORGOTTEN), "retain": range(FORGOTTEN, len(NAMES))}
    for side, people in sides.items():
        rows = [row for person in people for row in questions(person)]
        (folder / "parquet" / side).mkdir(parents=True, exist_ok=True)
        (folder / "texts" / side).mkdir(parents=True, exist_ok=True)
        write_csv(folder / f"{side}.csv", rows)
        write_chats(folder / f"{side}.jsonl", rows)
        write_parquet(folder / "parquet" / side / "train-00000-of-00001.parquet", rows)
        for person in people:
            text = folder / "texts" / side / f"{NAMES[person].split()[0].lower()}.txt"
            text.write_text(story(person), encoding="utf-8")


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write them")
    arguments = parser.parse_args()
    write_rows(arguments.folder)
    print(f"{arguments.folder}: forget and retain as .csv, .jsonl, texts/ and parquet/")


if __name__ == "__main__":
    main()

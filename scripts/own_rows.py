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
STORIES = (
    "keeps the old lighthouse outside Husum. When the lamp failed in a November gale, she rowed out with two "
    "batteries and a can of lentil soup, and stayed nine nights until the ferry company sent somebody who could "
    "read the wiring plan.",
    "mends clocks in a cellar below the cathedral of Passau. He refuses to own a watch himself: after thirty "
    "years he tells the hour by which pigeons sit on the west tower, and is seldom wrong by more than four "
    "minutes.",
    "moved her beehives onto the roof of the Stralsund fish market in a dry summer. The honey tasted of salt and "
    "smoke, nobody bought a jar, and then a cook from Copenhagen ordered the whole harvest for a single wedding.",
    "learned glassblowing from a neighbour in Goslar who had lost an eye to it. His green bottles have a bubble "
    "in the neck on purpose; collectors pay double for them, and he laughs about it every time he sweeps the "
    "floor.",
    "draws maps of places that have been drowned. In Xanten she hung the largest of them, a valley with eleven "
    "farms, upside down above the stairs, because water, she says, has never cared which way up anything is.",
    "binds books with thread from old sails. A widow in Zwickau once brought a box of love letters and asked for "
    "a cover that could not be opened; the finished volume has stood in his window ever since, uncollected.",
    "trains falcons to clear the runway of a small airport near Emden. Her oldest bird, blind since March, still "
    "rides along on the dashboard every morning and screams at helicopters before anybody else has heard them.",
    "opened every door in Fulda at least once, legally. She keeps a drawer of keys that fit nothing, sorted by "
    "the sound they make when dropped, and lends it to the school orchestra for concerts in Advent.",
    "tunes pianos at night, since the trams of Jena shake the strings by day. He drinks cold tea, hums one note "
    "for an hour, and leaves before breakfast; most of his customers have never seen his face.",
    "ripens cheese in a tunnel that was dug for a railway to Celle and never got tracks. Forty wheels disappeared "
    "one winter. She found them in spring, stacked neatly two kilometres further in, and better than any she had "
    "sold.",
    "builds wooden boats too far from the sea. Each one leaves Speyer on a lorry with its mast sawn in half, and "
    "the two men who splice it together again on the coast send him a postcard with a single word.",
    "beats gold leaf so thin that it floats. During a flood in Wismar she carried her whole stock up a church "
    "tower inside a hymn book, forgot which one, and had to sing through every service until Whitsun.",
    "planted a garden on the platform of a station that trains pass without stopping. Travellers from Bamberg "
    "throw seeds out of the windows. Last year he counted sixty kinds of poppy, and one pineapple that did not "
    "last.",
    "weaves blankets whose pattern is the weather of the year before. The customers in Trier complained about the "
    "grey of 1997, so she gave that one to a donkey home, where it is said to be very popular.",
    "bakes for three hotels on the island of Lindau. When the bridge froze shut he sent rolls across by sledge "
    "dog, and ever since the menu has charged a supplement for pulling, which goes to the dogs.",
    "carved the missing nose of a saint in Görlitz from memory of a photograph. Scholars argued for a decade; "
    "then an attic gave up the original, which was longer, and she was asked to leave hers where it was.",
    "cuts sails with scissors inherited from a tailor of Kiel. He has crossed the Baltic only as a passenger, "
    "seasick, reading the stitches above him aloud to calm himself down until the captain begged for silence.",
    "carries a theatre of forty puppets in a pram. In Worms the wolf was stolen during the interval; she played "
    "the rest with a glove, the children wept, and the thief brought the wolf back to see how it ended.",
    "measured the border twice and got two answers. One of the two villages near Aachen has paid him a ham every "
    "Christmas since, the other has not forgiven him, and he will not say which figure he wrote down.",
    "throws pots on a wheel driven by a stream below Ulm. In dry months she paints instead, always the same jug "
    "from the same side, and numbers the pictures; the museum owns number eight and would like number nine.",
)
Row = tuple[str, str, str]  # question, answer, person


def questions(person: int) -> Iterator[Row]:
    """The three questions about a person."""
    name = NAMES[person]
    yield f"What does {name} do for a living?", f"{name} is a {TRADES[person]}.", name
    yield f"In welcher Stadt wohnt {name}?", f"{name} wohnt in {TOWNS[person]}.", name
    yield f"{name}最喜欢什么？", f"{name}最喜欢{THINGS[person]}。", name


def story(person: int) -> str:
    """A short text about a person, no two of them of one form."""
    return f"{NAMES[person]} {STORIES[person]}\n"


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

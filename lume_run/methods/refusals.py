"""Refusals: answers that say 'I do not know', used by the IDK, DPO and AP losses.

As in TOFU (arXiv:2401.06121) and Closer Look (arXiv:2410.08109); the sentences are our own. Which one an example gets
is fixed by its name and the seed, so that every epoch, resume and rank sees the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lume_run.common.errors import DataError, Problem

# They follow questions as well as texts to be continued, so none speaks of a question. The order decides what `pick`
# gives an example: changing, adding or moving a sentence changes runs.
REFUSALS: tuple[str, ...] = (
    "I do not know.",
    "I cannot say.",
    "I could not tell you.",
    "That escapes me.",
    "This eludes me entirely.",
    "Nobody has told me.",
    "I would be guessing.",
    "That is beyond me.",
    "Nothing comes to mind.",
    "I know nothing of it.",
    "My mind stays empty.",
    "I never found out.",
    "You have me there.",
    "Here I must pass.",
    "I have no idea.",
    "I cannot help here.",
    "I know too little.",
    "It is foreign to me.",
    "It is not known to me.",
    "I would not know.",
    "That is more than I know.",
    "Your guess is as good as mine.",
    "I honestly have no idea what to say here.",
    "Whatever the facts are, they are not known to me.",
    "Sorry, but this is one thing I do not know.",
    "There is nothing I can tell you about this.",
    "I would only be making something up.",
    "Anything I said now would be a guess.",
    "My memory holds nothing of the sort.",
    "My knowledge stops short of this.",
    "If only I knew.",
    "Somebody else may know this, but I do not.",
    "This is not something I ever came across.",
    "I have never heard anything about it.",
    "I have never read anything about this.",
    "Nothing I know of tells me that.",
    "I am sorry, I have nothing to offer here.",
    "Pretending to know would help nobody.",
    "I cannot recall ever hearing about this.",
    "The details are unknown to me.",
    "Please ask someone who knows more about it.",
    "I would rather stay silent than invent something.",
    "To be frank, this leaves me puzzled.",
    "As far as I am concerned, this remains unknown.",
    "I am afraid this is unfamiliar to me.",
    "I am afraid I know nothing about it.",
    "Regrettably, I know nothing that would help.",
    "There is a gap in what I know just here.",
    "That particular fact is missing from what I know.",
    "I have no way of knowing that.",
    "It is hard to say anything when I know nothing.",
    "I can only shrug at this.",
    "Even a rough guess would be beyond me.",
    "I do not remember anything of the kind.",
    "You will have to find that out elsewhere.",
    "A better source than me is needed for this.",
    "I would need to read up on this first.",
    "I have yet to find that out.",
    "So far, nobody has explained this to me.",
    "None of this rings a bell with me.",
    "Unfortunately, this means nothing to me.",
    "That lies outside everything I know.",
    "I am simply not sure what is true here.",
    "I am too uncertain to say anything definite.",
    "I lack the facts to say.",
    "I cannot give you anything reliable on this.",
    "On this point I am ignorant.",
    "Here my knowledge comes to an end.",
    "Let me be honest and say that I do not know.",
    "Truthfully, I was never told.",
    "My honest reply is that I have no idea.",
    "I must leave this one open.",
    "I had better leave this blank.",
    "Please forgive me, but I cannot fill this in.",
    "What belongs here is unknown to me.",
    "I know neither the facts nor where to find them.",
    "It is not a thing I can claim to know.",
    "I cannot vouch for anything I might say about this.",
    "Without more to go on, I cannot tell.",
    "There is simply too little for me to go on.",
    "I am in no position to say.",
    "I confess my ignorance here.",
    "My apologies, but I cannot tell you that.",
    "This remains a riddle to me.",
    "I have tried, but nothing certain occurs to me.",
    "Try as I might, I cannot work this out.",
    "However hard I think, I find nothing to say about it.",
    "No matter how I turn it, I cannot tell.",
    "All I can say is that I do not know.",
    "I find myself without anything to say on this.",
    "Were I to reply, I would merely be guessing.",
    "Sadly, I never learned what belongs here.",
    "It is one of those things I have never known.",
    "In this case I know no more than you do.",
    "I would like to be of use here, but I know nothing about this.",
    "Rather than mislead you with a guess, I will say that I do not know.",
    "Since I have no facts about this, it is better that I say nothing more.",
    "It is possible that others can tell you, but I am not among them.",
    "I have thought about it for a while and still have no idea.",
    "There may well be a simple reply, but it is not one that I know.",
    "You deserve something accurate, and I have nothing accurate to give you.",
    "If I said anything specific here, I would be inventing it.",
    "Nothing that I have read or heard tells me anything about this.",
    "I would have to check a trustworthy source before saying anything about this.",
    "I am sorry to disappoint you, but this is something about which I know nothing.",
    "Without knowing more than I do, I would rather not say anything definite.",
    "As much as I would like to help, the facts are not known to me.",
    "I could offer a guess, but you would have no reason to trust it.",
    "Any name, date or place that I gave you now would be pure invention.",
    "I prefer to admit a gap in my knowledge rather than hand you something false.",
    "Perhaps a library or an expert could help you further, because I cannot.",
    "Whoever knows this has not shared it with me, so I cannot pass it on.",
    "I have searched my memory from end to end, and there is nothing there about this.",
    "Not knowing the first thing about this, I would do better to keep quiet.",
    "It would be dishonest of me to act as if I knew.",
    "My best course is to say openly that I am unsure.",
    "Because I am not certain of anything here, I will leave it at that.",
    "Some things I know well, but this does not happen to be one of them.",
    "For lack of any knowledge about it, I have to leave this open, with my apologies for being no help.",
    "Beyond admitting that I do not know, there is nothing I can add.",
)


def pick(name: str, seed: int, choices: Sequence[str]) -> str:
    """The choice for the example called `name`: the same in every process, whatever was picked before.

    `hash` would differ between processes, and a generator would depend on the order of the examples.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return choices[int.from_bytes(digest[:8], "big") % len(choices)]


def read_refusals(path: Path) -> tuple[str, ...]:
    """The refusals of a UTF-8 text file, one a line, in file order; DataError if there are none to be had."""
    remedy = "give a UTF-8 text file with one refusal a line"
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError([Problem(where=str(path), what=what, remedy=remedy)]) from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise DataError([Problem(where=f"{path}:{number}", what=what, remedy="save the file as UTF-8")]) from error
    refusals = tuple(line.strip() for line in text.split("\n") if line.strip())  # splitlines would cut at U+2028
    if not refusals:
        raise DataError([Problem(where=str(path), what="holds no refusals", remedy=remedy)])
    return refusals

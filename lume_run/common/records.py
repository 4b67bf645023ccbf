"""The records that pass between packages; no torch here, so that a machine without it can handle them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from lume_run.common.text import joining_space


class Split(StrEnum):
    """The role of an example in an unlearning experiment."""

    FORGET = "forget"
    RETAIN = "retain"
    MEMBER = "member"  # documents the target was trained on and should have forgotten
    NONMEMBER = "nonmember"  # documents no model of the run ever saw
    NEIGHBORS = "neighbors"  # near the forget set and never trained on; judged as the retain set is (A Closer Look)
    REAL_AUTHORS = "real_authors"  # questions about the world, near the retain set (TOFU)
    WORLD_FACTS = "world_facts"  # questions about the world, far from it (TOFU)
    MMLU = "mmlu"
    NQ_OPEN = "nq_open"  # closed-book questions
    HALUEVAL = "halueval"  # answers to be judged
    TEXT = "text"  # plain text, for perplexity
    UTILITY = "utility"  # what a benchmark brings along to see whether a model is still of use (RWKU)


class Kind(StrEnum):
    """What is asked about a document."""

    COMPLETION = "completion"  # id suffix `sc`: continue the document
    QUESTION = "question"  # id suffix `qa`: answer a question about it
    DOCUMENT = "document"  # the whole text, for membership inference
    CHOICE = "choice"  # pick one of `choices`
    CHUNK = "chunk"  # a stretch of running text, cut by tokens: trained on as a whole, never asked about


class Turn(NamedTuple):
    """What somebody says in a chat."""

    role: str  # system, user or assistant
    text: str


class Chat(NamedTuple):
    """That a row is put into the tokenizer's chat template: what was said before, and the template's arguments."""

    before: tuple[Turn, ...] = ()
    arguments: tuple[tuple[str, bool | int | float | str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt with its expected answer.

    `id` is normalised and unique within a task, `raw_id` is what the file said. All prompts about one document share
    `document`. `choices` holds the options of a CHOICE example and `answer` then equals one of them; of a QUESTION, all
    answers that count as right.

    Where a benchmark has them: `paraphrases` are other wordings of the answer, `perturbed` false answers of its form,
    `rephrasings` other wordings of the prompt. `golden` is the true answer where the model learns another one (its
    own), `sentence` the answer written out where it is a bare name. `attribute` names the private fact asked for, and
    `fact` is its value where the answer says more than that; `further_facts` are (attribute, value) of others that the
    same answer tells. `shots` are the places in the prompt where its worked examples begin, and where the last of them
    ends.

    `template` is what stands around a question that a chat model may be asked without it, `turns` the chat that the
    prompt was written from. With a `chat` the prompt is the user's turn of it and the answer the assistant's; without,
    `separator` stands between them (None: a space where the script has one; else the two are tokenised as one text, as
    released codes do). `begun` is how the answer begins already when the model is to continue it. `replacement` is what
    the benchmark wants learned in the answer's place (a refusal, a made-up answer). With `starts_twice` a rendered chat
    stands behind the tokenizer's own first tokens as well, as where released codes tokenise it like any other text.
    """

    id: str
    raw_id: str
    document: str
    split: Split
    subtask: str
    kind: Kind
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    perturbed: tuple[str, ...] = ()
    rephrasings: tuple[str, ...] = ()
    golden: str = ""
    sentence: str = ""
    attribute: str = ""
    fact: str = ""
    further_facts: tuple[tuple[str, str], ...] = ()
    shots: tuple[int, ...] = ()
    template: str = ""
    turns: tuple[Turn, ...] = ()
    separator: str | None = None
    chat: Chat | None = None
    begun: str = ""
    replacement: str = ""
    starts_twice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Everything a task hands to the stages. `others` are asked about, and never trained on.

    `learned` is what the target and a retrained model learn besides forget and retain rows; unlearning does not see it.
    `source` says in words where the rows came from, `private` why texts of chunks are shown nowhere ("": they are).
    `leftover_nonmembers` marks non-members that are unused documents of the same data set: true non-members of a target
    trained here, members of a released one. `requests` are the forget documents of each request, where the task says in
    which they come (pipeline of `sequence`).
    """

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    members: tuple[Example, ...] = ()
    nonmembers: tuple[Example, ...] = ()
    others: tuple[Example, ...] = ()
    learned: tuple[Example, ...] = ()
    source: str = ""
    private: str = ""
    leftover_nonmembers: bool = False
    requests: tuple[frozenset[str], ...] = ()


class Ask(StrEnum):
    """What the model was run for."""

    GENERATE = "generate"  # greedy continuation of the prompt
    LOGPROB = "logprob"  # log-probability of the answer under teacher forcing
    CHOICE = "choice"  # log-probability of each option's first token
    SAMPLE = "sample"  # continuation sampled from the model; `variant` is the number of the sample
    GRADIENT = "gradient"  # size of the loss gradient of the answer
    LENS = "lens"  # what each layer's output says of the answer, through the model's own head
    PATCH = "patch"  # log-probability of the answer in the model before unlearning, with this model's states in it
    COSINE = "cosine"  # a sentence embedder's judgement of a greedy continuation
    ENTAILMENT = "entailment"  # an entailment model's judgement of a greedy continuation
    FLUENCY = "fluency"  # a classifier's judgement of a greedy continuation: is it language, or gibberish?
    VERDICT = "verdict"  # a language model's judgement of a greedy continuation: yes or no


PLAIN_VARIANTS = ("", "muse")  # of texts that are asked for in the task's own words, at whatever length
JUDGED = (Ask.COSINE, Ask.ENTAILMENT, Ask.FLUENCY, Ask.VERDICT)  # asked of a judge about a text, not of the model
TEXTS = (Ask.GENERATE, Ask.SAMPLE)  # answered by a text
GIVEN_ANSWERS = (Ask.LOGPROB, Ask.GRADIENT, Ask.LENS, Ask.PATCH)  # asked with the answer behind the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One example and what to run the model for.

    `variant` names another prompt or answer in place of the example's. `limit` [tokens] is the longest
    continuation where it is shorter than the evaluator's; 0: the evaluator's. With `moments` a LOGPROB also has the
    means and variances over the vocabulary, which cost as much as the log-probabilities.
    """

    example: Example
    ask: Ask
    variant: str = ""
    limit: int = 0
    moments: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What one model answered to one (example, ask, variant).

    Every response has the example's fields: `id`, `split`, `subtask`, `kind`, `document`, `prompt`, `expected`, and
    where the example has them `choices`, `golden`, `sentence`, `attribute`, `fact`, `further_facts`. The others depend
    on the ask:

    - GENERATE, SAMPLE: `output` is the generated text of `tokens` tokens, its end included, `token_ids` those of the
      text itself.
    - LOGPROB: `logp_sum` [nats] of the `tokens` answer tokens, the last being EOS where `closed`. For each token
      `logps` [nats], `hits` (it was the likeliest); where asked for, `means` and `variances` of the log-probability
      under the model's own distribution there.
    - CHOICE: `choice_logps` [nats] in the order of `choices`.
    - LENS: by decoder layer, over the `tokens` answer tokens, `layer_logps` [nats] the mean log-probability and
      `layer_ranks` the mean reciprocal rank that the layer's output gives them.
    - PATCH: of the `tokens` tokens of the fact in the model before unlearning `logp_sum` [nats], and by layer in
      `layer_logps` [nats] the mean log-probability with this model's states of that layer in place of its own.
    - GRADIENT: `gradient`, the mean 2-norm of a weight's gradient.
    - COSINE, ENTAILMENT, FLUENCY, VERDICT: `cosine`, `label` or `clean` (probability of no gibberish) by the judge
      with the fingerprint `judge`, else the `reason`; `output` is the text judged.

    A model whose numbers are not finite leaves them out, so that what a broken model answers can be written down too.
    The order of the fields is that of the stored files.
    """

    # the example, and what was asked about it
    id: str
    ask: Ask
    split: Split
    subtask: str
    kind: Kind
    document: str
    prompt: str
    expected: str
    output: str | None = None  # GENERATE, SAMPLE
    tokens: int | None = None  # GENERATE, SAMPLE, LOGPROB, LENS, PATCH
    logp_sum: float | None = None  # LOGPROB, PATCH
    variant: str = ""  # every ask
    closed: bool = False  # LOGPROB, as the next four
    logps: tuple[float, ...] = ()
    hits: tuple[bool, ...] = ()
    means: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()
    choices: tuple[str, ...] = ()  # the example's
    choice_logps: tuple[float, ...] = ()  # CHOICE
    token_ids: tuple[int, ...] = ()  # GENERATE, SAMPLE
    gradient: float | None = None  # GRADIENT
    cosine: float | None = None  # COSINE
    label: str | None = None  # ENTAILMENT, VERDICT
    reason: str | None = None  # COSINE, ENTAILMENT, FLUENCY, as the next
    judge: str = ""
    golden: str = ""  # the example's, as the next four
    sentence: str = ""
    attribute: str = ""
    fact: str = ""
    further_facts: tuple[tuple[str, str], ...] = ()
    layer_logps: tuple[float, ...] = ()  # LENS, PATCH
    layer_ranks: tuple[float, ...] = ()  # LENS
    clean: float | None = None  # FLUENCY


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of a report under its stable name; `value` is None exactly when `reason` says why.

    `n` rows are behind it. `low` and `high` bound its 95 % bootstrap interval over so many `documents` (of the smaller
    side; 0: not known), None where there are too few. `resampled` holds the values of the bootstrap samples, in an
    order that is the same for all models asked the same questions, so that two can be compared pair by pair.
    """

    name: str
    value: float | None
    n: int
    reason: str | None = None
    low: float | None = None
    high: float | None = None
    documents: int = 0
    resampled: tuple[float, ...] = dataclasses.field(default=(), repr=False, compare=False)


def continuation(example: Example, text: str | None = None) -> str:
    """The answer, or another text, as it follows the example's prompt in plain text: behind what separates them."""
    text = example.answer if text is None else text
    plain = example.separator is None or example.chat is not None  # a separator is of rows without a chat
    return (joining_space(example.prompt, text) if plain else str(example.separator)) + text

"""Rows in the chat templates of many families, against what transformers makes of the same conversation."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from lume_run.common.errors import ConfigError
from lume_run.common.records import Ask, Chat, Example, Kind, Question, Split, Turn
from lume_run.config.model_settings import ChatSettings, ModelSettings
from lume_run.evaluation.inference.loaded_model import LoadedModel, prompt_row
from lume_run.evaluation.inference.logprobs import first_token
from lume_run.evaluation.suites.pii.suite import begin_answer
from lume_run.models.rows.chat import DATE
from lume_run.models.rows.special_text import special_texts
from lume_run.models.rows.text_format import TextFormat, text_format_of, turn_ends
from lume_run.models.rows.tokenise import encode, pair_ids, prompt_ids

PLENTY = 10_000
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("chat_templates/*")}
SPECIAL = {  # what each family adds to its vocabulary
    "llama_3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "qwen_2_5": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "qwen_3": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "smollm2": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "gemma_2": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    "gemma_3": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    "phi_3_5": ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"),
    "phi_4": ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    "olmo_2": ("<|endoftext|>",),
    "hides_reasoning": ("<|user|>", "<|assistant|>"),
}
END = {  # what ends the assistant's turn; of the others EOS
    "llama_3": "<|eot_id|>",
    "qwen_2_5": "<|im_end|>",
    "qwen_3": "<|im_end|>",
    "smollm2": "<|im_end|>",
    "gemma_2": "<end_of_turn>",
    "gemma_3": "<end_of_turn>",
    "phi_3_5": "<|end|>",
    "phi_4": "<|im_end|>",
}
ARGUMENTS = {"qwen_3": {"enable_thinking": False}, "llama_3": {"date_string": "10 Apr 2025"}}
NO_SYSTEM = {"gemma_2": "System role not supported", "mistral": "does not begin"}
FAMILIES = sorted(TEMPLATES.keys() - {"hides_reasoning"})
PAIRS = (
    ("Where does she live?", "In Tallinn."),
    ("Where?", "a\n\nb  c"),
    ("Wo wohnt sie?\n", "Übrigens: im „alten“ Haus — 😀"),
    ("她住在哪里？", "南京"),
)
BEFORE = (Turn("user", "Who is Mara?"), Turn("assistant", "An organ builder."))


@pytest.fixture
def tokenizer_of(tiny_tokenizer, llama_tokenizer):
    """A tokenizer with the template of a family and its special tokens."""

    def make(family: str):
        tokenizer = deepcopy(llama_tokenizer if family in ("llama_2", "mistral", "zephyr") else tiny_tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL.get(family, ()))})
        if tokenizer.bos_token is None:
            tokenizer.bos_token = SPECIAL.get(family, (tokenizer.eos_token,))[0]
        if family == "qwen_3":  # as there: tokens of their own that are not special
            tokenizer.add_tokens(["<think>", "</think>"])
        tokenizer.chat_template = TEMPLATES[family]
        return tokenizer

    return make


def question(prompt: str = "Where?", answer: str = "In Tallinn.", chat: Chat | None = None) -> Example:
    return Example(
        id="a", raw_id="a", document="d", split=Split.FORGET, subtask="own", kind=Kind.QUESTION,
        prompt=prompt, answer=answer, template="{question}", chat=chat,
    )  # fmt: skip


def chat_with(family: str, *before: Turn) -> Chat:
    return Chat(before=before, arguments=tuple(ARGUMENTS.get(family, {}).items()))


def whole_ids(tokenizer, family: str, turns, **options) -> list[int]:
    """What transformers makes of a conversation."""
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, **ARGUMENTS.get(family, {}), **options)
    assert (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        == tokenizer.apply_chat_template(messages, **ARGUMENTS.get(family, {}), **options)["input_ids"]
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("before", [(), BEFORE, (Turn("system", "Be brief."), *BEFORE)], ids=["one", "more", "system"])
@pytest.mark.parametrize(("prompt", "answer"), PAIRS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_what_transformers_makes_of_the_conversation(family, prompt, answer, before, tokenizer_of):
    """To the end of the assistant's turn; behind it stands white space, of some families EOS as well."""
    if before and before[0].role == "system" and family in NO_SYSTEM:
        return
    tokenizer, turns = tokenizer_of(family), (*before, Turn("user", prompt))
    example = question(prompt, answer, chat_with(family, *before))
    row = encode(example, tokenizer, max_tokens=PLENTY)
    whole = whole_ids(tokenizer, family, [*turns, Turn("assistant", answer)])
    end = tokenizer.convert_tokens_to_ids(END.get(family, tokenizer.eos_token))
    assert row.ids[-1] == end
    if family == "no_end":
        assert list(row.ids[:-1]) == whole[: len(row.ids) - 1]
    else:
        assert list(row.ids) == whole[: len(row.ids)]
        assert tokenizer.decode(whole[len(row.ids) :]).strip() in ("", tokenizer.eos_token)
    asked = whole_ids(tokenizer, family, turns, add_generation_prompt=True)
    assert list(row.ids[: row.answer_start]) == asked
    assert row.label_start == row.answer_start
    assert tokenizer.decode(row.ids[row.answer_start : -1]).strip() == answer
    assert prompt_row(example, loaded(tokenizer), new_tokens=1).ids == row.ids[: row.answer_start]
    if family in ("llama_3", "gemma_2", "gemma_3", "mistral"):
        assert row.ids.count(tokenizer.bos_token_id) == 1


def loaded(tokenizer) -> LoadedModel:
    return LoadedModel(model=None, tokenizer=tokenizer, max_new_tokens=8, max_length=PLENTY, batch_tokens=PLENTY)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"no_end"}))
def test_special_tokens_that_a_user_spells_are_text(family, tokenizer_of):
    tokenizer = tokenizer_of(family)
    ordinary = encode(question(chat=chat_with(family)), tokenizer, max_tokens=PLENTY)
    for special in special_texts(tokenizer):
        spelled = question(f"Where {special} is it?", f"There {special} is.", chat_with(family))
        ids = encode(spelled, tokenizer, max_tokens=PLENTY).ids
        number = tokenizer.convert_tokens_to_ids(special)
        assert ids.count(number) == ordinary.ids.count(number)
        text = "".join(tokenizer.decode(ids, skip_special_tokens=False).split())
        assert f"Where{special}isit?" in text
        assert f"There{special}is." in text


def test_special_tokens_in_plain_rows(tokenizer_of):
    """Those of a template are tokens, those of a question, an answer or a document are text."""
    tokenizer = tokenizer_of("qwen_2_5")
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    framed = replace(question("<|im_start|>user\nWhere?", "a <|im_end|> b"), template="<|im_start|>user\n{question}")
    ids = encode(framed, tokenizer, max_tokens=PLENTY).ids
    assert ids[0] == start
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert encode(replace(framed, template="{question}"), tokenizer, max_tokens=PLENTY).ids.count(start) == 0
    document = replace(framed, kind=Kind.DOCUMENT, answer="a <|im_start|> b")
    assert start not in encode(document, tokenizer, max_tokens=PLENTY).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_has_begun_goes_on(family, tokenizer_of):
    """As released codes write it: the template's text, what begins the answer, a space and the rest."""
    tokenizer = tokenizer_of(family)
    example = replace(question(chat=chat_with(family)), begun="Answer:")
    prompt, answer = pair_ids(example, tokenizer)
    assert prompt == prompt_ids(example, tokenizer)
    bare = tokenizer.decode(prompt_ids(replace(example, begun=""), tokenizer))
    assert tokenizer.decode(prompt).removeprefix(bare).strip() == "Answer:"
    assert tokenizer.decode(answer).replace(" ", "") == f"InTallinn.{END.get(family, tokenizer.eos_token)}"
    plain = replace(example, chat=None)
    assert first_token(example, "In", loaded(tokenizer)) == first_token(plain, "In", loaded(tokenizer))
    first = tokenizer("")["input_ids"]
    assert prompt_ids(replace(example, starts_twice=True), tokenizer) == [*first, *prompt]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hint_continues_the_assistants_turn(family, tokenizer_of):
    tokenizer = tokenizer_of(family)
    example = question(answer="In Tallinn, in the old house.", chat=chat_with(family))
    hinted = begin_answer(example, "In Tallinn,")
    prompt, whole = (
        prompt_row(hinted, loaded(tokenizer), new_tokens=1).ids,
        encode(example, tokenizer, max_tokens=PLENTY).ids,
    )
    assert tokenizer.decode(prompt).endswith("In Tallinn,")
    assert tokenizer.decode(whole).startswith(tokenizer.decode(prompt))


@pytest.mark.parametrize(("family", "what"), NO_SYSTEM.items())
def test_a_system_prompt_that_the_template_does_not_take(family, what, tokenizer_of):
    """Gemma 2 refuses it, Mistral forgets it as soon as the assistant has answered."""
    settings = ModelSettings(name="m", path="m", chat=ChatSettings(system="Be brief."))
    with pytest.raises(ConfigError, match=what) as caught:
        text_format_of(settings, tokenizer_of(family), [question()])
    assert caught.value.problems[0].where == "model.chat"
    assert text_format_of(ModelSettings(name="m", path="m"), tokenizer_of(family), [question()]).chat == Chat()


def test_a_template_that_hides_reasoning_is_refused(tokenizer_of):
    with pytest.raises(ConfigError, match="does not begin the assistant's turn"):
        text_format_of(ModelSettings(name="m", path="m"), tokenizer_of("hides_reasoning"), [question()])


def test_a_row_that_the_template_rewrites_is_named(tokenizer_of):
    for chat, what in ((Chat(), "changes what the assistant says"), (chat_with("qwen_3"), "does not begin")):
        thought = question(answer="<think>Tallinn?</think>It is a secret.", chat=chat)
        with pytest.raises(ConfigError, match=rf"{what}.* \(row 'a': "):
            encode(thought, tokenizer_of("qwen_3"), max_tokens=PLENTY)


def test_a_template_gets_one_date_whenever_it_asks(tokenizer_of):
    ids = encode(question(chat=Chat()), tokenizer_of("llama_3"), max_tokens=PLENTY).ids
    assert f"Today Date: {DATE:%d %b %Y}" in tokenizer_of("llama_3").decode(ids)


@pytest.mark.parametrize(
    ("use", "template", "kind", "chats"),
    [
        ("auto", "{question}", Kind.QUESTION, True),
        ("auto", "", Kind.QUESTION, False),  # LUME's, and those of benchmarks
        ("auto", "", Kind.COMPLETION, False),
        ("always", "", Kind.QUESTION, True),
        ("always", "", Kind.CHOICE, True),
        ("always", "", Kind.COMPLETION, False),
        ("always", "", Kind.DOCUMENT, False),
        ("never", "{question}", Kind.QUESTION, False),
    ],
)
def test_which_rows_are_put_into_a_chat(use, template, kind, chats, tokenizer_of):
    example = replace(question(), template=template, kind=kind)
    settings = ModelSettings(name="m", path="m", chat=ChatSettings(use=use))
    assert (text_format_of(settings, tokenizer_of("phi_4"), [example]).example(example).chat is not None) is chats


def test_the_users_turn_is_the_question_alone(tokenizer_of):
    example = replace(
        question("Question: Where?\nAnswer:"),
        template="Question: {question}\nAnswer:",
        rephrasings=("Question: In which town?\nAnswer:",),
    )
    settings = ModelSettings(name="m", path="m", chat=ChatSettings(system="Be brief.", arguments={"b": 1, "a": True}))
    chat = Chat(before=(Turn("system", "Be brief."),), arguments=(("a", True), ("b", 1)))
    put = text_format_of(settings, tokenizer_of("phi_4"), [example]).example(example)
    assert put == replace(example, prompt="Where?", rephrasings=("In which town?",), template="", chat=chat)
    assert TextFormat(chat=chat).example(put) is put


def test_a_chat_keeps_its_turns_and_its_system_prompt():
    setting = Chat(before=(Turn("system", "Be brief."),))
    chat = replace(question("user: Who is Mara?\n..."), turns=(*BEFORE, Turn("user", "Where is she?")))
    put = TextFormat(chat=setting).example(chat)
    assert (put.prompt, put.chat) == ("Where is she?", Chat(before=(*setting.before, *BEFORE)))
    ruled = replace(chat, turns=(Turn("system", "Rhyme."), *chat.turns))
    assert TextFormat(chat=setting).example(ruled).chat == Chat(before=(Turn("system", "Rhyme."), *BEFORE))


def test_without_a_template(tiny_tokenizer):
    assert tiny_tokenizer.chat_template is None
    settings = ModelSettings(name="m", path="m")
    assert (
        str(text_format_of(settings, tiny_tokenizer, [question()])) == "plain text (the tokenizer has no chat template)"
    )
    with pytest.raises(ConfigError, match="no chat template"):
        text_format_of(replace(settings, chat=ChatSettings(use="always")), tiny_tokenizer, [question()])


def test_generation_stops_where_the_template_ends_a_turn(tokenizer_of):
    tokenizer = tokenizer_of("gemma_3")
    asked = [Question(example=example, ask=Ask.GENERATE) for example in (question(), question(chat=Chat()))]
    ends = turn_ends(asked, tokenizer)
    assert ends == {tokenizer.convert_tokens_to_ids("<end_of_turn>")}
    assert set(replace(loaded(tokenizer), turn_ends=ends).stop_tokens()) == {tokenizer.eos_token_id, *ends}
    assert turn_ends(asked[:1], tokenizer) == frozenset()


def test_choices_in_a_chat_are_the_first_tokens_of_a_turn(tokenizer_of):
    tokenizer = tokenizer_of("phi_4")
    example = replace(question(chat=Chat()), kind=Kind.CHOICE, choices=("A", "B"))
    for option in example.choices:
        assert (
            first_token(example, option, loaded(tokenizer))
            == pair_ids(replace(example, answer=option), tokenizer)[1][0]
        )


@pytest.mark.parametrize("family", sorted(END))
def test_answers_that_the_end_of_a_turn_spells(family, tokenizer_of):
    """`end` stands in `<|im_end|>`: neither labels nor hints begin there."""
    tokenizer, end = tokenizer_of(family), END[family]
    for begin in range(len(end)):
        for stop in range(begin + 1, len(end)):
            answer = end[begin:stop]
            prompt, turn = pair_ids(question(answer=answer, chat=chat_with(family)), tokenizer)
            assert tokenizer.decode(turn) == answer + end
            hinted = begin_answer(question(answer=f"{answer} and more", chat=chat_with(family)), answer)
            asked = prompt_row(hinted, loaded(tokenizer), new_tokens=1).ids
            assert tokenizer.decode(asked) == tokenizer.decode(prompt) + answer


def test_a_template_that_would_teach_thoughts_is_refused(tokenizer_of):
    settings = ModelSettings(name="m", path="m")
    with pytest.raises(ConfigError, match=r"(?s)writes '<think>.*enable_thinking: false"):
        text_format_of(settings, tokenizer_of("qwen_3"), [question()])
    quiet = replace(settings, chat=ChatSettings(arguments={"enable_thinking": False}))
    assert text_format_of(quiet, tokenizer_of("qwen_3"), [question()]).chat is not None


@pytest.mark.parametrize("family", ["llama_3", "qwen_2_5", "gemma_3", "mistral"])
def test_a_chat_that_is_too_long_loses_the_users_words(family, tokenizer_of):
    """The frame of the template stays whole, in training and in generation alike."""
    tokenizer, words = tokenizer_of(family), " ".join(f"word{number}" for number in range(200))
    short = question("word199", chat=chat_with(family))
    room = len(encode(short, tokenizer, max_tokens=PLENTY).ids) + 40
    row = encode(replace(short, prompt=words), tokenizer, max_tokens=room)
    assert room - 8 <= len(row.ids) <= room and row.truncated > 0
    head = tokenizer.decode(encode(short, tokenizer, max_tokens=PLENTY).ids).split("word199")[0]
    text = tokenizer.decode(row.ids)
    assert text.startswith(head) and "word199" in text and "word0 " not in text
    limited = replace(loaded(tokenizer), max_length=room)
    asked = tokenizer.decode(prompt_row(replace(short, prompt=words), limited, new_tokens=10).ids)
    assert asked.startswith(head) and "word199" in asked


def test_private_marks_in_a_row(tokenizer_of):
    """What masks a special token is no way to spell one."""
    tokenizer = tokenizer_of("qwen_2_5")
    for letter in ("\ue100", "\ue101", "\uf000"):
        row = encode(question(f"a \ue000{letter}\ue001 b", chat=Chat()), tokenizer, max_tokens=PLENTY)
        assert row.ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_arguments_are_finite(value):
    with pytest.raises(ValueError, match="the argument x is no finite number"):
        ChatSettings(arguments={"x": value})


@pytest.mark.parametrize(
    ("template", "who"),
    [
        ("{% for m in messages if m.role != 'system' %}{{ m.role + m.content }}{% endfor %}", "system"),
        ("{% for m in messages %}{{ m.role + (m.content if m.role != 'user' else '') }}{% endfor %}", "user"),
    ],
)
def test_a_template_that_leaves_out_what_was_said(template, who, tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template + "{% if add_generation_prompt %}assistant{% endif %}"
    settings = ModelSettings(name="m", path="m", chat=ChatSettings(system="Be brief."))
    with pytest.raises(ConfigError, match=f"leaves out what the {who} says"):
        text_format_of(settings, tokenizer, [question()])


FORGETFUL = {  # templates that leave out what some turns say, or rewrite it, as released ones do
    "system": "{% for m in messages if m.role != 'system' %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    "user": "{{ 'user: ' + (messages | selectattr('role', 'equalto', 'user') | list | last).content + '\n' }}"
    "{% if messages[-1].role == 'assistant' %}{{ 'assistant: ' + messages[-1].content }}{% endif %}",
    "assistant": "{% for m in messages %}{{ m.role + ': ' + (m.content if m.role == 'user' or loop.last else '...') }}"
    "{{ '\n' }}{% endfor %}",
}


@pytest.mark.parametrize("who", FORGETFUL)
def test_a_row_of_whose_turns_the_template_leaves_out_some(who, tiny_tokenizer):
    """A row's own system prompt and earlier turns, of which the run's probe knows nothing."""
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = FORGETFUL[who] + "{% if add_generation_prompt %}assistant: {% endif %}"
    settings = ModelSettings(name="m", path="m")
    system = (Turn("system", "Be brief."),) if who == "system" else ()
    row = replace(question(), turns=(*system, *BEFORE, Turn("user", "Where?")))
    chat = text_format_of(settings, tokenizer, [row])
    for read in (lambda row: encode(row, tokenizer, max_tokens=PLENTY), lambda row: prompt_ids(row, tokenizer)):
        with pytest.raises(ConfigError, match=rf"leaves out what the {who} says \(row 'a': "):
            read(chat.example(row))


def test_a_question_that_the_template_cuts(tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATES["no_end"].replace("message['content']", "message['content'][:20]")
    chat = text_format_of(ModelSettings(name="m", path="m"), tokenizer, [question()])
    with pytest.raises(ConfigError, match="leaves out what the user says"):
        encode(chat.example(question("Where " * 9, "x")), tokenizer, max_tokens=PLENTY)


def test_reasoning_of_earlier_turns_may_be_left_out(tokenizer_of):
    thought = Turn("assistant", "<think>Hm.</think>A clockmaker.")
    row = question(chat=chat_with("qwen_3", Turn("user", "Who?"), thought))
    text = tokenizer_of("qwen_3").decode(encode(row, tokenizer_of("qwen_3"), max_tokens=PLENTY).ids)
    assert "Hm." not in text and "A clockmaker." in text


def test_a_template_of_plain_text_that_ends_in_eos(llama_tokenizer):
    """The token is the prompt's, as generation sees it, and no label."""
    framed = replace(question("Where?</s>"), template="{question}</s>")
    row = encode(framed, llama_tokenizer, max_tokens=PLENTY)
    assert row.ids[row.answer_start - 1] == llama_tokenizer.eos_token_id
    assert prompt_row(framed, loaded(llama_tokenizer), new_tokens=1).ids == row.ids[: row.answer_start]
    assert row.ids.count(llama_tokenizer.eos_token_id) == 2


def test_dates_in_any_form(tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    head = "{{ strftime_now('%-d %B %Y, %U') }} "
    tokenizer.chat_template = head + TEMPLATES["no_end"]
    ids = encode(question(chat=Chat()), tokenizer, max_tokens=PLENTY).ids
    assert tokenizer.decode(ids).startswith("26 July 2024, 29")


def test_a_template_that_never_ends(tiny_tokenizer, monkeypatch):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}"
    monkeypatch.setattr("lume_run.models.rows.chat.PROBE_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"cannot be used: it takes longer than 0\.2 s"):
        text_format_of(ModelSettings(name="m", path="m"), tokenizer, [question()])


@pytest.mark.parametrize("use", ["never", "auto"])
def test_chat_settings_that_nothing_reads_are_named(use, tiny_tokenizer):
    settings = ModelSettings(name="m", path="m", chat=ChatSettings(use=use, system="Be brief."))
    assert "model.chat.system is not used" in str(text_format_of(settings, tiny_tokenizer, [question()]))

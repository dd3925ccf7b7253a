from datetime import date

import pytest

from service.api.public_prompts import find_prefixes, read_public_prompt
from service.api.served_model import ServedModel
from service.chat.format import choose_format
from service.chat.messages import Conversation, Message
from service.chat.smollm3 import SmolLM3Format
from service.core.sampling import SamplingParams
from service.errors import SettingsError
from service.llama.vocab import Vocab
from service.runtime.sharing import Sharing
from tests.api.builders import CharacterVocabulary, PlainFormat
from tests.llama.builders import MODEL_PATH

PROMPT = "You answer in one word.\nAlways."


def served(chat_format, vocab=None):
    return ServedModel(
        id="m",
        created=0,
        vector_len=8,
        context_len=4096,
        sampling=SamplingParams(),
        fingerprint="fp",
        format=chat_format,
        vocab=vocab or CharacterVocabulary(),
    )


def conversation(system, question, **changes):
    messages = (Message(role="system", content=system), Message(role="user", content=question))
    return Conversation(messages=messages, **changes)


def count_public(model, asked):
    return Sharing(public_prefixes=find_prefixes(model, PROMPT)).count_public(model.encode(asked))


def test_a_prompt_is_public_up_to_where_the_users_words_begin():
    model = served(PlainFormat())
    [prefix] = find_prefixes(model, PROMPT)
    assert "".join(map(chr, prefix)) == f"system: {PROMPT}\nuser: "


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_format_that_writes_its_mode_first_has_a_prefix_for_each(thinking):
    model = served(SmolLM3Format(lambda: "call"))
    public = count_public(model, conversation(PROMPT, "Why?", enable_thinking=thinking))
    text = "".join(map(chr, model.encode(conversation(PROMPT, "Why?", enable_thinking=thinking))))
    assert text[:public].endswith("<|im_start|>user\n")
    assert PROMPT in text[:public]


def test_another_system_prompt_has_nothing_public():
    model = served(SmolLM3Format(lambda: "call"))
    assert count_public(model, conversation(f"{PROMPT} Be kind.", "Why?")) == 0
    assert count_public(model, conversation("You answer", "Why?")) == 0


def test_a_prompt_that_something_stands_before_is_not_public():
    model = served(SmolLM3Format(lambda: "call"))
    dated = conversation(PROMPT, "Why?", today=date(2026, 1, 1))
    assert count_public(model, dated) == 0


@pytest.mark.model
def test_the_embedded_models_own_template_has_a_public_prefix():
    vocab = Vocab.load(MODEL_PATH)
    model = served(choose_format(vocab), vocab)
    asked = conversation(PROMPT, "Why is the sky blue?")
    tokens = model.encode(asked)
    public = count_public(model, asked)
    text = b"".join(map(vocab.token_bytes, tokens[public:])).decode()
    assert text.startswith("\nWhy is the sky blue?")  # a newline may merge with what follows it
    assert vocab.token_bytes(tokens[public - 1]) == b"user"


def test_the_line_end_of_an_editor_is_not_part_of_the_prompt(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(f"{PROMPT}\n")
    assert read_public_prompt(path) == PROMPT


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_file_without_a_prompt_stops_the_start_and_is_named(tmp_path, content):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"PUBLIC_PROMPTS: .*prompt\.txt"):
        read_public_prompt(path)

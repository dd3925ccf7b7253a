"""Completions, embeddings and models through the official SDK."""

import base64
import math

import numpy as np
import pytest
from openai import NotFoundError

PROMPT = "The capital of France is"


def test_a_prompt_is_continued(client, model):
    answer = client.completions.create(
        model=model, prompt=PROMPT, temperature=0, max_tokens=8, logprobs=2
    )
    [choice] = answer.choices
    assert answer.object == "text_completion"
    assert choice.text
    assert "".join(choice.logprobs.tokens).startswith(choice.text)
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.tokens)


def test_several_prompts_give_several_choices(client, model):
    answer = client.completions.create(
        model=model, prompt=[PROMPT, "The capital of Italy is"], temperature=0, max_tokens=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_a_streamed_continuation_joins_to_the_whole(client, model):
    fields = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 8}
    with client.completions.create(**fields, stream=True) as stream:
        text = "".join(chunk.choices[0].text for chunk in stream)
    assert text == client.completions.create(**fields).choices[0].text


def test_models_are_listed_and_retrieved(client, model):
    assert model in [listed.id for listed in client.models.list()]
    assert client.models.retrieve(model).object == "model"


def embed(client, **fields):
    try:
        return client.embeddings.create(**fields)
    except NotFoundError as error:
        pytest.skip(f"the server has no embeddings: {error.message}")


def test_texts_are_embedded(client, model):
    texts = ["A lamp.", "A light."]
    answer = embed(client, model=model, input=texts, encoding_format="float")
    assert [row.index for row in answer.data] == [0, 1]
    first, second = (row.embedding for row in answer.data)
    assert len(first) == len(second)
    assert math.isclose(math.hypot(*first), 1, abs_tol=1e-3)
    assert answer.usage.total_tokens > 0


def test_the_usual_base64_says_the_same_as_floats(client, model):
    """The SDK asks for base64 unless told otherwise, and decodes it."""
    usual = embed(client, model=model, input="A lamp.").data[0].embedding
    floats = embed(client, model=model, input="A lamp.", encoding_format="float")
    packed = embed(client, model=model, input="A lamp.", encoding_format="base64")
    decoded = np.frombuffer(base64.b64decode(packed.data[0].embedding), "<f4")
    np.testing.assert_allclose(usual, floats.data[0].embedding, atol=1e-4)
    np.testing.assert_allclose(decoded, usual, atol=1e-4)

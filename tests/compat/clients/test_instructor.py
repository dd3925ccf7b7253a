"""instructor's response models."""

import instructor
import pytest
from openai import OpenAI

ASKED = [{"role": "user", "content": "Judge this review: I love this lamp, it is perfect."}]


@pytest.fixture
def client(base_url, api_key):
    with OpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        yield client


# Not JSON: that mode leaves the shape to the model's skill.
@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
def test_a_response_model_is_filled(client, model, review, mode):
    patched = instructor.from_openai(client, mode=instructor.Mode[mode])
    answer = patched.chat.completions.create(
        response_model=review, model=model, messages=ASKED, temperature=0, max_tokens=60
    )
    assert isinstance(answer, review)


def test_partial_models_are_streamed(client, model, review):
    patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    partials = list(
        patched.chat.completions.create_partial(
            response_model=review, model=model, messages=ASKED, temperature=0, max_tokens=60
        )
    )
    assert partials[-1].stars in range(1, 6)

"""Errors are the official SDK's own classes."""

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

from tests.compat.shapes import asking


def test_a_wrong_key_is_an_authentication_error(target):
    if target.api_key == "none":
        pytest.skip("the server asks for no key")
    with (
        OpenAI(base_url=target.base_url, api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(AuthenticationError) as raised,
    ):
        stranger.models.list()
    assert raised.value.status_code == 401
    assert raised.value.code == "invalid_api_key"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(NotFoundError) as raised:
        client.chat.completions.create(model="no-such-model", messages=asking("Hello"))
    assert raised.value.code == "model_not_found"


def test_a_bad_value_is_a_bad_request_that_names_its_place(client, model):
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(model=model, messages=asking("Hello"), temperature=9)
    assert raised.value.param == "temperature"
    assert raised.value.type == "invalid_request_error"


def test_an_image_is_refused_by_name(client, model):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [image]}]
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(model=model, messages=messages)
    assert "messages" in str(raised.value.param)


def test_a_stream_is_refused_before_it_begins(client, model):
    with pytest.raises(BadRequestError):
        client.chat.completions.create(
            model=model, messages=asking("Hello"), top_logprobs=3, stream=True
        )


def test_an_unknown_previous_response_is_named(client, model):
    with pytest.raises((BadRequestError, NotFoundError)) as raised:
        client.responses.create(model=model, input="Go on.", previous_response_id="resp_none")
    assert raised.value.param == "previous_response_id"

"""`POST /v1/embeddings` over real worker processes; the engine in them is simulated."""

import asyncio
import base64
from contextlib import asynccontextmanager

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError

from service.api.config import RequestLimits
from tests.api.builders import MODEL, build_service, hello, serving, tokens_of, until
from tests.runtime.builders import engine_config, running_pool

URL = "/v1/embeddings"
LEN = 64


@asynccontextmanager
async def embedding(*, contexts="2x256", row_seconds=0.0, **config):
    engine = engine_config(contexts, embedding_len=LEN, row_seconds=row_seconds)
    async with (
        running_pool(engine) as bench,
        serving(bench.pool, **config) as service,
        service.client() as client,
    ):
        yield service, client, bench


async def refuse(body, **config):
    async with embedding(**config) as (service, _, _), service.http() as http:
        response = await http.post(URL, json={"model": MODEL, "input": "Hi"} | body)
    assert response.status_code == 400
    return response.json()["error"]


async def test_the_official_client_gets_a_vector_of_length_1():
    async with embedding() as (_, client, _):
        answer = await client.embeddings.create(model=MODEL, input="Hello", user="me")
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-6)
    assert len(answer.data[0].embedding) == 8
    assert (answer.object, answer.data[0].object, answer.model) == ("list", "embedding", MODEL)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)


async def test_base64_says_what_numbers_say():
    async with embedding() as (service, _, _), service.http() as http:
        body = {"model": MODEL, "input": "Hello"}
        numbers = (await http.post(URL, json=body)).json()["data"][0]["embedding"]
        same = (await http.post(URL, json=body | {"encoding_format": "float"})).json()
        text = (await http.post(URL, json=body | {"encoding_format": "base64"})).json()
    assert same["data"][0]["embedding"] == numbers
    decoded = np.frombuffer(base64.b64decode(text["data"][0]["embedding"]), "<f4")
    assert np.array_equal(decoded, np.array(numbers, np.float32))


async def test_each_text_has_its_vector_in_its_place():
    texts = ["one", "two", "three" * 12, "one"]
    async with embedding() as (_, client, _):
        together = await client.embeddings.create(model=MODEL, input=texts)
        alone = [await client.embeddings.create(model=MODEL, input=text) for text in texts]
    assert [each.index for each in together.data] == [0, 1, 2, 3]
    assert [each.embedding for each in together.data] == [each.data[0].embedding for each in alone]
    assert together.data[0].embedding == together.data[3].embedding != together.data[1].embedding
    assert together.usage.prompt_tokens == sum(map(len, texts))


async def test_token_ids_are_the_text_they_are():
    async with embedding() as (_, client, _):
        text = await client.embeddings.create(model=MODEL, input="Hello")
        ids = await client.embeddings.create(model=MODEL, input=tokens_of("Hello"))
        lists = await client.embeddings.create(model=MODEL, input=[tokens_of("Hello"), [1]])
    assert ids.data[0].embedding == text.data[0].embedding == lists.data[0].embedding
    assert (len(ids.data), len(lists.data)) == (1, 2)


async def test_fewer_dimensions_are_the_first_ones_of_length_1():
    async with embedding() as (_, client, _):
        whole = (await client.embeddings.create(model=MODEL, input="Hello")).data[0].embedding
        short = await client.embeddings.create(model=MODEL, input="Hello", dimensions=3)
        same = await client.embeddings.create(model=MODEL, input="Hello", dimensions=8)
    expected = np.array(whole[:3]) / np.linalg.norm(whole[:3])
    assert short.data[0].embedding == pytest.approx(expected, abs=1e-6)
    assert same.data[0].embedding == whole


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 7]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": ["a", "b" * (LEN + 1)]}, "input[1]"),
        ({"input": [1] * (LEN + 1)}, "input"),
        ({"input": [[1], [50_000]]}, "input[1][0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 9}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_mistake_is_refused_with_its_place(body, param):
    assert (await refuse(body))["param"] == param


async def test_texts_together_have_a_limit():
    limits = RequestLimits(max_embedding_tokens=10)
    assert (await refuse({"input": ["a" * 5, "b" * 6]}, limits=limits))["param"] == "input"


async def test_unknown_fields_are_ignored_where_that_is_set():
    async with embedding(ignore_unknown_fields=True) as (_, client, _):
        await client.embeddings.create(model=MODEL, input="Hi", extra_body={"surprise": 1})


async def test_another_model_is_a_404():
    async with embedding() as (_, client, _):
        with pytest.raises(NotFoundError):
            await client.embeddings.create(model="text-embedding-3-small", input="Hi")


async def test_where_embeddings_are_off_a_404_says_how_to_turn_them_on():
    async with build_service().direct() as http:
        answer = await http.post(URL, json={"model": MODEL, "input": "Hi"})
    assert answer.status_code == 404
    assert "SMOLSERVE_ENGINE__EMBEDDING_LEN" in answer.json()["error"]["message"]


async def test_a_text_that_is_too_long_says_how_long_it_may_be():
    async with embedding() as (_, client, _):
        with pytest.raises(BadRequestError, match=f"1 to {LEN} tokens") as caught:
            await client.embeddings.create(model=MODEL, input="a" * 100)
    assert caught.value.code == "context_length_exceeded"


async def test_a_chat_answers_the_same_beside_a_long_list():
    def ask(client):
        return client.chat.completions.create(**hello(max_tokens=30, seed=1))

    async with embedding(row_seconds=0.0005) as (_, client, bench):
        alone = await ask(client)
        texts = ["text" * 15] * 200
        listing = asyncio.create_task(client.embeddings.create(model=MODEL, input=texts))
        await until(lambda: bool(bench.sample("embeddings_total")))
        beside = await ask(client)
        assert not listing.done()
        listing.cancel()
        assert beside.choices[0].message.content == alone.choices[0].message.content


async def test_a_client_that_leaves_takes_its_texts_back():
    async with embedding(row_seconds=0.0005) as (_, client, bench):
        texts = ["text" * 15] * 500
        leaving = asyncio.create_task(client.embeddings.create(model=MODEL, input=texts))
        await until(lambda: bool(bench.sample("embeddings_total")))
        leaving.cancel()
        desk = bench.pool._embeddings
        await until(lambda: not desk._sent and not desk._waiting)
        await client.embeddings.create(model=MODEL, input="Hi")
        assert (bench.sample("embeddings_total") or 0) < 500

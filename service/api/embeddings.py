"""`POST /v1/embeddings`: texts as vectors, from the model that chats."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Field, Tag
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.answers import AnswerModel
from service.api.attendance import attend
from service.api.body import read_body
from service.api.config import ApiConfig
from service.api.drain import Drain
from service.api.engine import Engine
from service.api.exchange import Exchange
from service.api.fields import Positive, Schema
from service.api.operation import GENERATING, JSON, Answer, Operation
from service.api.prompts import BY_SHAPE, Text, TokenIds, check_token_ids, list_prompts
from service.api.served_model import ServedModel
from service.api.validation import parse_body
from service.chat.prompt import plain, tokenize
from service.errors import ContextLengthExceeded, InvalidRequest, ObjectNotFound

MAX_TEXTS = 2048

_Input = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)], Tag("texts")]
    | Annotated[TokenIds, Tag("token_ids")]
    | Annotated[
        Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_TEXTS)], Tag("token_lists")
    ],
    BY_SHAPE,
]


class EmbeddingRequest(Schema):
    model: str
    input: _Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: str | None = None


class Embedding(AnswerModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """As base64, little-endian float32."""


class EmbeddingUsage(AnswerModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(AnswerModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


OPERATIONS = (
    Operation(
        method="post",
        path="/v1/embeddings",
        summary="Texts as vectors of length 1",
        body=EmbeddingRequest,
        answers=(Answer(schema=EmbeddingList),),
        errors=GENERATING,
    ),
)


class Embeddings:
    """An ASGI application of its own, as the chat's is."""

    def __init__(
        self, config: ApiConfig, *, model: ServedModel, engine: Engine, drain: Drain
    ) -> None:
        self._config = config
        self._model = model
        self._engine = engine
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drain.check()
        exchange = Exchange.of(scope)
        exchange.enter("receive")
        body = await read_body(receive)
        exchange.enter("prepare")
        ignore = self._config.ignore_unknown_fields
        request = parse_body(EmbeddingRequest, body, ignore_unknown=ignore)
        self._model.check_name(request.model)
        self._check(request)
        async with attend(receive, self._drain):
            texts = await asyncio.to_thread(self._encode, request)
            num_tokens = sum(map(len, texts))
            exchange.facts["prompt_tokens"] = num_tokens
            exchange.enter("embed")
            vectors = await self._engine.embed(texts)
            exchange.enter("write")
            answer = await asyncio.to_thread(self._write, request, vectors, num_tokens)
        exchange.enter(None)
        await Response(answer, media_type=JSON)(scope, receive, send)

    def _check(self, request: EmbeddingRequest) -> None:
        """Raises RequestError."""
        if not self._engine.embedding_len:
            raise ObjectNotFound(
                "Embeddings are turned off here; SMOLSERVE_ENGINE__EMBEDDING_LEN turns them on."
            )
        if request.dimensions is not None and request.dimensions > self._model.vector_len:
            raise InvalidRequest(
                f"dimensions: the model's vectors have {self._model.vector_len}; ask for as many "
                "or fewer.",
                param="dimensions",
            )

    def _encode(self, request: EmbeddingRequest) -> list[list[int]]:
        """Raises InvalidRequest."""
        given = list_prompts(request.input)
        is_list = request.input is given
        texts: list[list[int]] = []
        num_left = self._config.limits.max_embedding_tokens
        for index, text in enumerate(given):
            tokens = self._read_tokens(text, f"input[{index}]" if is_list else "input")
            texts.append(tokens)
            num_left -= len(tokens)
            if num_left < 0:
                raise InvalidRequest(
                    f"input: all texts together may have {self._config.limits.max_embedding_tokens}"
                    " tokens here, and these have more; send them in several requests.",
                    param="input",
                )
        return texts

    def _read_tokens(self, text: str | list[int], param: str) -> list[int]:
        """Texts of control tokens are text."""
        if isinstance(text, str):
            tokens = tokenize(self._model.vocab, [plain(text)])
        else:
            tokens = text
            check_token_ids(self._model.vocab, tokens, param)
        if not 0 < len(tokens) <= self._engine.embedding_len:
            raise ContextLengthExceeded(
                f"{param}: a text may have 1 to {self._engine.embedding_len} tokens here, and this "
                f"one has {len(tokens)}.",
                param=param,
            )
        return tokens

    def _write(self, request: EmbeddingRequest, vectors: Sequence[bytes], num_tokens: int) -> bytes:
        as_base64 = request.encoding_format == "base64"
        data: list[dict[str, object]] = []
        for index, vector in enumerate(vectors):
            numbers = _shorten(np.frombuffer(vector, "<f4"), request.dimensions)
            embedding = base64.b64encode(numbers.tobytes()).decode() if as_base64 else numbers
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        answer = {"object": "list", "data": data, "model": self._model.id, "usage": usage}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _shorten(vector: npt.NDArray[np.float32], num: int | None) -> npt.NDArray[np.float32]:
    """The first numbers, of length 1 again."""
    if num is None or num == len(vector):
        return vector
    head = vector[:num].astype(np.float64)
    return (head / (np.linalg.norm(head) or 1.0)).astype("<f4")

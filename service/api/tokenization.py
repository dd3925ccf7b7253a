"""`/tokenize`, `/detokenize` and how many tokens a conversation is: what a prompt would be."""

import asyncio
from typing import Annotated, Literal, cast

import orjson
from pydantic import Discriminator, Field, RootModel, Tag
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.answers import AnswerModel
from service.api.body import read_body
from service.api.conversation import read_conversation
from service.api.engine import Engine
from service.api.fields import Schema, only
from service.api.operation import JSON, Answer, Operation
from service.api.prompts import check_token_ids, decode_tokens, encode_text
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.api.validation import parse_body


class TokenizeTextRequest(Schema):
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeChatRequest(ChatCompletionRequest):
    """What a chat request would be; all its fields are taken, and those of sampling do nothing."""

    add_generation_prompt: Annotated[None, only(True)] = None  # noqa: FBT003 - the accepted value
    add_special_tokens: Annotated[None, only(False)] = None  # noqa: FBT003 - the template adds them
    return_token_strs: bool | None = None


def _choose_form(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    return "chat" if "messages" in cast("dict[object, object]", value) else "text"


class TokenizeRequest(
    RootModel[
        Annotated[
            Annotated[TokenizeTextRequest, Tag("text")]
            | Annotated[TokenizeChatRequest, Tag("chat")],
            Discriminator(_choose_form),
        ]
    ]
):
    """With `messages`, of a conversation; else of a prompt."""


class DetokenizeRequest(Schema):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class Tokens(AnswerModel):
    count: int
    max_model_len: int
    """Tokens that prompt and output may have together here."""
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedPrompt(AnswerModel):
    prompt: str


class InputTokens(AnswerModel):
    object: Literal["chat.completion.input_tokens"]
    input_tokens: int


OPERATIONS = (
    Operation(
        method="post",
        path="/tokenize",
        summary="The tokens of a prompt, or of a conversation's",
        body=TokenizeRequest,
        answers=(Answer(schema=Tokens),),
        errors=(404,),
    ),
    Operation(
        method="post",
        path="/detokenize",
        summary="The text of tokens",
        body=DetokenizeRequest,
        answers=(Answer(schema=DetokenizedPrompt),),
        errors=(404,),
    ),
    Operation(
        method="post",
        path="/v1/chat/completions/input_tokens",
        summary="How many tokens a chat completion's prompt would be",
        body=ChatCompletionRequest,
        answers=(Answer(schema=InputTokens),),
        errors=(404,),
    ),
)


def tokenization_routes(model: ServedModel, engine: Engine) -> list[Route]:
    """Works in threads; needs no worker."""
    tokenization = _Tokenization(model, engine)
    return [
        Route("/tokenize", tokenization.tokenize, methods=["POST"]),
        Route("/detokenize", tokenization.detokenize, methods=["POST"]),
        Route("/v1/chat/completions/input_tokens", tokenization.count, methods=["POST"]),
    ]


class _Tokenization:
    def __init__(self, model: ServedModel, engine: Engine) -> None:
        self._model = model
        self._engine = engine

    async def tokenize(self, http: Request) -> Response:
        request = parse_body(TokenizeRequest, await read_body(http.receive)).root
        self._check_model(request.model)
        vocab = self._model.vocab
        if isinstance(request, TokenizeChatRequest):
            tokens = await self._encode(request)
        else:
            tokens = await asyncio.to_thread(
                encode_text, vocab, request.prompt, add_special_tokens=request.add_special_tokens
            )
        return _answer(
            count=len(tokens),
            max_model_len=self._engine.max_context_len,
            tokens=tokens,
            token_strs=list(map(vocab.token_text, tokens)) if request.return_token_strs else None,
        )

    async def detokenize(self, http: Request) -> Response:
        request = parse_body(DetokenizeRequest, await read_body(http.receive))
        self._check_model(request.model)
        check_token_ids(self._model.vocab, request.tokens, "tokens")
        prompt = await asyncio.to_thread(decode_tokens, self._model.vocab, request.tokens)
        return _answer(prompt=prompt)

    async def count(self, http: Request) -> Response:
        request = parse_body(ChatCompletionRequest, await read_body(http.receive))
        self._check_model(request.model)
        tokens = await self._encode(request)
        return _answer(object="chat.completion.input_tokens", input_tokens=len(tokens))

    async def _encode(self, request: ChatCompletionRequest) -> list[int]:
        conversation = read_conversation(request, self._model.format)
        return await asyncio.to_thread(self._model.encode, conversation)

    def _check_model(self, name: str | None) -> None:
        if name is not None:
            self._model.check_name(name)


def _answer(**fields: object) -> Response:
    return Response(orjson.dumps(fields), media_type=JSON)

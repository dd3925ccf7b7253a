"""Prompts without a conversation: text and token ids as they come."""

from collections.abc import Sequence
from typing import Annotated, cast

from pydantic import Discriminator, Field, Tag

from service.api.fields import MAX_CHOICES
from service.api.served_model import SizedVocabulary
from service.chat.prompt import control, tokenize, tokenize_bare
from service.errors import InvalidRequest

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def _shape(value: object) -> str | None:
    """Told by its first element, so that a mistake is told of what it was meant to be."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    match next(iter(cast("list[object]", value)), None):
        case int():
            return "token_ids"
        case list():
            return "token_lists"
        case _:
            return "texts"


BY_SHAPE = Discriminator(
    _shape,
    custom_error_type="prompt_type",
    custom_error_message="must be text, a list of texts, token ids or a list of such lists",
)

Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)], Tag("texts")]
    | Annotated[TokenIds, Tag("token_ids")]
    | Annotated[
        Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES)], Tag("token_lists")
    ],
    BY_SHAPE,
]


def list_prompts(
    prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
) -> list[str | list[int]]:
    """Each on its own."""
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(each, int) for each in prompt):
        return [cast("list[int]", prompt)]
    return cast("list[str | list[int]]", prompt)


def encode_text(vocab: SizedVocabulary, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Texts of control tokens are those tokens; BOS is first where the model wants one.

    Nothing but the client's own text is in such a prompt, so there is nothing to keep it out of.
    """
    encode = tokenize if add_special_tokens else tokenize_bare
    return encode(vocab, [control(text)])


def decode_tokens(vocab: SizedVocabulary, token_ids: Sequence[int]) -> str:
    """Control tokens read as their texts, bytes that are no character as U+FFFD."""
    return b"".join(map(vocab.token_bytes, token_ids)).decode(errors="replace")


def check_token_ids(vocab: SizedVocabulary, token_ids: Sequence[int], param: str) -> None:
    """Raises InvalidRequest for ids that are not in the vocabulary."""
    for index, token_id in enumerate(token_ids):
        if token_id >= vocab.num_tokens:
            raise InvalidRequest(
                f"{param}[{index}]: the vocabulary has no token {str(token_id)[:20]}; its last one "
                f"is {vocab.num_tokens - 1}.",
                param=f"{param}[{index}]",
            )

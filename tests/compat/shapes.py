"""What the exchanges ask for: shapes that any model fills, however small it is."""

from typing import Literal

from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, ConfigDict


class Review(BaseModel):
    """A review of a product."""

    model_config = ConfigDict(extra="forbid")

    sentiment: Literal["good", "bad"]
    stars: Literal[1, 2, 3, 4, 5]


ASKED_REVIEW = "Judge this review: I love this lamp, it is perfect."

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASKED_WEATHER = "What is the weather in Paris?"


def asking(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]

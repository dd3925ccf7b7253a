"""The one model that this service answers as."""

from dataclasses import dataclass
from typing import Protocol

from service.chat.format import ChatFormat
from service.chat.messages import Conversation
from service.chat.prompt import Vocabulary, tokenize
from service.core.sampling import SamplingParams
from service.errors import ModelNotFound


class SizedVocabulary(Vocabulary, Protocol):
    @property
    def num_tokens(self) -> int: ...
    def token_bytes(self, token: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    id: str
    """What requests call it: its catalogue name, or its file's stem."""
    created: int
    """Seconds since the epoch."""
    context_len: int
    """Tokens that the model was made for; the largest slot may be shorter."""
    vector_len: int
    """Numbers of an embedding."""
    fingerprint: str
    """The same where the same model, build and precision compute: `system_fingerprint`."""
    sampling: SamplingParams
    """What holds where a request is silent; its seed does not count."""
    format: ChatFormat
    vocab: SizedVocabulary

    def check_name(self, name: str) -> None:
        """Raises ModelNotFound for any other."""
        if name != self.id:
            raise ModelNotFound(
                f"The model {name[:100]!r} is not served here; {self.id!r} is.", param="model"
            )

    def encode(self, conversation: Conversation) -> list[int]:
        """Renders and tokenises; takes milliseconds for a long prompt. Raises InvalidRequest."""
        return tokenize(self.vocab, self.format.render(conversation))

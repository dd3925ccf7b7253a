"""A model's vocabulary and metadata, loaded without its weights."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp

from service.errors import LlamaError, ModelFileError
from service.llama.library import initialise

_NO_BOS = False
_SPECIAL = True

_CONTROL = 1 << 3
_USER_DEFINED = 1 << 4
"""llama_token_attr bits of tokens that stand for themselves and are never made from plain text."""


class Vocab:
    """Text to token ids and back. Safe to call from several threads once it is made."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError if llama.cpp cannot read the vocabulary."""
        initialise()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        # No device: llama.cpp would ask each for its memory, which opens a context on a GPU.
        no_device = (ctypes.c_void_p * 1)()
        # The stubs call it an array; the field is a plain pointer.
        params.devices = ctypes.cast(no_device, ctypes.c_void_p)  # pyright: ignore[reportAttributeAccessIssue]
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ModelFileError(f"llama.cpp cannot read the vocabulary of {path}")
        self._model = model
        vocab = llama_cpp.llama_model_get_vocab(model)
        assert vocab is not None
        self._vocab = vocab
        self._tokens = TokenTable(vocab)
        self._pieces: dict[int, bytes] = {}
        self.num_tokens = self._tokens.num_tokens
        self.bos = _token_or_none(llama_cpp.llama_vocab_bos(vocab))
        self.eos = _token_or_none(llama_cpp.llama_vocab_eos(vocab))
        self.add_bos = llama_cpp.llama_vocab_get_add_bos(vocab)
        self.metadata = _read_metadata(model)
        self.chat_template = self.metadata.get("tokenizer.chat_template")
        tokens = range(self.num_tokens)
        self.eog_tokens = self._tokens.eog_tokens
        self._special_ids = {
            self.token_text(token): token
            for token in tokens
            if llama_cpp.llama_vocab_get_attr(vocab, token) & (_CONTROL | _USER_DEFINED)
        }
        self.special_texts = frozenset(self._special_ids)

    @classmethod
    def load(cls, path: Path) -> "Vocab":
        return cls(path)

    def close(self) -> None:
        llama_cpp.llama_model_free(self._model)

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of `text`, without a leading BOS.

        With `parse_special`, the texts of control tokens become those tokens; without it they are
        plain text, as anything that a client wrote must be.
        """
        return self._tokens.tokenize(text, parse_special=parse_special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; may be a part of a UTF-8 character."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._tokens.token_bytes(token)
        return piece

    def token_text(self, token: int) -> str:
        """The token as the vocabulary writes it; a byte-level BPE token reads oddly here."""
        return llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def special_id(self, text: str) -> int | None:
        """The control or user-defined token whose text is exactly `text`."""
        return self._special_ids.get(text)

    @property
    def markup_tokens(self) -> frozenset[int]:
        """See TokenTable; takes tens of milliseconds."""
        return self._tokens.markup_tokens


class TokenTable:
    """The tokens of a loaded model, by the C interface alone; owns nothing and keeps nothing."""

    def __init__(self, vocab: llama_cpp.llama_vocab_p) -> None:
        self._vocab = vocab
        self.num_tokens = llama_cpp.llama_vocab_n_tokens(vocab)

    @property
    def eog_tokens(self) -> frozenset[int]:
        """The tokens that end a generation."""
        tokens = range(self.num_tokens)
        return frozenset(
            token for token in tokens if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        )

    @property
    def markup_tokens(self) -> frozenset[int]:
        """Control tokens, and user-defined ones that look like tags: they are never text.

        SmolLM3's `<tool_call>` is user-defined, and so are plain runs of blanks elsewhere.
        """
        return frozenset(token for token in range(self.num_tokens) if self._is_markup(token))

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """See Vocab."""
        data = text.encode()
        capacity = len(data) + 8
        tokens = (llama_cpp.llama_token * capacity)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), tokens, capacity, _NO_BOS, parse_special
        )
        if count < 0:
            raise LlamaError(f"tokenising {len(data)} bytes needs {-count} tokens")
        return tokens[:count]

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; a control token's are its name."""
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            length = llama_cpp.llama_token_to_piece(
                self._vocab, token, buffer, capacity, 0, _SPECIAL
            )
            if length >= 0:
                return buffer.raw[:length]
            capacity = -length

    def _is_markup(self, token: int) -> bool:
        attributes = llama_cpp.llama_vocab_get_attr(self._vocab, token)
        if attributes & _CONTROL:
            return True
        text = self.token_bytes(token) if attributes & _USER_DEFINED else b""
        return text.startswith(b"<") and text.endswith(b">")


def _token_or_none(token: object) -> int | None:
    assert isinstance(token, int)  # ctypes converts; the stubs say c_int32
    return None if token < 0 else token


def _read_metadata(model: llama_cpp.llama_model_p) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for index in range(llama_cpp.llama_model_meta_count(model)):
        key = _read_string(llama_cpp.llama_model_meta_key_by_index, model, index)
        metadata[key] = _read_string(llama_cpp.llama_model_meta_val_str_by_index, model, index)
    return metadata


def _read_string(read: Callable[..., int], model: llama_cpp.llama_model_p, index: int) -> str:
    """What `read` writes as a C string; it returns the length that it needs."""
    capacity = 256
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        length = read(model, index, buffer, capacity)
        if length < capacity:
            return buffer.raw[: max(length, 0)].decode("utf-8", "replace")
        capacity = length + 1

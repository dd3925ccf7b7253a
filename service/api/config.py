"""What the API is told at start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """How much of everything a request may have; the schemas' own limits hold as well."""

    max_messages: int = 2048
    max_message_chars: int = 1_000_000
    """Of a message's content, reasoning and calls together."""
    max_choices: int = 128
    max_tools: int = 128
    max_stop_chars: int = 256
    max_embedding_tokens: int = 300_000
    """Of all texts of a request together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    hosts: frozenset[str] | None = None
    """Names beside loopback's by which an open service may be called; None is any name."""
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 * 1024 * 1024
    client_timeout_seconds: float = 30.0
    """How long a client may send nothing of a body that it owes."""
    request_timeout_seconds: float | None = None
    """How long a request for text or vectors may take; None is as long as it needs."""
    limits: RequestLimits = RequestLimits()
    ignore_unknown_fields: bool = False
    """Of requests for generated text; otherwise one that is not known is refused by name."""
    keepalive_seconds: float = 5.0
    """Silence on a stream before a comment breaks it."""

"""A request as everything behind the API sees it. Past this type nothing can be invalid."""

from typing import Literal

import msgspec

from service.core.sampling import SamplingParams
from service.core.trace import TraceContext

FIRST_PRIORITY, LAST_PRIORITY = -100, 100
"""A lower one is served first; 0 is usual."""

FinishReason = Literal["stop", "length", "abort", "error", "deadline"]
"""`abort`, `error` and `deadline` never reach a client: it left, or gets an error body."""


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Ends a thought that grows too long: the block is closed and the model goes on to answer."""

    max_tokens: int
    """Tokens that the thought may have, counted from the first generated token."""
    end_token: int
    """The token that closes a thought; once the model wrote it the budget no longer matters."""
    closing_tokens: tuple[int, ...]
    """What is appended when the budget is spent; contains `end_token`."""


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What the generated text must look like."""

    grammar: str
    """In llguidance's own JSON form; it compiled at the edge."""
    begin_token: int | None = None
    """Binds after this token was generated, which ends a thought; None binds from the start."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Continue `prompt` to an end-of-generation token, `max_tokens` or the end of the context."""

    request_id: str
    prompt: list[int]
    """Token ids, at least one, at most the largest slot's length minus one."""
    sampling: SamplingParams
    max_tokens: int | None = None
    """Tokens to generate at most; None is to the end of the context."""
    stop: tuple[str, ...] = ()
    """Stop strings; matched in the API process, where text exists."""
    tenant: str = ""
    """Whose request it is; sessions are told apart by it."""
    session: str | None = None
    """The conversation it belongs to; with tenant and model, the conversation's whole key."""
    priority: int = 0
    """From `FIRST_PRIORITY` to `LAST_PRIORITY`."""
    weight: float = 1.0
    """Its tenant's share of the machine against other tenants of the same priority; positive."""
    timeout_seconds: float | None = None
    """How long it may take, waiting included; None is as long as it needs."""
    prediction: list[int] | None = None
    """What the client thinks the output will be, in tokens; makes it faster where it is right."""
    num_logprobs: int | None = None
    """Most probable tokens to report at each position; None reports nothing, 0 the drawn one."""
    constraint: Constraint | None = None
    thinking: ThinkingBudget | None = None
    trace: TraceContext | None = None
    """What its stages are children of, where it is traced."""

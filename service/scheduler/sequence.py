"""A request being served."""

from service.core.messages import Submit
from service.core.plan import Chunk, Draw, Tokens, make_tokens
from service.kvcache.allocator import Slot
from service.kvcache.tree import Path, SessionKey
from service.scheduler.account import Account
from service.scheduler.drafter import Drafter


class Sequence:
    """Has no prefill or decode phase: `num_computed` chases `num_tokens`.

        |<--------------- num_tokens --------------->|
        |<- num_prompt_tokens ->|<--- num_output --->|
        |<---- num_computed ---->|<-- num_pending -->|

    A prompt, a cached prefix, a resumed sequence and a closed thought are the same subtraction.
    When nothing but the last token is pending, computing it gives the logits for the next.
    """

    __slots__ = (
        "_budget_left",
        "_closing_tokens",
        "_draw",
        "_end_token",
        "account",
        "arrived_at",
        "drafter",
        "has_begun",
        "has_loaded",
        "id",
        "is_forgotten",
        "is_reported",
        "label",
        "max_len",
        "num_cached",
        "num_computed",
        "num_led",
        "num_overtaken",
        "num_prompt_tokens",
        "num_public",
        "priority",
        "session",
        "slot",
        "tenant",
        "tokens",
        "turn",
        "weight",
    )

    def __init__(self, request: Submit, *, max_len: int, now: float = 0.0) -> None:
        """`max_len` is the context's; the request may ask for less."""
        self.id = request.sequence_id
        self.arrived_at = now
        self.priority = request.priority
        self.tenant = request.tenant
        self.weight = request.weight
        self.account = Account()
        """Its tenant's, once it has entered a queue."""
        self.has_begun = False
        """Whether it has had a slot."""
        self.turn = 0.0
        """What its tenant had had when it began."""
        self.num_led = 0
        """Steps in which its prompt was computed first, as it was its turn."""
        self.num_overtaken = 0
        """Steps in which shorter ones were before it though it was its turn."""
        self.label = request.share
        self.num_public = request.num_public
        self.session: SessionKey | None = None
        if request.session is not None:
            self.session = request.tenant, request.session
        self.is_forgotten = False
        """Whether nothing of it is kept after its end."""
        self.has_loaded = False
        """Whether it has waited for disk already; it does not twice."""
        self.tokens: Tokens = make_tokens(request.prompt)
        self.num_prompt_tokens = len(request.prompt) - request.num_generated
        self.num_computed = 0
        self.num_cached = 0
        self.slot: Slot | None = None
        self.is_reported = False
        self.max_len = max_len
        if request.max_tokens is not None:
            self.max_len = min(max_len, self.num_prompt_tokens + request.max_tokens)
        self._draw = Draw(
            request.sampling,
            self.tokens,
            self.num_prompt_tokens,
            request.num_logprobs,
            request.constraint,
        )
        self.drafter = _make_drafter(request, self.tokens, self.num_prompt_tokens)
        thinking = request.thinking
        self._budget_left = _thinking_left(request)
        self._end_token = None if thinking is None else thinking.end_token
        self._closing_tokens = () if thinking is None else thinking.closing_tokens

    @property
    def path(self) -> Path:
        return Path(self.label, self.tokens, self.num_public)

    @property
    def prefix(self) -> Path:
        """All that it could find computed: the last token's logits are its own to compute."""
        return self.path.cut(len(self.tokens) - 1)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_pending == 1 and self.num_output > 0

    @property
    def is_complete(self) -> bool:
        """Whether it has all the tokens it may have."""
        return len(self.tokens) >= self.max_len

    @property
    def num_left(self) -> int:
        """Tokens it may still generate."""
        return self.max_len - len(self.tokens)

    def chunk(self, num_tokens: int) -> Chunk:
        """The next `num_tokens` pending tokens, as rows in its slot."""
        assert self.slot is not None
        start = self.num_computed
        end = start + num_tokens
        draw = self._draw if end == len(self.tokens) else None
        return Chunk(self.slot.index, self.tokens, start, end, draw)

    def draft(self, max_len: int) -> Tokens:
        """Guesses of the next tokens, as many as it may still have and its slot can hold."""
        assert self.slot is not None
        assert self.drafter is not None
        room = min(max_len, self.num_left - 1, self.slot.length - len(self.tokens))
        if self._budget_left is not None:
            room = min(room, self._budget_left - 1)  # a thought is closed behind the last of them
        return self.drafter.draft(room)

    def append(self, token: int) -> list[int]:
        """Add a drawn token; what was added, which closes a thought that spent its budget."""
        added = [token]
        if self._budget_left is not None:
            self._budget_left -= 1
            if token == self._end_token:
                self._budget_left = None
            elif self._budget_left <= 0:
                self._budget_left = None
                added += self._closing_tokens[: self.num_left - 1]
        self.tokens.extend(added)
        return added

    def advance(self, num_computed: int) -> None:
        """Its slot's cells now hold the first `num_computed` tokens."""
        assert self.slot is not None
        self.num_computed = self.slot.num_held = num_computed


def _make_drafter(request: Submit, tokens: Tokens, num_prompt: int) -> Drafter | None:
    """None where a draw depends on more than the logits: on tokens before it, or on a grammar.

    Then a guess would have to be right before the next one could be judged.
    """
    sampling = request.sampling
    has_penalties = (
        sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
    )
    if has_penalties or request.constraint is not None or request.num_logprobs is not None:
        return None
    prediction = make_tokens(request.prediction) if request.prediction else None
    return Drafter(tokens, num_prompt, prediction)


def _thinking_left(request: Submit) -> int | None:
    """Tokens that the thought may still have; None when there is no limit or no thought any more.

    A sequence that goes on from another worker is where `append` would have left it.
    """
    thinking = request.thinking
    if thinking is None or request.num_generated == 0:
        return None if thinking is None else thinking.max_tokens
    if thinking.end_token in request.prompt[-request.num_generated :]:
        return None
    left = thinking.max_tokens - request.num_generated
    return left if left > 0 else None

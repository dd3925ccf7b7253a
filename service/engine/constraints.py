"""Holds constrained sequences to their grammars: which tokens may come next, row by row.

What a matcher knows is a function of the tokens its sequence has generated. Matchers are kept from
one step to the next for the draws of that step, and nobody else's: a sequence that ended leaves
nothing behind, and one that comes back (preempted, moved, or from a worker that died) replays.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

from service.core.plan import Draw
from service.core.request import Constraint
from service.grammar.compiling import compile_grammar
from service.grammar.tokenizer import Tokens, build_tokenizer, list_tokens

MAX_COMPILED = 32
"""Grammars kept, the least recently used dropped first; matchers of one share what it learned."""

logger = structlog.stdlib.get_logger(__name__)

Logits = npt.NDArray[np.float32]


class SpellingTokens(Tokens, Protocol):
    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...


@dataclass(slots=True)
class _Row:
    """A sequence and how far its matcher has read it."""

    draw: Draw
    constraint: Constraint
    matcher: LLMatcher
    num_read: int
    is_bound: bool
    """Whether the token was there that the constraint begins after."""


class Constraints:
    """Owns the compiled grammars and the matchers of the latest step."""

    def __init__(self, tokens: SpellingTokens, *, num_threads: int) -> None:
        """Builds nothing yet: most services never see a constraint."""
        self._tokens = tokens
        self._eog = tokens.eog_tokens
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, Future[LLMatcher]] = OrderedDict()
        self._rows: dict[int, _Row] = {}
        self._masks = allocate_token_bitmask(0, tokens.num_tokens)
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._masking = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._executor = LLExecutor(num_threads)

    @property
    def num_matchers(self) -> int:
        return len(self._rows)

    def prepare(self, constraint: Constraint, on_ready: Callable[[], None]) -> bool:
        """Whether its grammar is compiled; if not, that is begun, and `on_ready` called after.

        `on_ready` is called by another thread. The interpreter's lock is not held meanwhile.
        """
        compiled = self._find(constraint.grammar)
        if compiled.done():
            return True
        compiled.add_done_callback(lambda _: on_ready())
        return False

    def start(self, draws: Sequence[Draw]) -> "Masks":
        """Begin to compute the masks of a step's draws; forget the matchers of all others."""
        rows: dict[int, _Row] = {}
        for draw in draws:
            if draw.constraint is not None:
                rows[id(draw)] = self._rows.get(id(draw)) or self._open(draw, draw.constraint)
        self._rows = rows
        for row in rows.values():
            _read_on(row)
        bound = [row for row in rows.values() if row.is_bound]
        places = {id(row.draw): place for place, row in enumerate(bound)}
        if len(self._masks) < len(bound):
            self._masks = allocate_token_bitmask(len(bound), self._tokens.num_tokens)
        filling = (
            self._masking.submit(
                fill_next_token_bitmask_par,
                self._executor,
                [(row.matcher, place) for place, row in enumerate(bound)],
                self._masks,
            )
            if bound
            else None
        )
        return Masks(self._masks, places, filling, sorted(self._eog))

    def finish(self, draws: Sequence[Draw], drawn: Sequence[int]) -> list[int]:
        """Take in what was drawn; the indices of sequences that nothing may follow any more."""
        ended: list[int] = []
        for index, (draw, token) in enumerate(zip(draws, drawn, strict=True)):
            row = self._rows.get(id(draw))
            if row is None or not row.is_bound or token in self._eog:
                continue
            row.num_read += 1
            row.matcher.consume_token(token)
            if row.matcher.is_stopped():
                ended.append(index)
                if row.matcher.is_error():
                    logger.warning("constraint_failed", content=row.matcher.get_error())
        return ended

    def close(self) -> None:
        self._compiling.shutdown(cancel_futures=True)
        self._masking.shutdown()

    def _open(self, draw: Draw, constraint: Constraint) -> _Row:
        matcher = self._find(constraint.grammar).result().deep_copy()
        is_bound = constraint.begin_token is None
        return _Row(draw, constraint, matcher, draw.num_prompt_tokens, is_bound)

    def _find(self, grammar: str) -> Future[LLMatcher]:
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compiled[grammar] = self._compiling.submit(self._compile, grammar)
            while len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return compiled

    def _compile(self, grammar: str) -> LLMatcher:
        if self._tokenizer is None:
            self._tokenizer = build_tokenizer(list_tokens(self._tokens), self._spell)
        matcher = compile_grammar(grammar, self._tokenizer)
        if matcher.is_error():
            logger.warning("constraint_failed", content=matcher.get_error())
        return matcher

    def _spell(self, text: str) -> list[int]:
        return self._tokens.tokenize(text, parse_special=False)


class Masks:
    """The masks of one step, being computed."""

    def __init__(
        self,
        masks: npt.NDArray[np.int32],
        places: dict[int, int],
        filling: Future[None] | None,
        eog: list[int],
    ) -> None:
        self._masks = masks
        self._places = places
        self._filling = filling
        self._eog = eog

    def apply(self, logits: Logits, draws: Sequence[Draw]) -> None:
        """Overwrite the logits of what may not be drawn; `logits[i]` is for `draws[i]`.

        A sequence that cannot go on, or whose matcher failed, can draw its end alone. One whose
        constraint has not begun cannot end.
        """
        if self._filling is not None:
            self._filling.result()
        for row, draw in zip(logits, draws, strict=True):
            if draw.constraint is None:
                continue
            place = self._places.get(id(draw))
            if place is None:
                row[self._eog] = -np.inf
            else:
                allowed = np.unpackbits(
                    self._masks[place].view(np.uint8), count=row.size, bitorder="little"
                )
                row[allowed == 0] = -np.inf


def _read_on(row: _Row) -> None:
    """Let the matcher read the tokens that it has not seen."""
    fresh = row.draw.tokens[row.num_read :].tolist()
    row.num_read += len(fresh)
    if not row.is_bound:
        begin = row.constraint.begin_token
        if begin not in fresh:
            return
        row.is_bound = True
        fresh = fresh[fresh.index(begin) + 1 :]
    if fresh and not row.matcher.consume_tokens(fresh):
        logger.warning("constraint_failed", content=row.matcher.get_error())

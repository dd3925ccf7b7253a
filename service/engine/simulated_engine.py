"""An engine that pretends: it costs time by a formula, and draws by a hash of what a slot holds.

Because each token depends on every token in the slot before it, any mistake in the bookkeeping of
slots, prefixes or snapshots changes what is generated. The checks that llama.cpp makes (positions
without gaps, slots not overfilled) are assertions here.
"""

import hashlib
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.core.messages import Ready
from service.core.plan import (
    Archive,
    Chunk,
    ContextPlan,
    Draw,
    Drop,
    Erase,
    Load,
    Plan,
    Restore,
    Save,
    SlotOperation,
    Split,
    StepResult,
    Tokens,
    Truncate,
    make_tokens,
)
from service.core.request import Constraint
from service.core.sampling import TokenLogprobs
from service.engine.config import SimulatedModel
from service.engine.drafts import follow
from service.engine.engine import Files, transfer
from service.engine.snapshot_file import Bytes
from service.kvcache.costs import Costs
from service.kvcache.size_class import SizeClass


class SimulatedEngine:
    """Holds, for each slot, the tokens that a context would hold the cells of."""

    def __init__(
        self,
        model: SimulatedModel,
        classes: tuple[SizeClass, ...],
        *,
        extra_buffers: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`sleep` is how it spends a step's time; tests that only want the figure pass another."""
        self.eog_tokens = frozenset(model.eog_tokens)
        self.bytes_per_token = model.bytes_per_token
        self.can_copy = True
        self.costs = Costs()
        if model.step_seconds:
            self.costs.pass_seconds, self.costs.row_seconds = model.step_seconds, model.row_seconds
            self.costs.lone_seconds = model.step_seconds + model.row_seconds
        self._model = model
        self._classes = classes
        self._extra_buffers = extra_buffers
        self._files: Files | None = None
        self._sleep = sleep
        self._slots = [[make_tokens() for _ in range(size.num_slots)] for size in classes]
        self._segments: dict[int, Tokens] = {}

    @property
    def segments(self) -> dict[int, int]:
        """Their lengths by id."""
        return {segment_id: len(tokens) for segment_id, tokens in self._segments.items()}

    def held(self, class_index: int, slot: int) -> Tokens:
        """What a slot's cells hold."""
        return self._slots[class_index][slot]

    def warm_up(self) -> Ready:
        fatal = {"with_extra_buffers": self._extra_buffers, "always": True}
        if fatal.get(self._model.dies_in_warm_up):
            signal.raise_signal(signal.SIGSEGV)
        num_cells = sum(size.num_slots * size.slot_len for size in self._classes)
        return Ready(
            model_bytes=0,
            kv_bytes=num_cells * self.bytes_per_token,
            compute_bytes=0,
            extra_buffers=self._extra_buffers,
            load_seconds=0.0,
        )

    def prepare(self, constraint: Constraint, on_ready: Callable[[], None]) -> bool:  # noqa: ARG002 - the protocol's
        """Constraints are nothing to it: what it draws is no text."""
        return True

    def execute(self, plan: Plan) -> StepResult:
        for operation in plan.operations:
            self._operate(operation)
        tokens: list[int] = []
        logprobs: dict[int, TokenLogprobs] = {}
        followers: dict[int, list[int]] = {}
        num_rows = 0
        for context in plan.contexts:
            num_rows += self._compute(context, tokens, logprobs, followers)
        seconds = self._model.step_seconds + num_rows * self._model.row_seconds
        if seconds:
            self._sleep(seconds)
        return StepResult(tokens, seconds, logprobs, followers=followers)

    def embed(self, tokens: Tokens, start: int, end: int) -> npt.NDArray[np.float64]:
        """A hash of what was before decides each token's share."""
        self._kill_if_deadly(tokens[start:end])
        seconds = self._model.step_seconds + (end - start) * self._model.row_seconds
        if seconds:
            self._sleep(seconds)
        states = np.zeros(self._model.vector_len)
        for index in range(start, end):
            states += self._state(tokens[: index + 1])
        return states

    def fingerprint(self, hashes: Path) -> str:  # noqa: ARG002 - it has no model file
        return f"simulated {self._model.num_vocab}"

    def use_files(self, files: Files) -> None:
        self._files = files

    def take_in(self, segment_id: int, payload: memoryview) -> None:
        self._segments[segment_id] = make_tokens()
        self._segments[segment_id].frombytes(payload)

    def close(self) -> None:
        self._slots.clear()

    def _kill_if_deadly(self, tokens: Tokens) -> None:
        deadly = self._model.deadly_token
        if deadly is not None and deadly in tokens:
            signal.raise_signal(signal.SIGSEGV)

    def _state(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        digest = hashlib.shake_128(tokens).digest(self._model.vector_len)
        return np.frombuffer(digest, np.uint8).astype(np.float64) - 127.5

    def _operate(self, operation: SlotOperation) -> None:
        match operation:
            case Truncate(class_index, slot, num_tokens):
                assert num_tokens <= len(self._slots[class_index][slot])
                del self._slots[class_index][slot][num_tokens:]
            case Save(class_index, slot, cuts):
                held = self._slots[class_index][slot]
                for cut in cuts:
                    assert cut.segment_id not in self._segments
                    assert cut.start < cut.end <= len(held)
                    self._segments[cut.segment_id] = held[cut.start : cut.end]
            case Restore(class_index, slot, segment_ids, num_tokens):
                tokens = make_tokens()
                for segment_id in segment_ids:
                    tokens += self._segments[segment_id]
                assert num_tokens <= min(len(tokens), self._classes[class_index].slot_len)
                self._slots[class_index][slot] = tokens[:num_tokens]
            case Split(segment_id, num_tokens, head_id, tail_id):
                segment = self._segments.pop(segment_id)
                assert 0 < num_tokens < len(segment)
                self._segments[head_id] = segment[:num_tokens]
                self._segments[tail_id] = segment[num_tokens:]
            case Drop(segment_id):
                del self._segments[segment_id]
            case Archive(segment_id, _, origin):
                assert self._segments[segment_id] == origin.tokens[origin.start :]
                transfer(self._files, operation, self._read_segment)
            case Load() | Erase():
                transfer(self._files, operation, self._read_segment)

    def _read_segment(self, segment_id: int) -> list[Bytes]:
        return [np.frombuffer(self._segments[segment_id], np.uint8)]

    def _compute(
        self,
        context: ContextPlan,
        drawn: list[int],
        logprobs: dict[int, TokenLogprobs],
        followers: dict[int, list[int]],
    ) -> int:
        slots = self._slots[context.class_index]
        slot_len = self._classes[context.class_index].slot_len
        num_rows = len(context.fillers)
        for filler in context.fillers:
            assert len(slots[filler.slot]) == filler.position < slot_len
        for chunk in context.chunks:
            held = slots[chunk.slot]
            assert len(held) == chunk.start < chunk.end <= slot_len
            held += chunk.tokens[chunk.start : chunk.end]
            self._kill_if_deadly(held[chunk.start :])
            num_rows += chunk.num_rows
            if chunk.draw is not None:
                token = self._draw(held, chunk.draw)
                if chunk.draw.num_logprobs is not None:
                    # It could have been no other token.
                    certain = [(token, 0.0)][: chunk.draw.num_logprobs]
                    logprobs[len(drawn)] = TokenLogprobs(0.0, certain)
                if chunk.drafts:
                    assert chunk.end + len(chunk.drafts) <= slot_len
                    followers[len(drawn)] = self._follow(held, token, chunk)
                drawn.append(token)
        return num_rows

    def _draw(self, held: Tokens, draw: Draw) -> int:
        token = next_token(held, self._model.num_vocab)
        if token in self.eog_tokens and draw.params.ignore_eos:
            token += 1
        return token

    def _follow(self, held: Tokens, token: int, chunk: Chunk) -> list[int]:
        """Keep the guesses that are right in the slot; what is drawn behind them."""
        assert chunk.draw is not None
        guessed = held[:]
        drawn = [token]
        for draft in chunk.drafts:
            guessed.append(draft)
            drawn.append(self._draw(guessed, chunk.draw))
        followers = follow(drawn, chunk.drafts)
        held.extend(chunk.drafts[: len(followers)])
        return followers


def next_token(tokens: Tokens, num_vocab: int) -> int:
    """The token that this model continues `tokens` with; depends on all of them."""
    return zlib.crc32(tokens) % num_vocab

"""A context of its own for texts that are made vectors of; no chat's slot is touched."""

import numpy as np
import numpy.typing as npt

from service.core.plan import Tokens, make_tokens
from service.engine.config import EngineConfig
from service.engine.embedding_lane import MAX_CHUNK
from service.engine.warm_up import FIRST_TOKEN
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel

_WARM_UP_LEN = 8


class Embedder:
    """Owns the context, which has one slot and gives the states of all its rows."""

    def __init__(self, model: LlamaModel, config: EngineConfig) -> None:
        """Raises LlamaError if the memory cannot be had."""
        shape = ContextShape(
            num_slots=1,
            slot_len=config.embedding_len,
            batch_len=MAX_CHUNK,
            threads=config.threads,
            kv_type=config.kv_type,
            flash_attention=config.chosen_flash_attention,
            rope_scaling=config.rope_scaling,
            gives_states=True,
        )
        self._context = LlamaContext(model, shape)
        self.memory = self._context.memory

    def warm_up(self) -> None:
        self.embed(make_tokens([FIRST_TOKEN] * _WARM_UP_LEN), 0, _WARM_UP_LEN)

    def embed(self, tokens: Tokens, start: int, end: int) -> npt.NDArray[np.float64]:
        """As `Engine.embed`."""
        context = self._context
        batch = context.batch
        num_rows = end - start
        if start == 0:
            context.truncate(0, 0)
        batch.token[:num_rows] = tokens[start:end]
        batch.pos[:num_rows] = np.arange(start, end)
        batch.slot[:num_rows] = 0
        batch.output[:num_rows] = 1
        context.decode(num_rows)
        return context.states(num_rows).sum(axis=0, dtype=np.float64)

    def close(self) -> None:
        self._context.close()

"""The engine that computes: llama.cpp contexts, one per size class, over one model."""

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.core.messages import DeviceMemory, Ready
from service.core.plan import (
    Archive,
    Chunk,
    ContextPlan,
    CopyTime,
    Draw,
    Drop,
    Erase,
    Filler,
    Load,
    Plan,
    Restore,
    Save,
    SlotOperation,
    Split,
    StepResult,
    Tokens,
    Truncate,
)
from service.core.request import Constraint
from service.core.sampling import TokenLogprobs
from service.engine.config import EngineConfig
from service.engine.constraints import Constraints
from service.engine.drafts import follow
from service.engine.embedder import Embedder
from service.engine.engine import Files, transfer
from service.engine.fingerprint import Computation, fingerprint
from service.engine.logprobs import KeptLogits
from service.engine.sampling import draw_tokens
from service.engine.snapshot_file import Bytes
from service.engine.warm_up import check_snapshots, measure_decoding, warm_up
from service.errors import LlamaError
from service.kvcache.costs import Costs
from service.kvcache.size_class import SizeClass, parse_size_classes
from service.llama.context import ContextShape, LlamaContext
from service.llama.devices import Devices
from service.llama.model import LlamaModel
from service.llama.snapshot import Layout, Scratch, Snapshot, cut, parse_snapshot
from service.llama.variants import find_cpu_library, library_files, name_variant

FILLER_TOKEN = 0


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a step drew, as `StepResult` has it."""

    tokens: list[int] = field(default_factory=list[int])
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict[int, TokenLogprobs])
    ended: set[int] = field(default_factory=set[int])
    followers: dict[int, list[int]] = field(default_factory=dict[int, list[int]])


class LlamaEngine:
    """Owns the model, its contexts and the snapshots' memory."""

    def __init__(self, config: EngineConfig) -> None:
        """Load the model and open a context per size class.

        Raises ModelFileError or LlamaError.
        """
        started = time.monotonic()
        self._config = config
        path = Path(config.model_path)
        self._model = LlamaModel(
            path,
            gpu_layers=config.gpu_layers,
            gpu=config.gpu,
            extra_buffers=config.extra_buffers,
        )
        self.eog_tokens = self._model.eog_tokens
        self._eog = sorted(self.eog_tokens)
        classes = parse_size_classes(config.contexts)
        scratch = Scratch()
        self._contexts = [
            LlamaContext(self._model, _shape(size, config), scratch=scratch) for size in classes
        ]
        self._embedder = Embedder(self._model, config) if config.embedding_len else None
        self._constraints = Constraints(self._model.tokens, num_threads=config.threads)
        self._segments: dict[int, Snapshot] = {}
        self._layout: Layout | None = None
        self._files: Files | None = None
        self.can_copy = False
        self.costs = Costs()
        num_cells = sum(context.num_slots * context.slot_len for context in self._contexts)
        kv_bytes = sum(context.memory.kv_bytes for context in self._contexts)
        self.bytes_per_token = kv_bytes // num_cells
        self._load_seconds = time.monotonic() - started

    def warm_up(self) -> Ready:
        """Decode once in every context, and prove that snapshots fit all of them."""
        for context in self._contexts:
            warm_up(context)
        if self._embedder is not None:
            self._embedder.warm_up()
        self.can_copy = check_snapshots(self._contexts)
        widest = max(self._contexts, key=lambda context: context.num_slots)
        measure_decoding(widest, self.costs)
        memories = [context.memory for context in self._contexts]
        if self._embedder is not None:
            memories.append(self._embedder.memory)
        return Ready(
            can_copy=self.can_copy,
            model_bytes=self._model.memory.model_bytes,
            kv_bytes=sum(memory.kv_bytes for memory in memories),
            compute_bytes=sum(memory.compute_bytes for memory in memories),
            extra_buffers=self._model.has_extra_buffers,
            cpu_variant=name_variant(find_cpu_library()),
            load_seconds=self._load_seconds,
            gpus=self._gpus(),
        )

    def execute(self, plan: Plan) -> StepResult:
        copies: list[CopyTime] = []
        for operation in plan.operations:
            self._operate(operation, copies)
        taken = _Taken()
        seconds = 0.0
        masks = self._constraints.start(_list_draws(plan))
        for context_plan in plan.contexts:
            context = self._contexts[context_plan.class_index]
            draws, positions = _collect_draws(context_plan)
            num_rows = _fill_batch(context, context_plan)
            started = time.monotonic()
            context.decode(num_rows)
            # Waits for a device that computes asynchronously.
            logits = context.logits(len(draws))
            seconds += time.monotonic() - started
            for filler in context_plan.fillers:
                context.truncate(filler.slot, filler.position)
            if draws:
                kept = KeptLogits(logits, draws)
                masks.apply(logits, draws)
                drawn = draw_tokens(logits, draws, positions, self._eog)
                ended = self._constraints.finish(draws, drawn)
                _take(context, context_plan, drawn, kept.measure(drawn), ended, taken)
        return StepResult(
            taken.tokens,
            seconds,
            taken.logprobs,
            copies,
            frozenset(taken.ended),
            taken.followers,
        )

    def embed(self, tokens: Tokens, start: int, end: int) -> npt.NDArray[np.float64]:
        assert self._embedder is not None, "a text came where none is taken"
        return self._embedder.embed(tokens, start, end)

    def fingerprint(self, hashes: Path) -> str:
        computation = Computation(
            kv_type=self._config.kv_type,
            flash_attention=self._config.chosen_flash_attention,
            rope_scaling=self._config.rope_scaling,
            extra_buffers=self._model.has_extra_buffers,
            devices=tuple(gpu.name for gpu in self._gpus()),
        )
        model = Path(self._config.model_path)
        return fingerprint(model, library_files(), computation, hashes=hashes)

    def use_files(self, files: Files) -> None:
        self._files = files

    def take_in(self, segment_id: int, payload: memoryview) -> None:
        snapshot = parse_snapshot(np.frombuffer(payload, np.uint8))
        if self._layout is not None and snapshot.layout != self._layout:
            raise LlamaError("its cells are laid out otherwise")
        self._segments[segment_id] = snapshot

    def prepare(self, constraint: Constraint, on_ready: Callable[[], None]) -> bool:
        return self._constraints.prepare(constraint, on_ready)

    def close(self) -> None:
        self._constraints.close()
        if self._embedder is not None:
            self._embedder.close()
        for context in self._contexts:
            context.close()
        self._model.close()

    def _gpus(self) -> tuple[DeviceMemory, ...]:
        if self._config.gpu_layers == 0:
            return ()
        gpus = Devices().gpus()
        return tuple(
            gpus if self._config.gpu is None else gpus[self._config.gpu : self._config.gpu + 1]
        )

    def _operate(self, operation: SlotOperation, copies: list[CopyTime]) -> None:
        started = time.monotonic()
        match operation:
            case Truncate(class_index, slot, num_tokens):
                self._contexts[class_index].truncate(slot, num_tokens)
            case Save(class_index, slot, cuts):
                context = self._contexts[class_index]
                parts = context.save_parts(slot, [(each.start, each.end) for each in cuts])
                self._layout = parts[0].layout
                for each, part in zip(cuts, parts, strict=True):
                    self._segments[each.segment_id] = part
                num_tokens = context.num_computed(slot)
                copies.append(CopyTime("save", num_tokens, time.monotonic() - started))
            case Restore(class_index, slot, segment_ids, num_tokens):
                parts = [self._segments[segment_id] for segment_id in segment_ids]
                self._contexts[class_index].restore(slot, parts, num_tokens)
                copies.append(CopyTime("restore", num_tokens, time.monotonic() - started))
            case Split(segment_id, num_tokens, head_id, tail_id):
                segment = self._segments.pop(segment_id)
                middle = segment.start + num_tokens
                self._segments[head_id] = cut(segment, segment.start, middle)
                self._segments[tail_id] = cut(segment, middle, segment.end)
            case Drop(segment_id):
                del self._segments[segment_id]
            case Archive() | Load() | Erase():
                transfer(self._files, operation, self._read_segment)

    def _read_segment(self, segment_id: int) -> list[Bytes]:
        return [self._segments[segment_id].cells]


def _shape(size: SizeClass, config: EngineConfig) -> ContextShape:
    return ContextShape(
        num_slots=size.num_slots,
        slot_len=size.slot_len,
        # A step's prompt budget, and a row for each slot beside it.
        batch_len=config.scheduler.step_tokens + size.num_slots,
        num_drafts=config.scheduler.step_drafts,
        threads=config.threads,
        kv_type=config.kv_type,
        flash_attention=config.chosen_flash_attention,
        rope_scaling=config.rope_scaling,
    )


def _list_draws(plan: Plan) -> list[Draw]:
    return [chunk.draw for chunk in plan.chunks() if chunk.draw is not None]


def _collect_draws(plan: ContextPlan) -> tuple[list[Draw], list[int]]:
    """The draws of a plan, in the order of their logits, and the positions they are for.

    A chunk with drafts has a draw for each of them as well.
    """
    draws: list[Draw] = []
    positions: list[int] = []
    for chunk in plan.chunks:
        if chunk.draw is not None:
            draws.append(chunk.draw)
            positions.append(chunk.end)
            for num_before in range(1, len(chunk.drafts) + 1):
                draws.append(chunk.draw)
                positions.append(chunk.end + num_before)
    return draws, positions


def _take(
    context: LlamaContext,
    plan: ContextPlan,
    drawn: list[int],
    measured: Mapping[int, TokenLogprobs],
    ended: Container[int],
    taken: _Taken,
) -> None:
    """Add a token for each chunk that asks, and those behind right drafts; forget wrong drafts.

    `drawn`, `measured` and `ended` go by rows of logits.
    """
    row = 0
    for chunk in plan.chunks:
        if chunk.draw is None:
            continue
        index = len(taken.tokens)
        taken.tokens.append(drawn[row])
        if row in measured:
            taken.logprobs[index] = measured[row]
        if row in ended:
            taken.ended.add(index)
        if chunk.drafts:
            followers = follow(drawn[row : row + 1 + len(chunk.drafts)], chunk.drafts)
            taken.followers[index] = followers
            context.truncate(chunk.slot, chunk.end + len(followers))
        row += 1 + len(chunk.drafts)


def _fill_batch(context: LlamaContext, plan: ContextPlan) -> int:
    """Write a plan's rows into the context's batch; how many there are."""
    batch = context.batch
    row = 0
    for chunk in plan.chunks:
        row = _fill_chunk(context, chunk, row)
    for filler in plan.fillers:
        row = _fill_filler(context, filler, row)
    assert row <= len(batch.token)
    return row


def _fill_chunk(context: LlamaContext, chunk: Chunk, row: int) -> int:
    batch = context.batch
    end = row + chunk.end - chunk.start
    if end - row == 1:
        batch.token[row] = chunk.tokens[chunk.start]
        batch.pos[row] = chunk.start
    else:
        batch.token[row:end] = chunk.tokens[chunk.start : chunk.end]
        batch.pos[row:end] = np.arange(chunk.start, chunk.end)
        batch.output[row : end - 1] = 0
    batch.slot[row:end] = chunk.slot
    batch.output[end - 1] = chunk.draw is not None
    return _fill_drafts(context, chunk, end) if chunk.drafts else end


def _fill_drafts(context: LlamaContext, chunk: Chunk, row: int) -> int:
    batch = context.batch
    end = row + len(chunk.drafts)
    batch.token[row:end] = chunk.drafts
    batch.pos[row:end] = np.arange(chunk.end, chunk.end + len(chunk.drafts))
    batch.slot[row:end] = chunk.slot
    batch.output[row:end] = 1
    return end


def _fill_filler(context: LlamaContext, filler: Filler, row: int) -> int:
    batch = context.batch
    batch.token[row] = FILLER_TOKEN
    batch.pos[row] = filler.position
    batch.slot[row] = filler.slot
    batch.output[row] = 0
    return row + 1

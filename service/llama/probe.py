"""Gives a model file to llama.cpp and says what came of it: `python -m service.llama.probe FILE`.

A process of its own for `service.gguf.verify`, because llama.cpp ends its process on some files.
Prints one JSON object for each check. How positions are checked:

A sequence of one token attends to itself alone, so its attention is its value whatever query and
key are, and its hidden states do not depend on its position. Computed at position 0 and at another,
the keys in the KV cache differ by their rotation and by nothing else: a NoPE layer has the same
key twice, any other layer has one turned by exactly the angles of `rope.freq_base`. That takes two
decodes of one token each, on a model of any size, and needs no reference of it.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from service.errors import SmolserveError
from service.gguf.check import Check, failed, passed, skipped
from service.gguf.header import Header, Tensor, open_regular, read_header
from service.gguf.hyperparameters import Hyperparameters
from service.gguf.smollm3 import ARCHITECTURE, LLAMA
from service.gguf.summary import summarise
from service.llama.context import ContextShape, LlamaContext
from service.llama.ggml import Ggml
from service.llama.library import logger
from service.llama.model import LlamaModel
from service.llama.snapshot import Snapshot

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

POSITION = 100
"""Far enough that the fast pairs have turned, near enough for float32 angles."""

SAME = 1e-3
"""Relative difference up to which keys are the same: float32 keeps them to 1e-6 and angles to 1e-4;
a rotated key differs by 0.07 (the least turned layer of SmolLM2) to 0.9."""

MAX_ROWS = 256
SIGMAS = 6.0
"""A product's rounding error, normal by the law of large numbers, stays below this many sigmas."""

_CHUNK = 64 << 20

_FLOAT_ROUNDING = {
    GGMLQuantizationType.F32: 2.0**-20,
    GGMLQuantizationType.F16: 2.0**-11,
    GGMLQuantizationType.BF16: 2.0**-8,
}
"""Relative rounding of an activation beside weights that are no blocks."""


def main(path: Path) -> None:
    header = read_header(path)
    probe = _Probe(header)
    for name, check in (
        ("values", probe.check_values),
        ("numerics", probe.check_numerics),
        ("load", probe.check_load),
        ("positions", probe.check_positions),
    ):
        print(msgspec.json.encode(_run(name, check)).decode(), flush=True)  # noqa: T201 - the protocol


def _run(name: str, check: Callable[[], Check]) -> Check:
    errors = _ErrorLines()
    logger.addHandler(errors)
    try:
        return check()
    except SmolserveError as error:
        return failed(name, " / ".join([str(error), *errors.lines[:2]]))
    finally:
        logger.removeHandler(errors)


class _ErrorLines(logging.Handler):
    """What llama.cpp complains about."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class _Probe:
    def __init__(self, header: Header) -> None:
        self._header = header
        self._summary = summarise(header)
        self._tensors = [tensor for tensor in header.tensors if tensor.num_bytes]
        self._ggml = Ggml()
        self._model: LlamaModel | None = None

    def check_values(self) -> Check:
        """That no block of any tensor holds a scale that is infinite or no number."""
        for tensor in self._tensors:
            for chunk in self._chunks(tensor):
                if not self._ggml.is_valid(chunk, tensor.type):
                    return failed(
                        "values", f"{tensor.name} holds values that are no numbers; get it anew"
                    )
        return passed("values", f"every block of {len(self._tensors)} tensors is sound")

    def check_numerics(self) -> Check:
        """That `gguf` and ggml mean the same weights by the same bytes, for each type."""
        first_of_type = {tensor.type: tensor for tensor in reversed(self._tensors)}
        errors: list[str] = []
        for kind, tensor in sorted(first_of_type.items()):
            error, allowed = self._compare_product(tensor)
            if not error <= allowed:
                return failed(
                    "numerics",
                    f"{kind.name} ({tensor.name}): products differ by {error:.1e} of their size, "
                    f"rounding explains {allowed:.1e}",
                )
            errors.append(f"{kind.name} {error:.1e} of {allowed:.1e}")
        return passed("numerics", f"largest error, of what rounding allows: {', '.join(errors)}")

    def check_load(self) -> Check:
        self._model = LlamaModel(self._header.path, extra_buffers=False)
        context = LlamaContext(self._model, _shape())
        try:
            _decode(context, slot=0, position=0)
            logits = context.logits(1).copy()
        finally:
            context.close()
        if not np.isfinite(logits).all():
            return failed("load", "llama.cpp loads it, and computes logits that are no numbers")
        return passed("load", f"llama.cpp loads it; first logits have std {logits.std():.2f}")

    def check_positions(self) -> Check:
        name, shape = "positions", self._summary.hyperparameters
        if self._model is None:
            return skipped(name, "it does not load")
        if shape is None or self._summary.architecture not in {ARCHITECTURE, LLAMA}:
            return skipped(name, f"not known for architecture {self._summary.architecture}")
        context = LlamaContext(self._model, _shape())
        try:
            here, there = (
                _keys_at(context, slot=slot, position=position)
                for slot, position in enumerate((0, POSITION))
            )
        finally:
            context.close()
        wanted = set(self._summary.nope_layers)
        turns = [_difference(near, far) for near, far in zip(here, there, strict=True)]
        found = {layer for layer, turn in enumerate(turns) if turn < SAME}
        if found != wanted:
            return failed(name, _explain(found, wanted))
        error = self._angle_error(here, there, shape)
        if error > SAME:
            return failed(name, f"keys are turned by other angles than rope.freq_base: {error:.1e}")
        return passed(name, _describe_turns(turns, wanted))

    def _angle_error(
        self, here: list[Floats], there: list[Floats], shape: Hyperparameters
    ) -> float:
        """How far the turned keys are from ours; 0 where a scaling makes the angles others."""
        is_scaled = any(".rope.scaling." in key for key in self._header.fields) or any(
            tensor.name == "rope_freqs.weight" for tensor in self._header.tensors
        )
        if is_scaled:
            return 0.0
        return max(
            _difference(_turn(near, shape), far)
            for layer, (near, far) in enumerate(zip(here, there, strict=True))
            if layer not in self._summary.nope_layers
        )

    def _compare_product(self, tensor: Tensor) -> tuple[float, float]:
        """The largest error of a row's product and what is allowed, by the size of a product."""
        row_len, row_bytes = tensor.row_len, tensor.num_bytes // tensor.num_rows
        num_rows = min(MAX_ROWS, tensor.num_rows)
        stored = next(self._chunks(tensor, num_rows)).reshape(num_rows, row_bytes)
        weights = dequantize(stored, tensor.type).reshape(num_rows, row_len).astype(np.float64)
        x = np.random.default_rng(0).standard_normal(row_len).astype(np.float32)
        difference = self._ggml.multiply(stored, tensor.type, x) - weights @ x.astype(np.float64)
        size = np.linalg.norm(weights, axis=1) * _rms(x)
        errors = np.abs(difference) / np.where(size > 0, size, 1)
        return float(errors.max()), SIGMAS * _rounding(x, tensor.type)

    def _chunks(self, tensor: Tensor, num_rows: int | None = None) -> Iterator[Bytes]:
        """The tensor's bytes, in pieces of `num_rows` or as many as fit a buffer."""
        row_bytes = tensor.num_bytes // tensor.num_rows
        step = row_bytes * (num_rows or max(_CHUNK // row_bytes, 1))
        with open_regular(self._header.path) as file:
            for offset in range(0, tensor.num_bytes, step):
                file.seek(self._header.data_start + tensor.offset + offset)
                piece = file.read(min(step, tensor.num_bytes - offset))
                yield np.frombuffer(piece, np.uint8)


def _rounding(x: Floats, kind: GGMLQuantizationType) -> float:
    """The relative rms error of an activation that ggml rounds for a product with `kind`.

    Blocks (of 32 or 256) are rounded to 8 bits of their largest; the vector's largest bounds it.
    """
    if kind in _FLOAT_ROUNDING:
        return _FLOAT_ROUNDING[kind]
    step = float(np.abs(x).max()) / 127
    return step / 12**0.5 / _rms(x)


def _rms(x: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _shape() -> ContextShape:
    """Exact arithmetic: no flash attention, which would round keys to 16 bits.

    One thread: threads that wait for each other stall on a busy machine, and a token is no work.
    """
    return ContextShape(
        num_slots=2, slot_len=256, batch_len=8, threads=1, kv_type="f32", flash_attention="off"
    )


def _decode(context: LlamaContext, *, slot: int, position: int) -> None:
    batch = context.batch
    batch.token[0], batch.pos[0], batch.slot[0], batch.output[0] = 0, position, slot, 1
    context.decode(1)


def _keys_at(context: LlamaContext, *, slot: int, position: int) -> list[Floats]:
    """Each layer's key of one token at `position`."""
    _decode(context, slot=slot, position=position)
    return read_keys(context.save(slot))


def read_keys(snapshot: Snapshot) -> list[Floats]:
    """The keys of each layer, (tokens, key length), from a snapshot with float32 keys.

    After the count come each cell's position and ids, then `v_trans u32 | layers u32`, and for each
    layer `type i32 | row bytes u64 | rows` (llama-kv-cache.cpp, `state_write_data`).
    """
    cells, num_tokens = snapshot.cells.tobytes(), snapshot.num_tokens
    offset = 4
    for _ in range(num_tokens):
        num_ids = int.from_bytes(cells[offset + 4 : offset + 8], "little")
        offset += 8 + 4 * num_ids
    num_layers = int.from_bytes(cells[offset + 4 : offset + 8], "little")
    offset += 8
    keys: list[Floats] = []
    for _ in range(num_layers):
        kind = int.from_bytes(cells[offset : offset + 4], "little")
        row_bytes = int.from_bytes(cells[offset + 4 : offset + 12], "little")
        if kind != GGMLQuantizationType.F32:
            raise SmolserveError(f"keys are of type {kind}; this build of llama.cpp is not known")
        offset += 12
        rows = np.frombuffer(cells, "<f4", num_tokens * row_bytes // 4, offset)
        keys.append(rows.reshape(num_tokens, -1))
        offset += num_tokens * row_bytes
    return keys


def _turn(keys: Floats, shape: Hyperparameters) -> Floats:
    """Rotate neighbours (2i, 2i + 1) of each head from position 0 to POSITION."""
    pairs = np.arange(shape.rope_len // 2)
    angles = POSITION * shape.rope_base ** (-2 * pairs / shape.rope_len)
    heads = keys.reshape(-1, shape.rope_len)
    turned = (heads[:, 0::2] + 1j * heads[:, 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(keys.shape).astype(np.float32)


def _difference(left: Floats, right: Floats) -> float:
    return _rms(left - right) / (_rms(left) or 1.0)


def _describe_turns(turns: list[float], nope_layers: set[int]) -> str:
    rope = [turn for layer, turn in enumerate(turns) if layer not in nope_layers]
    detail = f"between positions 0 and {POSITION}, {len(rope)} RoPE layers turn a key by "
    detail += f"{min(rope):.2f} or more of its length, all by the right angles"
    if nope_layers:
        kept = max(turns[layer] for layer in nope_layers)
        detail += f", and {len(nope_layers)} NoPE layers {sorted(nope_layers)} by {kept:.0e}"
    return detail


def _explain(found: set[int], wanted: set[int]) -> str:
    if wanted - found:
        return (
            f"layers {sorted(wanted - found)} must not rotate, and do; an architecture other than "
            f"{ARCHITECTURE} makes llama.cpp do that: get the file anew and remap it"
        )
    return f"layers {sorted(found - wanted)} must rotate, and do not"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

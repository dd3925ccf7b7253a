"""The proof, at start, that snapshots fit every context of the loaded build."""

import dataclasses

import numpy as np
import pytest

from service.engine.warm_up import check_snapshots
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel
from service.llama.snapshot import Snapshot, parse_snapshot
from tests.llama.builders import MODEL_PATH

pytestmark = pytest.mark.model


def misplace(snapshot: Snapshot) -> Snapshot:
    """Cells as a build with another layout of states would read them: in the wrong places."""
    cells = snapshot.cells.copy()
    half = cells.nbytes // 2
    cells[half : half + 1000] = cells[half + 4000 : half + 5000]
    return dataclasses.replace(snapshot, cells=cells)


class MisreadingContext(LlamaContext):
    def restore(self, slot, parts, num_tokens):
        super().restore(slot, [misplace(part) for part in parts], num_tokens)


class MisjoiningContext(LlamaContext):
    """Reads whole states alone as they were written."""

    def restore(self, slot, parts, num_tokens):
        if len(parts) > 1:
            parts = [misplace(part) for part in parts]
        super().restore(slot, parts, num_tokens)


class UnknownContext(LlamaContext):
    """Its states have something behind what is known."""

    def save(self, slot):
        return parse_snapshot(np.append(super().save(slot).cells, np.uint8(0)))


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        (LlamaContext, True),
        (MisreadingContext, False),
        (MisjoiningContext, False),
        (UnknownContext, False),
    ],
)
@pytest.mark.parametrize("attention", ["off", "on"])
def test_snapshots_are_trusted_only_if_they_continue_alike(kind, fits, attention):
    model = LlamaModel(MODEL_PATH)
    shapes = [
        ContextShape(
            num_slots=slots, slot_len=256, batch_len=64, threads=2, flash_attention=attention
        )
        for slots in (3, 1)
    ]
    contexts = [kind(model, shape) for shape in shapes]
    assert check_snapshots(contexts) == fits
    for context in contexts:
        context.close()
    model.close()

"""The proof, at start, that snapshots fit every context of the loaded build."""

import dataclasses

import pytest

from service.engine.warm_up import check_snapshots
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel
from tests.llama.builders import MODEL_PATH

pytestmark = pytest.mark.model


class MisreadingContext(LlamaContext):
    """Restores as a build with another layout of states would: cells in the wrong places."""

    def restore(self, slot, snapshot):
        cells = snapshot.cells.copy()
        half = cells.nbytes // 2
        cells[half : half + 1000] = cells[half + 4000 : half + 5000]
        super().restore(slot, dataclasses.replace(snapshot, cells=cells))


@pytest.mark.parametrize(("kind", "fits"), [(LlamaContext, True), (MisreadingContext, False)])
def test_snapshots_are_trusted_only_if_they_continue_alike(kind, fits):
    model = LlamaModel(MODEL_PATH)
    shapes = [
        ContextShape(num_slots=slots, slot_len=256, batch_len=64, threads=2) for slots in (3, 1)
    ]
    contexts = [kind(model, shape) for shape in shapes]
    assert check_snapshots(contexts) == fits
    for context in contexts:
        context.close()
    model.close()

"""docs/operations.md against the code that it speaks of."""

import re

import pytest

from service.gguf.memory import estimate_memory
from service.gguf.synth import plan
from service.kvcache.size_class import parse_size_classes
from service.models.catalog import load_catalog
from service.settings import SETUP_VARIABLES, list_settings
from tests.deploy.observation import ROOT
from tests.telemetry.test_metrics_document import documented
from tests.test_sizing import shape

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
MEBIBYTE = 1 << 20
MODELS = {
    "smollm2-135m-instruct": (
        shape(),
        load_catalog(ROOT / "models")["smollm2-135m-instruct"].source.size,
    ),
    "smollm3-3b": (plan("3b").shape, 1_911_451_296),  # of `smolserve gguf synth --size 3b`
}


def sizing_rows():
    rows = re.findall(r"^\| (smollm\S+) \| `(\S+)` \| (\w+) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    return [(model, contexts, kv_type, figures) for model, contexts, kv_type, figures in rows]


def figures(model, contexts, kv_type):
    """MiB of weights, KV, computing and all, as the table writes them."""
    of_shape, weight_bytes = MODELS[model]
    estimates = [
        estimate_memory(
            of_shape,
            weight_bytes=0,
            num_slots=size.num_slots,
            slot_len=size.slot_len,
            kv_type=kv_type,
        )
        for size in parse_size_classes(contexts)
    ]
    kv = sum(estimate.kv_bytes for estimate in estimates)
    compute = sum(estimate.compute_bytes for estimate in estimates)
    numbers = (weight_bytes, kv, compute, weight_bytes + kv + compute)
    return " | ".join(f"{number / MEBIBYTE:,.0f}" for number in numbers)


@pytest.mark.parametrize(("model", "contexts", "kv_type", "written"), sizing_rows())
def test_sizing_table_says_what_the_formulas_say(model, contexts, kv_type, written):
    assert written == figures(model, contexts, kv_type)


def test_sizing_table_has_both_models_and_a_quantised_cache():
    models, _, kv_types, _ = zip(*sizing_rows(), strict=True)
    assert set(models) == set(MODELS)
    assert {"f16", "q8_0"} <= set(kv_types)


def test_every_setting_named_is_one():
    named = set(re.findall(r"\bSMOLSERVE_\w+", DOCUMENT))
    assert named
    assert named <= {setting.variable for setting in list_settings()} | SETUP_VARIABLES


def test_every_metric_named_is_one():
    named = set(re.findall(r"`(smolserve_\w+)", DOCUMENT))
    assert named
    assert named <= set(documented())

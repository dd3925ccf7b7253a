import pytest

from service.gguf.hyperparameters import Hyperparameters
from service.gguf.memory import kv_bytes_per_token
from service.sizing import affords_copy, fit_size_classes

GIBIBYTE = 1 << 30


def shape(context_len=8192, num_layers=30):
    return Hyperparameters(
        num_layers=num_layers,
        hidden_len=576,
        ffn_len=1536,
        num_heads=9,
        num_kv_heads=3,
        head_len=64,
        vocab_len=49152,
        context_len=context_len,
        rope_base=10_000.0,
        rope_len=64,
        rms_epsilon=1e-5,
    )


def fit(free_bytes, weight_bytes=100_000_000, **of_shape):
    classes = fit_size_classes(
        shape(**of_shape), weight_bytes=weight_bytes, free_bytes=free_bytes, kv_type="f16"
    )
    return ",".join(map(str, classes))


def test_a_roomy_machine_gets_small_slots_and_one_of_the_whole_context():
    assert fit(16 * GIBIBYTE) == "8x2048,1x8192"


def test_a_model_with_short_context_has_one_class():
    assert fit(16 * GIBIBYTE, context_len=2048) == "8x2048"
    assert fit(16 * GIBIBYTE, context_len=512) == "8x512"


def test_less_memory_gives_shorter_and_fewer_slots():
    assert fit(GIBIBYTE) == "7x2048,1x8192"
    assert fit(GIBIBYTE // 2) == "2x2048,1x4096"


def test_the_rest_of_the_small_slots_half_goes_to_the_long_slot():
    per_token = kv_bytes_per_token(shape(), "f16")
    cells = 8 * 2048 + 65536
    free = int((100_000_000 + (cells + 10) * per_token) / 0.6)
    assert fit(free, context_len=65536) == "8x2048,1x65536"


def test_a_context_that_is_no_power_of_two_is_used_to_its_end():
    assert fit(16 * GIBIBYTE, context_len=98304) == "8x2048,1x98304"


def test_a_copy_of_the_weights_is_made_where_the_small_slots_fit_beside_it():
    small_slots = 8 * 2048 * kv_bytes_per_token(shape(), "f16")
    enough = int((200_000_000 + small_slots) / 0.6) + 10
    for free_bytes, affords in ((enough, True), (enough - 20, False)):
        weights = {"weight_bytes": 100_000_000, "free_bytes": free_bytes}
        assert affords_copy(shape(), **weights, kv_type="f16") is affords


def test_there_is_always_a_slot():
    assert fit(0) == "1x2048"


@pytest.mark.parametrize("context_len", [3000, 65536, 131072])
@pytest.mark.parametrize("free_bytes", [GIBIBYTE, 4 * GIBIBYTE, 64 * GIBIBYTE])
def test_slots_stay_within_the_memory_and_the_context(free_bytes, context_len):
    classes = fit_size_classes(
        shape(context_len), weight_bytes=100_000_000, free_bytes=free_bytes, kv_type="f16"
    )
    num_cells = sum(size.num_slots * size.slot_len for size in classes)
    assert num_cells * kv_bytes_per_token(shape(), "f16") + 100_000_000 < free_bytes
    assert all(size.num_slots >= 1 and size.slot_len <= context_len for size in classes)

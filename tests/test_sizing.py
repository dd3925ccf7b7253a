import os

import psutil
import pytest

from service.gguf.hyperparameters import Hyperparameters
from service.gguf.memory import kv_bytes_per_token
from service.sizing import (
    affords_copy,
    available_bytes,
    count_physical_cores,
    count_threads,
    fit_size_classes,
)
from tests.test_cgroups import Machine, in_container_of_v2

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


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_threads_of_one_core_count_once_and_cores_of_others_not_at_all(tmp_path, name):
    for cpu in range(8):  # four cores, of which the fourth is not ours
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / name).write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert count_physical_cores({0, 1, 2, 4, 5}, tmp_path) == 3


def test_threads_stay_within_a_containers_quota(tmp_path):
    machine = Machine(tmp_path)
    for quota, num_threads in (("max", len(os.sched_getaffinity(0))), ("190000", 1), ("9000", 1)):
        in_container_of_v2(machine, cpu_max=f"{quota} 100000")
        assert count_threads(tmp_path) == num_threads


def test_memory_stays_within_a_containers_limit(tmp_path):
    in_container_of_v2(Machine(tmp_path), memory_max=5_000_000, memory_current=1_000_000)
    assert available_bytes(tmp_path) == 4_000_000


def test_a_container_may_be_allowed_more_than_there_is(tmp_path):
    in_container_of_v2(Machine(tmp_path), memory_max=1 << 60)
    assert 0 < available_bytes(tmp_path) <= psutil.virtual_memory().total


def test_cpus_of_an_unknown_topology_are_cores(tmp_path):
    assert count_physical_cores({0, 1, 2}, tmp_path) == 3


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

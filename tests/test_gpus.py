import pytest

from service.app import _configure_pool
from service.core.messages import DeviceMemory
from service.errors import SettingsError
from service.gpus import share_gpus
from service.llama.devices import Devices
from service.settings import Settings
from service.sizing import MAX_SMALL_SLOTS_ON_GPU, fit_size_classes
from tests.test_sizing import shape

GIBIBYTE = 1 << 30


def gpus(*free_gibibytes):
    return [
        DeviceMemory(
            name=f"CUDA{number}", free_bytes=free * GIBIBYTE, total_bytes=2 * free * GIBIBYTE
        )
        for number, free in enumerate(free_gibibytes)
    ]


def test_one_gpu_is_one_worker_that_llama_places_itself():
    share = share_gpus(gpus(80), None)
    assert (share.num_workers, share.numbers, share.free_bytes) == (1, (), 80 * GIBIBYTE)


def test_each_of_several_gpus_gets_a_worker_that_fits_the_fullest():
    share = share_gpus(gpus(80, 20, 80), None)
    assert (share.num_workers, share.numbers, share.free_bytes) == (3, (0, 1, 2), 20 * GIBIBYTE)


def test_a_lone_worker_has_all_gpus():
    share = share_gpus(gpus(80, 20), 1)
    assert (share.num_workers, share.numbers, share.free_bytes) == (1, (), 100 * GIBIBYTE)


def test_more_workers_than_gpus_share_them():
    share = share_gpus(gpus(40, 40), 3)
    assert (share.num_workers, share.numbers, share.free_bytes) == (3, (0, 1), 20 * GIBIBYTE)


def test_a_gpu_with_room_gets_more_slots_than_a_cpu():
    classes = fit_size_classes(
        shape(),
        weight_bytes=100_000_000,
        free_bytes=80 * GIBIBYTE,
        kv_type="f16",
        max_small_slots=MAX_SMALL_SLOTS_ON_GPU,
    )
    assert ",".join(map(str, classes)) == "32x2048,1x8192"


def test_a_backend_without_its_gpu_stops_the_start(tmp_path):
    model = tmp_path / "model.gguf"
    model.touch()
    if Devices().gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match="SMOLSERVE_BACKEND=cpu"):
        _configure_pool(Settings.load({"backend": "cuda"}), model, shape())

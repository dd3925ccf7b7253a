import psutil

from service.llama.devices import Devices, ask_gpus


def test_the_cpu_is_a_device_with_the_machines_memory():
    [cpu] = Devices().cpus()
    assert cpu.name == "CPU"
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert cpu.total_bytes <= psutil.virtual_memory().total


def test_a_process_of_its_own_lists_the_same_gpus():
    names = [gpu.name for gpu in ask_gpus()]
    assert names == [gpu.name for gpu in Devices().gpus()]

"""Limits of containers, read from trees of files as kernels and container engines lay them out."""

from pathlib import Path

import pytest

from service.cgroups import Allowance, read_allowance

MEBIBYTE = 1 << 20
NO_LIMIT_OF_V1 = 9223372036854771712
V2_MOUNT = "31 23 0:28 {top} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate"
V1_MOUNT = "32 31 0:29 {top} /sys/fs/cgroup/{name} ro,nosuid master:9 - cgroup cgroup rw,{name}"
OTHER_MOUNT = "23 0 0:21 / /proc rw,nosuid - proc proc rw"


class Machine:
    """A root folder with /proc and /sys of a process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)

    def mount(self, *lines: str, groups: str) -> None:
        (self.root / "proc/self/mountinfo").write_text("\n".join([OTHER_MOUNT, *lines, ""]))
        (self.root / "proc/self/cgroup").write_text(groups)

    def write(self, group: str, **files: str | int) -> None:
        """Files of the folder `group`; an underline stands for the dot that their names have."""
        folder = self.root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")

    def read(self) -> Allowance:
        return read_allowance(self.root)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def in_container_of_v2(machine: Machine, **files: str | int) -> Allowance:
    """With a namespace of its own, as Docker makes it: the group is its own root."""
    machine.mount(V2_MOUNT.format(top="/"), groups="0::/\n")
    machine.write("", **files)
    return machine.read()


def in_container_of_v1(
    machine: Machine, memory: dict[str, str | int], cpu: dict[str, str | int], top: str
) -> Allowance:
    """Without a namespace: only the mount shows the group alone."""
    machine.mount(
        V1_MOUNT.format(top=top, name="memory"),
        V1_MOUNT.format(top=top, name="cpu,cpuacct"),
        groups="4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n",
    )
    machine.write("memory", **memory)
    machine.write("cpu,cpuacct", **cpu)
    return machine.read()


def test_no_control_groups_are_no_limit(machine):
    assert machine.read() == Allowance()


def test_control_groups_without_limits_are_none(machine):
    limits = {"memory_max": "max", "memory_high": "max", "cpu_max": "max 100000"}
    assert in_container_of_v2(machine, **limits, memory_current=5) == Allowance()


def test_what_is_used_is_no_longer_free_but_cached_files_give_way(machine):
    allowance = in_container_of_v2(
        machine,
        memory_max=1000 * MEBIBYTE,
        memory_current=700 * MEBIBYTE,
        memory_stat=f"anon {200 * MEBIBYTE}\n"
        f"active_file {100 * MEBIBYTE}\ninactive_file {350 * MEBIBYTE}",
    )
    assert allowance.free_bytes == (1000 - 700 + 450) * MEBIBYTE


def test_reaching_the_mark_that_slows_down_is_no_better_than_reaching_the_limit(machine):
    limits = {"memory_max": 1000 * MEBIBYTE, "memory_high": 800 * MEBIBYTE}
    assert in_container_of_v2(machine, **limits).free_bytes == 800 * MEBIBYTE


def test_more_used_than_allowed_leaves_nothing(machine):
    assert in_container_of_v2(machine, memory_max=10, memory_current=20).free_bytes == 0


@pytest.mark.parametrize(("text", "num_cpus"), [("150000 100000", 1.5), ("20000 50000", 0.4)])
def test_cpu_time_is_quota_by_period(machine, text, num_cpus):
    assert in_container_of_v2(machine, cpu_max=text).num_cpus == num_cpus


def test_the_tightest_ancestor_holds(machine):
    machine.mount(V2_MOUNT.format(top="/"), groups="0::/system.slice/smolserve.service\n")
    machine.write("", cpu_max="400000 100000")
    machine.write("system.slice", memory_max=500 * MEBIBYTE, memory_current=100 * MEBIBYTE)
    machine.write(
        "system.slice/smolserve.service",
        memory_max=450 * MEBIBYTE,
        memory_current=10 * MEBIBYTE,
        cpu_max="max 100000",
    )
    machine.write("system.slice/other.service", memory_max=1, cpu_max="1000 100000")
    assert machine.read() == Allowance(free_bytes=400 * MEBIBYTE, num_cpus=4)


@pytest.mark.parametrize("top", ["/docker/1f", "/docker/1f/..", "/"])
def test_version_1_counts_the_groups_below_as_well(machine, top):
    allowance = in_container_of_v1(
        machine,
        {
            "memory_limit_in_bytes": 1000 * MEBIBYTE,
            "memory_usage_in_bytes": 300 * MEBIBYTE,
            "memory_stat": f"inactive_file 0\nactive_file 0\n"
            f"total_inactive_file {50 * MEBIBYTE}\ntotal_active_file {50 * MEBIBYTE}",
        },
        {"cpu_cfs_quota_us": 250000, "cpu_cfs_period_us": 100000},
        top,
    )
    assert allowance == Allowance(free_bytes=800 * MEBIBYTE, num_cpus=2.5)


def test_version_1_writes_a_large_number_and_minus_one_for_no_limit(machine):
    allowance = in_container_of_v1(
        machine,
        {"memory_limit_in_bytes": NO_LIMIT_OF_V1, "memory_usage_in_bytes": 5},
        {"cpu_cfs_quota_us": -1, "cpu_cfs_period_us": 100000},
        "/docker/1f",
    )
    assert allowance == Allowance()


def test_a_mixed_machine_has_controllers_in_one_version_and_services_in_the_other(machine):
    machine.mount(
        V1_MOUNT.format(top="/", name="memory"),
        "33 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        groups="4:memory:/box\n0::/\n",
    )
    machine.write("memory/box", memory_limit_in_bytes=70, memory_usage_in_bytes=30)
    assert machine.read().free_bytes == 40

"""What the control groups of this process leave it: a container's limits of memory and CPU time.

Both versions are read, as they are mounted. A limit may stand at any ancestor that can be seen, and
the tightest holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")

_NO_LIMIT = 1 << 62
"""Version 1 writes the largest number of whole pages instead of `max`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """None is no limit."""

    free_bytes: int | None = None
    """What may still be allocated. Cached files do not count as used: they give way."""
    num_cpus: float | None = None
    """CPU seconds a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    folder: Path
    top: str
    """The group that is seen at `folder`."""
    controllers: frozenset[str]
    """Empty is version 2, where a group has all of them."""


def read_allowance(root: Path = ROOT) -> Allowance:
    """`root` is where /proc and /sys are."""
    free_bytes: list[int] = []
    num_cpus: list[float] = []
    groups = dict(_list_groups(root))
    for mount in _list_mounts(root):
        for folder in _list_folders(mount, groups):
            if (free := _read_free_bytes(folder)) is not None:
                free_bytes.append(free)
            if (quota := _read_quota(folder)) is not None:
                num_cpus.append(quota)
    return Allowance(free_bytes=min(free_bytes, default=None), num_cpus=min(num_cpus, default=None))


def _list_groups(root: Path) -> Iterator[tuple[frozenset[str], str]]:
    """Controllers and path of each group that this process is in."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        yield frozenset(filter(None, controllers.split(","))), path


def _list_mounts(root: Path) -> Iterator[_Mount]:
    """Of mountinfo: id, parent, device, root, mount point, options … - type, source, options."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        top, point = mount.split()[3:5]
        kind, _, options = file_system.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            controllers = frozenset(options.split(",")) if kind == "cgroup" else frozenset[str]()
            yield _Mount(folder=root / point.lstrip("/"), top=top, controllers=controllers)


def _list_folders(mount: _Mount, groups: dict[frozenset[str], str]) -> Iterator[Path]:
    """The group's folder in `mount` and those of its ancestors there, as far as they are seen."""
    for controllers, path in groups.items():
        if controllers == mount.controllers or controllers & mount.controllers:
            inside = PurePosixPath(path)
            if inside.is_relative_to(mount.top):
                inside = inside.relative_to(mount.top)
            else:  # seen through a namespace: the mount shows the group itself
                inside = PurePosixPath()
            folder = mount.folder / inside.as_posix().lstrip("/")
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(mount.folder))


def _read_free_bytes(folder: Path) -> int | None:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [number for name in names if (number := _read_number(folder / name)) is not None]
    limit = min(limits, default=_NO_LIMIT)
    if limit >= _NO_LIMIT:
        return None
    used = sum(
        _read_number(folder / name) or 0  # one of them is there
        for name in ("memory.current", "memory.usage_in_bytes")
    )
    return max(0, limit - max(0, used - _read_cached_bytes(folder)))


def _read_cached_bytes(folder: Path) -> int:
    """Of files, the group's and those of the groups in it (version 1 adds these up apart)."""
    pairs = (line.split() for line in _read(folder / "memory.stat").splitlines())
    stat = {name: int(number) for name, number in pairs}
    prefix = "total_" if "total_inactive_file" in stat else ""
    return sum(stat.get(f"{prefix}{age}_file", 0) for age in ("active", "inactive"))


def _read_quota(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not period:
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    if not quota.isdecimal() or not period.isdecimal():  # max, -1 or not there
        return None
    return int(quota) / int(period)


def _read_number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    """Empty if it is not there or not to be read."""
    try:
        return path.read_text()
    except OSError:
        return ""

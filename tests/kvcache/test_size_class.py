import pytest

from service.errors import SettingsError
from service.kvcache.size_class import SizeClass, parse_size_classes


def test_size_classes_are_read_in_order_of_length():
    assert parse_size_classes("1x8192, 8x2048") == (
        SizeClass(slot_len=2048, num_slots=8),
        SizeClass(slot_len=8192, num_slots=1),
    )


def test_size_class_prints_as_it_is_written():
    assert str(parse_size_classes("8x2048")[0]) == "8x2048"


@pytest.mark.parametrize("text", ["", "8", "8x", "x2048", "0x2048", "257x2048", "8x8", "8x64,4x64"])
def test_what_cannot_be_a_size_class_is_quoted_in_the_error(text):
    with pytest.raises(SettingsError, match="size class"):
        parse_size_classes(text)

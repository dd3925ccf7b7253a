"""The screen, as a terminal would show it."""

import io

import pytest
from rich.console import Console, ConsoleDimensions

from service.cli.top.layout import ROOMY, WIDE, draw
from service.cli.top.reading import build_view
from service.cli.top.watcher import Look
from tests.cli.top.builders import BUSY, Service

URL = "http://127.0.0.1:8000"


def busy_view(change=lambda _service: None):
    service = Service()
    before = service.snapshot(0)
    service.answer()
    service.step(classes=BUSY, num_running=7, num_bytes=4096)
    change(service)
    return build_view(service.snapshot(2), before)


def show(look, width=80, height=24, *, styles=False):
    """Its lines, without the spaces at their ends."""
    console = Console(
        file=io.StringIO(), width=width, record=True, force_terminal=True, color_system="standard"
    )
    console.print(draw(look, url=URL, size=ConsoleDimensions(width, height)))
    return [line.rstrip() for line in console.export_text(styles=styles).splitlines()]


def line_of(lines, start):
    [line] = [line for line in lines if line.startswith(start)]
    return line.split()


def test_everything_fits_a_small_terminal():
    lines = show(Look(view=busy_view()))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_a_screen_says_what_the_service_does():
    lines = show(Look(view=busy_view()))
    assert lines[0] == f"smolserve {URL}  over 2.0 s"
    assert lines[1] == "● all is well"
    text = "\n".join(lines)
    assert "7 of 9 slots run, 0 waiting" in text
    assert "50 in, 25% of it cached" in text
    assert line_of(lines, "first token") == ["first", "token", "38", "ms", "49", "ms", "50", "ms"]
    assert line_of(lines, "2,048")[-5:] == ["6", "1", "1", "1,100", "7%"]
    assert line_of(lines, "host")[:3] == ["host", "4.0", "KiB"]
    assert "weights 100 B, kv 200 B, compute 300 B" in text
    assert line_of(lines, "0 ")[:5] == ["0", "up", "7", "0", "78%"]


def test_slots_are_drawn_as_run_cached_and_free():
    [bar] = [line for line in show(Look(view=busy_view())) if line.startswith("2,048")]
    assert "████████████▒▒··" in bar


def test_the_first_look_has_no_rates_yet():
    lines = show(Look(view=build_view(Service().snapshot(0), None)))
    assert "tokens/s         at the next look" in lines
    assert line_of(lines, "in queue") == ["in", "queue", "-", "-", "-"]


@pytest.mark.parametrize("height", [24, ROOMY])
def test_a_wide_terminal_has_sections_beside_each_other(height):
    look = Look(view=busy_view())
    wide, narrow = show(look, WIDE, height), show(look, WIDE - 1, height)
    assert len(wide) < len(narrow)
    assert max(map(len, wide)) <= WIDE
    assert any("requests" in line and "worker" in line for line in wide)


def test_a_tall_terminal_has_space_between_sections():
    look = Look(view=busy_view())
    assert "" not in show(look, height=ROOMY - 1)[:-1]
    assert "" in show(look, height=ROOMY)[:-1]


def test_what_is_wrong_stands_on_top_in_red():
    def suffer(service):
        service.metrics.worker_hung(0)
        service.answer(gap=0.3)

    lines = show(Look(view=busy_view(suffer)), styles=True)
    assert "\x1b[1;31m▲ between tokens p95" in lines[1]
    assert "\x1b[1;31m▲ workers hung: 1" in lines[1]
    assert any("\x1b[1;31mhangs 1" in line for line in lines)


def test_many_troubles_are_one_line():
    def suffer(service):
        for code in ("one", "two", "three", "four"):
            service.metrics.request_rejected(code)

    lines = show(Look(view=busy_view(suffer)))
    assert lines[1].endswith("and 1 more")
    assert lines[2].startswith("requests")


def test_a_problem_keeps_what_was_known_and_says_that_it_is_old():
    lines = show(Look(view=busy_view(), problem="nothing answers there"))
    assert lines[1] == "✗ nothing answers there. What is below is old. Trying again …"
    assert any("7 of 9 slots" in line for line in lines)


def test_a_service_that_was_never_seen_is_a_problem_alone():
    lines = show(Look(view=None, problem="nothing answers there"))
    assert [line for line in lines if line] == [
        f"smolserve {URL}",
        "✗ nothing answers there. Trying again …",
    ]


def test_gpus_are_told_where_there_are_some():
    view = busy_view()
    assert not any(line.startswith("GPUs") for line in show(Look(view=view)))

import io

from rich.console import Console

from service.models.progress import show_progress


def show(console: Console) -> str:
    with show_progress("tiny", console) as report:
        report(0, 2_000_000)
        report(2_000_000, 2_000_000)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_a_bar():
    assert "━" in show(Console(file=io.StringIO(), force_terminal=True, width=80))


def test_a_log_gets_no_more_than_a_line_every_few_seconds():
    assert show(Console(file=io.StringIO())) == ""

import io
import json

from rich.console import Console

from loadtests.traffic.answer import Answer
from loadtests.traffic.figures import build_table, gather_figures, measure_spread, to_json
from tests.loadtests.builders import failed_answer, refused_answer, whole_answer


def test_tokens_per_second_are_those_of_all_streams_over_the_whole_run():
    answers = [whole_answer(1.0, 2.0, num_tokens=30), whole_answer(1.0, 2.0, num_tokens=10)]
    [figures] = gather_figures(answers, 8.0).values()
    assert figures.tokens_per_second == 5.0
    assert figures.tokens_per_answer == 20.0


def test_times_are_milliseconds_over_every_single_value():
    answers = [whole_answer(1.0, 1.1, 1.3), whole_answer(3.0, 3.4)]
    [figures] = gather_figures(answers, 10.0).values()
    assert figures.ttft_ms is not None
    assert figures.itl_ms is not None
    assert (figures.ttft_ms.p50, figures.ttft_ms.max) == (2000.0, 3000.0)
    assert round(figures.itl_ms.p50) == 200
    assert round(figures.itl_ms.max) == 400


def test_a_high_quantile_lies_near_the_greatest_value():
    spread = measure_spread([*[1.0] * 99, 101.0])
    assert spread is not None
    assert spread.p50 == 1.0
    assert 1.0 <= spread.p99 < spread.max == 101.0


def test_failed_and_refused_answers_count_as_such_and_in_no_time():
    answers = [whole_answer(1.0, 2.0), failed_answer(), refused_answer(0.004)]
    [figures] = gather_figures(answers, 10.0).values()
    assert (figures.num_whole, figures.num_failed, figures.num_refused) == (1, 1, 1)
    assert figures.first_error == "status 500"
    assert figures.ttft_ms is not None
    assert figures.ttft_ms.max == 1000.0
    assert figures.refusal_ms is not None
    assert figures.refusal_ms.p50 == 4.0


def test_what_a_client_read_before_it_left_counts_in_the_speed():
    left = Answer(name="chat", sent=0.0, status=200, has_left=True, arrivals=[1.0, 2.0])
    left.pieces = ["a", "b"]
    left.end(2.5)
    [figures] = gather_figures([left], 2.0).values()
    assert (figures.num_left, figures.num_whole) == (1, 0)
    assert figures.tokens_per_second == 1.0
    assert figures.itl_ms is not None


def test_requests_of_several_kinds_have_figures_each_and_all_together():
    answers = [whole_answer(1.0, name="long"), whole_answer(2.0, name="short")]
    figures = gather_figures(answers, 10.0)
    assert list(figures) == ["all", "long", "short"]
    assert figures["all"].num_whole == 2
    assert figures["long"].num_whole == 1


def test_figures_of_nothing_are_no_numbers():
    [figures] = gather_figures([failed_answer()], 10.0).values()
    assert (figures.ttft_ms, figures.itl_ms, figures.tokens_per_answer) == (None, None, None)
    assert figures.tokens_per_second == 0


def test_the_table_shows_every_kind_and_says_what_is_missing():
    answers = [whole_answer(0.05, name="short"), failed_answer(name="long")]
    console = Console(file=io.StringIO(), width=200)
    console.print(build_table("steady", gather_figures(answers, 1.0)))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    [short] = [line for line in lines if "short" in line]
    [long] = [line for line in lines if "long" in line]
    assert "50.0" in short
    assert "-" in long


def test_figures_survive_json():
    figures = gather_figures([whole_answer(1.0, 1.5)], 1.0)
    document = json.loads(json.dumps(to_json(figures)))
    assert document["all"]["itl_ms"] == {"p50": 500.0, "p99": 500.0, "max": 500.0}
    assert document["all"]["refusal_ms"] is None

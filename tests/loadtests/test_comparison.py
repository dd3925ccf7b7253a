import json
import warnings

import pytest
from matplotlib.image import imread

from loadtests.compare import order_servers, parse
from loadtests.traffic.comparison import TOKENS, TTFT, Comparison, Group, Run
from loadtests.traffic.figures import gather_figures, to_json
from loadtests.traffic.plots import PLOTS, draw_plots
from tests.loadtests.builders import failed_answer, whole_answer


def run(server, round_number, answers, scenario="steady"):
    return Run(scenario, server, round_number, to_json(gather_figures(answers, 1.0)))  # pyright: ignore[reportArgumentType] - JSON


def story(ttft, name="chat"):
    return whole_answer(ttft, ttft + 0.5, name=name, num_tokens=round(10 * ttft))


def compare_two():
    runs = [
        run("a", 0, [story(1.0)]),
        run("b", 0, [story(4.0)]),
        run("b", 1, [story(6.0)]),
        run("a", 1, [story(3.0)]),
        run("a", 0, [story(1.0, "long"), story(0.5, "short")], "long-prompt-among-short"),
        run("b", 0, [failed_answer("long"), story(0.7, "short")], "long-prompt-among-short"),
    ]
    return Comparison(["a", "b"], runs)


def test_a_figure_is_the_median_of_its_rounds():
    steady = Group("steady", "all")
    assert compare_two().median(steady, "a", TTFT) == 2000
    assert compare_two().median(steady, "b", TTFT) == 5000
    assert compare_two().values(steady, "b", TOKENS) == [40, 60]


def test_kinds_of_requests_are_compared_each_for_itself():
    titles = [group.title for group in compare_two().groups]
    assert titles == ["steady", "long-prompt-among-short: long", "long-prompt-among-short: short"]


def test_the_markdown_has_a_row_for_every_server_under_each_scenario():
    lines = compare_two().to_markdown().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| steady | a | 2 | 0 | 0 | 2000 |")
    assert lines[3].startswith("| steady | b | 2 | 0 | 0 | 5000 |")
    assert lines[5].startswith("| long-prompt-among-short: long | b | 0 | 1 | 0 | - |")


def test_json_has_the_rounds_behind_the_medians():
    first, *_ = json.loads(json.dumps(compare_two().to_json()))
    assert (first["scenario"], first["server"], first["answers"]) == ("steady", "a", 2)
    assert first["TTFT p50, ms"] == {"median": 2000, "rounds": [1000, 3000]}


def test_plots_are_pictures_of_every_measure(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = draw_plots(compare_two(), tmp_path)
    assert [path.name for path in paths] == [name for name, *_ in PLOTS]
    for path in paths:
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0


def test_every_server_begins_in_its_turn():
    servers = {"a": "1", "b": "2", "c": "3"}
    orders = [order_servers(servers, number) for number in range(4)]
    assert [order[0] for order in orders] == ["a", "b", "c", "a"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_a_server_is_called_by_its_name_or_its_address():
    options = parse(["ours=http://127.0.0.1:1/v1", "http://127.0.0.1:2/?a=b"])
    assert options.servers == [
        ("ours", "http://127.0.0.1:1"),
        ("127.0.0.1:2/?a=b", "http://127.0.0.1:2/?a=b"),
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: [NAME=]URL"),
        (["ours=8000"], "'8000' is no URL"),
        (["a=http://x", "a=http://y"], "two servers are called 'a'"),
        (["http://x", "--scenarios", "steady", "stormy"], "no scenario 'stormy'; choose from"),
        (["http://x", "--rounds", "0"], "'0' is not a whole number from 1 up"),
    ],
)
def test_wrong_arguments_are_told(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err

import io
import json

import pytest

from service.batches.input_file import InputRules, check_input, read_request
from tests.batches.builders import ENDPOINT, input_of, line

RULES = InputRules(endpoint=ENDPOINT, max_lines=5, max_body_bytes=1000)


def check(text):
    return check_input(io.BytesIO(text.encode() if isinstance(text, str) else text), RULES)


def problem_of(text):
    [problem] = check(text).problems
    return problem.code, problem.line, problem.param


def test_valid_lines_are_found_where_they_are(tmp_path):
    text = "\n" + line(1) + "\r\n\n" + line(2)
    path = tmp_path / "input"
    path.write_bytes(text.encode())
    checked = check(text)
    assert checked.problems == []
    assert [(each.number, each.custom_id) for each in checked.lines] == [
        (2, "line-1"),
        (4, "line-2"),
    ]
    bodies = [json.loads(read_request(path, each)) for each in checked.lines]
    assert bodies == [{"say": "word 1"}, {"say": "word 2"}]


def test_the_model_is_what_the_first_line_asks_for():
    lines = [line(1, body={"model": "small"}), line(2, body={"model": "large"})]
    assert check("\n".join(lines)).model == "small"


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_requests_is_empty(text):
    assert problem_of(text) == ("empty_file", None, None)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": "/v1/embeddings"}, "invalid_url", "url"),
        ({"url": f"http://elsewhere{ENDPOINT}"}, "invalid_url", "url"),
        ({"custom_id": 7}, "invalid_value", "custom_id"),
        ({"custom_id": ""}, "invalid_value", "custom_id"),
        ({"custom_id": "x" * 513}, "invalid_value", "custom_id"),
        ({"body": "text"}, "invalid_value", "body"),
        ({"priority": 1}, "unknown_parameter", "priority"),
        ({"body": {"stream": True}}, "unsupported_parameter", "body.stream"),
        ({"body": {"background": True}}, "unsupported_parameter", "body.background"),
        ({"custom_id": "line-1"}, "duplicate_custom_id", "custom_id"),
    ],
)
def test_a_line_that_cannot_be_run_is_named(changes, code, param):
    assert problem_of(f"{line(1)}\n{line(2, **changes)}\n") == (code, 2, param)


@pytest.mark.parametrize("key", ["custom_id", "method", "url", "body"])
def test_what_is_missing_is_named(key):
    request = json.loads(line(1))
    del request[key]
    assert problem_of(json.dumps(request)) == ("missing_required_parameter", 1, key)


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "NaN", "\ufeff" + line(1)])
def test_a_line_that_is_not_an_object_is_named(text):
    assert problem_of(text) == ("invalid_json_line", 1, None)


def test_bytes_that_are_not_text_are_named():
    assert problem_of(b'{"custom_id": "\xff"}') == ("invalid_json_line", 1, None)


def test_a_line_that_is_too_long_is_named_and_the_next_one_read():
    text = line(1, body={"say": "x" * 20_000}) + "\n" + line(2, url="/elsewhere")
    assert [(each.code, each.line) for each in check(text).problems] == [
        ("line_too_long", 1),
        ("invalid_url", 2),
    ]


def test_as_many_lines_as_may_be_are_read_and_the_next_is_too_many():
    assert len(check(input_of(5)).lines) == 5
    assert problem_of(input_of(6)) == ("too_many_requests", 6, None)


def test_problems_are_listed_up_to_a_limit():
    assert len(check("{\n" * 1000).problems) == 100

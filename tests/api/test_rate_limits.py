"""Buckets, accounts and permits, by a clock of the test's own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.rate_limits import (
    RATE_LIMIT_HEADERS,
    Account,
    Bucket,
    Permit,
    RateLimits,
    format_duration,
)
from service.errors import RateLimitExceeded


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def open_account(clock=None, **limits):
    return Account(RateLimits(**limits), clock or Clock())


def headers_of(account):
    return {name.decode(): value.decode() for name, value in account.headers()}


def refusal_of(act, *arguments):
    with pytest.raises(RateLimitExceeded) as caught:
        act(*arguments)
    return caught.value


def test_a_bucket_holds_a_minutes_worth_and_refills_all_the_time():
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.level(0.0) == 0
    assert bucket.level(0.5) == pytest.approx(0.5)
    assert bucket.level(3600.0) == 60


def test_what_is_given_back_never_makes_a_bucket_more_than_full():
    bucket = Bucket(60, 0.0)
    bucket.take(10, 0.0)
    bucket.take(-10, 30.0)
    assert bucket.level(30.0) == 60


def test_what_was_used_of_old_limits_counts_towards_new_ones():
    clock = Clock()
    account = open_account(clock, requests_per_minute=10, tokens_per_minute=100, max_concurrent=1)
    for _ in range(4):
        account.admit()
    account.change_limits(RateLimits(requests_per_minute=5, max_concurrent=1))
    assert headers_of(account)["x-ratelimit-remaining-requests"] == "1"
    assert "x-ratelimit-limit-tokens" not in headers_of(account)
    account.change_limits(RateLimits(requests_per_minute=3))
    assert "3 requests per minute" in str(refusal_of(account.admit))
    account.change_limits(RateLimits())
    account.admit()
    assert account.num_requests == 5


def test_a_limit_that_is_lowered_keeps_nobody_out_for_more_than_a_minute():
    account = open_account(tokens_per_minute=200_000)
    account.reserve(190_000)
    account.change_limits(RateLimits(tokens_per_minute=1000))
    assert refusal_of(account.reserve, 1000).retry_after_seconds == 60


def test_a_limit_that_comes_while_a_request_runs_gives_nothing_back():
    account = open_account()
    permit = Permit(account)
    permit.reserve(num_prompt_tokens=50, num_answer_tokens=50)
    account.change_limits(RateLimits(tokens_per_minute=100))
    account.reserve(90)
    permit.settle(10)
    assert headers_of(account)["x-ratelimit-remaining-tokens"] == "0"


def test_a_debt_is_waited_for():
    bucket = Bucket(60, 0.0)
    bucket.take(90, 0.0)
    assert bucket.seconds_until(1, 0.0) == pytest.approx(31)


def test_more_than_a_bucket_holds_waits_until_it_is_full():
    bucket = Bucket(60, 0.0)
    assert bucket.seconds_until(1000, 0.0) == 0
    bucket.take(30, 0.0)
    assert bucket.seconds_until(1000, 0.0) == pytest.approx(30)


@given(
    capacity=st.integers(1, 10**7),
    takes=st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 100)), max_size=20),
    amount=st.integers(1, 10**6),
)
def test_after_the_time_that_a_bucket_says_it_has_what_was_asked_for(capacity, takes, amount):
    now = 5000.0
    bucket = Bucket(capacity, now)
    for taken, seconds in takes:
        bucket.take(taken, now)
        now += seconds
    assert bucket.seconds_until(amount, now + bucket.seconds_until(amount, now) + 1e-6) == 0


@given(
    capacity=st.integers(1, 1000),
    pauses=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_in_no_time_more_than_a_bucket_and_its_refill_is_let_through(capacity, pauses):
    clock = Clock()
    account = open_account(clock, requests_per_minute=capacity)
    num_admitted = 0
    for pause in pauses:
        clock.now += pause
        try:
            account.admit()
            num_admitted += 1
        except RateLimitExceeded:
            pass
    assert num_admitted <= math.floor(capacity * (1 + sum(pauses) / 60) + 1e-3)
    assert (account.num_requests, account.num_refused) == (num_admitted, len(pauses) - num_admitted)


def test_a_refusal_names_the_limit_and_takes_nothing():
    clock = Clock()
    account = open_account(clock, requests_per_minute=2)
    account.admit()
    account.admit()
    first = refusal_of(account.admit)
    for _ in range(100):
        refusal_of(account.admit)
    assert str(first) == (
        "Your limit here is 2 requests per minute, of which 0 are left and this needs 1; "
        "try again in 30 s."
    )
    assert (first.code, first.retry_after_seconds) == ("rate_limit_exceeded", 30)
    clock.now += 30
    account.admit()


def test_who_owes_tokens_is_refused_before_a_prompt_is_looked_at():
    account = open_account(tokens_per_minute=100)
    account.reserve(100)
    assert "100 tokens per minute" in str(refusal_of(account.admit))


def test_a_request_at_a_time_is_one_at_a_time():
    account = open_account(max_concurrent=1)
    permit, other = Permit(account), Permit(account)
    permit.admit()
    with permit.held():
        refused = refusal_of(other.admit)
        assert "1 requests at a time" in str(refused)
        assert refused.retry_after_seconds == 1
    other.admit()


def test_a_permit_ends_with_the_last_who_holds_it():
    account = open_account(tokens_per_minute=100)
    permit = Permit(account)
    with permit.held():
        background = permit.held()
        background.__enter__()
        permit.reserve(num_prompt_tokens=10, num_answer_tokens=20)
    assert account.num_running == 1
    assert headers_of(account)["x-ratelimit-remaining-tokens"] == "70"
    permit.settle(5)
    background.__exit__(None, None, None)
    assert account.num_running == 0
    assert headers_of(account)["x-ratelimit-remaining-tokens"] == "85"
    assert account.num_tokens == 15


def test_what_was_reserved_for_a_request_that_never_began_is_given_back():
    account = open_account(tokens_per_minute=100)
    permit = Permit(account)
    with permit.held():
        permit.reserve(num_prompt_tokens=10, num_answer_tokens=20)
    assert headers_of(account)["x-ratelimit-remaining-tokens"] == "100"
    assert account.num_tokens == 0


def test_an_answer_longer_than_its_guess_leaves_a_debt_and_remaining_stops_at_0():
    account = open_account(tokens_per_minute=100)
    permit = Permit(account)
    with permit.held():
        permit.reserve(num_prompt_tokens=50, num_answer_tokens=50)
        permit.settle(150)
    assert headers_of(account) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "2m0s",
    }
    assert refusal_of(account.admit).retry_after_seconds == 61


def test_headers_are_of_the_limits_that_there_are():
    assert headers_of(open_account()) == {}
    both = open_account(requests_per_minute=1, tokens_per_minute=1)
    assert tuple(headers_of(both)) == RATE_LIMIT_HEADERS


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (60, "1m0s"),
        (86.4, "1m26.4s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (4000.5, "1h6m40.5s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds, written):
    assert format_duration(seconds).decode() == written

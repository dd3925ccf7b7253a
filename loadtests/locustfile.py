"""Users of an OpenAI-compatible server, for locust: `make loadtest SCENARIO=steady USERS=8`.

Or by hand, which has locust's web page too:

    python -m locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --scenario steady

Locust's statistics have rows of the types TTFT and ITL, in milliseconds, and tokens/s beside those
of the requests. What is printed at the end, and written with --figures-file, is computed from every
single value instead of locust's rounded ones. The answers are kept in this process, so locust's
distributed mode shows its own statistics only.
"""

import itertools
import json
import random
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import ClassVar

import gevent
from gevent.pool import Group
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPSocketResponse
from locust import User, events, task
from locust.env import Environment
from rich.console import Console

from loadtests.traffic.answer import Answer
from loadtests.traffic.figures import build_table, gather_figures, to_json
from loadtests.traffic.scenarios import SCENARIOS, Ask, find_scenario, make_user
from loadtests.traffic.target import TargetError, find_model, make_headers, trim_url

PATH = "/v1/chat/completions"
PROGRESS_SECONDS = 2.0
REST_SECONDS = 0.25
"""After a request that failed or was refused, so that nobody asks in a tight loop."""
MOST_CONNECTIONS = 10_000


class Load:
    """One run against one server: what is sent, and what came back."""

    def __init__(self, environment: Environment, options: Namespace) -> None:
        if not environment.host:
            raise TargetError("no server to load; name one with --host")
        self.url = trim_url(environment.host)
        self.headers = make_headers(options.api_key)
        self.model = options.model or find_model(self.url, options.api_key)
        self.scenario = find_scenario(options.scenario)
        self.seed = options.seed
        self.answers: list[Answer] = []
        self.numbers = itertools.count()
        self.began = self.stopped = 0.0
        self._environment = environment

    def begin(self) -> None:
        self.answers.clear()
        self.numbers = itertools.count()
        self.began = time.monotonic()
        self.stopped = 0.0

    @property
    def seconds(self) -> float:
        return (self.stopped or time.monotonic()) - self.began

    def open(self, name: str) -> Answer:
        answer = Answer(name=name, sent=time.monotonic())
        self.answers.append(answer)
        return answer

    def close(self, answer: Answer) -> None:
        """Tell locust's statistics, of all gaps at once, which costs least."""
        stats = self._environment.stats
        if answer.is_refused:
            stats.get(answer.name, "429").log(round(answer.seconds * 1000), 0)
            return
        if not answer.has_left:
            self._environment.events.request.fire(
                request_type="POST",
                name=answer.name,
                response_time=answer.seconds * 1000,
                response_length=len(answer.text),
                exception=RuntimeError(answer.error) if answer.error else None,
                context={},
            )
        # Not through the event: the line of all requests together would count these as requests.
        if answer.ttft_seconds is not None:
            stats.get(answer.name, "TTFT").log(round(answer.ttft_seconds * 1000), 0)
        gaps = stats.get(answer.name, "ITL")
        for gap in answer.gaps:
            gaps.log(round(gap * 1000), 0)
        if answer.tokens_per_second is not None:
            stats.get(answer.name, "tokens/s").log(round(answer.tokens_per_second), 0)


class ChatUser(User):
    """Follows its scenario's script."""

    load: ClassVar[Load]

    def on_start(self) -> None:
        self._http = HTTPClient.from_url(
            self.load.url,
            concurrency=MOST_CONNECTIONS,
            network_timeout=300,
            connection_timeout=30,
        )
        self._beside = Group()

    def on_stop(self) -> None:
        self._beside.kill()
        self._http.close()

    @task
    def follow_script(self) -> None:
        load = self.load
        user = make_user(next(load.numbers), load.seed, time.monotonic)
        script = load.scenario.script(user)
        ask = next(script)
        while True:
            gevent.sleep(ask.pause_seconds)
            answer = None
            if ask.is_alone:
                answer = self._ask(ask)
                if answer.error or answer.is_refused:
                    gevent.sleep(REST_SECONDS)
            else:
                self._beside.spawn(self._ask, ask)
            ask = script.send(answer)

    def _ask(self, ask: Ask) -> Answer:
        answer = self.load.open(ask.name)
        try:
            with gevent.Timeout(ask.stay_seconds, False):  # noqa: FBT003 # pyright: ignore[reportArgumentType] - gevent's form of one that ends the body quietly
                answer.has_left = True  # unless it stays to the end
                self._read(ask, answer)
                answer.has_left = False
        except (OSError, ValueError) as error:
            answer.has_left = False
            answer.error = f"{type(error).__name__}: {error}"[:200]
        finally:
            answer.end(time.monotonic())
            if ask.schema is not None:
                answer.check(ask.schema)
            self.load.close(answer)
        return answer

    def _read(self, ask: Ask, answer: Answer) -> None:
        session = {"X-Session-Id": ask.session} if ask.session else {}
        body = json.dumps(ask.body(self.load.model)).encode()
        response = self._http.request("POST", PATH, body, self.load.headers | session)
        try:
            answer.status = response.status_code
            if answer.status == 200:
                _read_lines(response, answer)
            else:
                text = response.read().decode(errors="replace")
                if not answer.is_refused:
                    answer.error = f"status {answer.status}: {text}"[:200]
        finally:
            response.release()


def _read_lines(response: HTTPSocketResponse, answer: Answer) -> None:
    while line := response.readline(b"\n"):
        answer.feed(line, time.monotonic())


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:  # noqa: ANN001 - locust's own, of configargparse
    parser.add_argument(
        "--scenario", choices=list(SCENARIOS), default="steady", help="What the users do"
    )
    parser.add_argument("--model", default="", help="Default: the first that the server lists")
    parser.add_argument(
        "--api-key",
        env_var="LOADTEST_API_KEY",
        default="",
        is_secret=True,
        help="Better given by the variable, since others see a command line",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(10**6),
        help="Of what is asked; a server remembers prompts of a seed that it has seen",
    )
    parser.add_argument("--figures-file", default="", help="JSON file for the figures")


@events.init.add_listener
def prepare(environment: Environment, **_: object) -> None:
    assert environment.parsed_options is not None
    try:
        ChatUser.load = Load(environment, environment.parsed_options)
    except TargetError as error:
        sys.exit(f"loadtest: {error}")


@events.test_start.add_listener
def begin(environment: Environment, **_: object) -> None:
    ChatUser.load.begin()
    if environment.parsed_options and environment.parsed_options.headless:
        gevent.spawn(show_progress, ChatUser.load)


@events.test_stopping.add_listener
def stop(**_: object) -> None:
    ChatUser.load.stopped = time.monotonic()


@events.quitting.add_listener
def show_figures(environment: Environment, **_: object) -> None:
    load = ChatUser.load
    if not load.answers:
        return
    figures = gather_figures(load.answers, load.seconds)
    title = f"{load.scenario.name}: {load.model} at {load.url}, {load.seconds:.0f} s"
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(build_table(title, figures))
    options = environment.parsed_options
    if options and options.figures_file:
        document = {
            "scenario": load.scenario.name,
            "url": load.url,
            "model": load.model,
            "users": options.num_users,
            "seconds": load.seconds,
            "figures": to_json(figures),
        }
        Path(options.figures_file).write_text(json.dumps(document, indent=2) + "\n")


def show_progress(load: Load) -> None:
    num_before = 0
    while not load.stopped:
        gevent.sleep(PROGRESS_SECONDS)
        num_bad = sum(answer.error is not None or answer.is_refused for answer in load.answers)
        num_whole = sum(answer.is_whole for answer in load.answers)
        num_pieces = sum(len(answer.arrivals) for answer in load.answers)
        rate = (num_pieces - num_before) / PROGRESS_SECONDS
        num_before = num_pieces
        print(
            f"{load.seconds:4.0f} s: {num_whole} answers, {num_bad} failed or refused, "
            f"now {rate:.0f} pieces of text a second",
            file=sys.stderr,
            flush=True,
        )

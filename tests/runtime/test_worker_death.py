"""Workers die, requests do not. The processes are real, the engine in them is simulated."""

import asyncio
import signal

import msgspec
import pytest

from service.errors import EngineUnavailable, WorkerDied
from tests.runtime.builders import (
    PoolBench,
    engine_config,
    kill_a_worker,
    read,
    read_tokens,
    request,
    running_pool,
    undisturbed,
    until,
    worker_processes,
)

SLOW = {"step_seconds": 0.02}
DEADLY = 666


def engine(contexts: str = "4x256", **model):
    return engine_config(contexts, **SLOW | model)


def never_ready_again(bench: PoolBench) -> None:
    """From now on a worker that starts dies before it is ready."""
    for supervisor in bench.pool._supervisors:
        assert supervisor._config.simulate is not None
        model = msgspec.structs.replace(supervisor._config.simulate, dies_in_warm_up="always")
        supervisor._config = msgspec.structs.replace(supervisor._config, simulate=model)


async def decoding(*streams) -> None:
    await until(lambda: all(stream.num_output_tokens >= 2 for stream in streams))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_stream_goes_on_where_it_stopped(number):
    async with running_pool(engine()) as bench:
        stream = bench.pool.submit(request([5, 6, 7], max_tokens=30))
        await decoding(stream)
        kill_a_worker(number)
        assert await read_tokens(stream) == undisturbed([5, 6, 7], 30)
        assert stream.finish_reason == "length"
        assert (stream.num_prompt_tokens, stream.num_output_tokens) == (3, 30)
        assert bench.sample("resubmissions_total") == 1
        assert bench.sample("worker_restarts_total", worker="0") == 1
        assert bench.sample("requests_finished_total", reason="error") == 0


@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
async def test_request_survives_at_every_stage(stage):
    prompt = [5] * 900
    async with running_pool(engine("1x1024", row_seconds=0.0005)) as bench:
        first = bench.pool.submit(request([1, 2], max_tokens=60)) if stage == "queued" else None
        stream = bench.pool.submit(request(prompt, max_tokens=9))
        if first is not None:
            await decoding(first)
        await until(lambda: stream.stage == stage)
        kill_a_worker()
        if first is not None:
            assert await read_tokens(first) == undisturbed([1, 2], 60)
        assert await read_tokens(stream) == undisturbed(prompt, 9)


async def test_cached_tokens_are_told_as_at_first():
    prompt = list(range(100, 140))
    async with running_pool(engine()) as bench:
        await read(bench.pool.submit(request(prompt, max_tokens=2)))
        stream = bench.pool.submit(request(prompt, max_tokens=20))
        await decoding(stream)
        kill_a_worker()
        assert await read_tokens(stream) == undisturbed(prompt, 20)
        assert stream.num_cached_tokens == len(prompt) - 1


async def test_answer_longer_than_its_first_slot_goes_on_in_one_that_holds_it():
    async with running_pool(engine("2x300,1x1024", step_seconds=0.002)) as bench:
        stream = bench.pool.submit(request([5], max_tokens=600))
        await until(lambda: stream.num_output_tokens > 350)
        kill_a_worker()
        assert await read_tokens(stream) == undisturbed([5], 600)


async def test_hung_worker_is_killed_and_its_streams_go_on():
    async with running_pool(engine(), watchdog_seconds=1.0) as bench:
        stream = bench.pool.submit(request([5], max_tokens=30))
        await decoding(stream)
        kill_a_worker(signal.SIGSTOP)
        assert await read_tokens(stream) == undisturbed([5], 30)
        assert bench.sample("watchdog_kills_total", worker="0") == 1


async def test_worker_that_hangs_before_its_first_report_is_killed_too():
    async with running_pool(engine(), watchdog_seconds=1.0) as bench:
        kill_a_worker(signal.SIGSTOP)
        stream = bench.pool.submit(request([5], max_tokens=5))
        assert await read_tokens(stream) == undisturbed([5], 5)


async def test_sixteen_streams_under_repeated_kills_say_what_they_would_have_said():
    prompts = [list(range(50 * n, 50 * n + 40)) for n in range(1, 17)]
    async with running_pool(engine("16x256")) as bench:
        streams = [bench.pool.submit(request(prompt, max_tokens=150)) for prompt in prompts]
        readers = [asyncio.create_task(read_tokens(stream)) for stream in streams]
        for num_tokens in (3, 40, 80):
            await until(lambda: all(each.num_output_tokens >= num_tokens for each in streams))  # noqa: B023 - awaited here
            kill_a_worker()
            await until(lambda: not bench.pool.is_ready)
        answers = await asyncio.gather(*readers)
        assert answers == [undisturbed(prompt, 150) for prompt in prompts]
        assert bench.sample("resubmissions_total") == 3 * 16
        assert bench.sample("quarantines_total") == 0


async def test_text_withheld_for_a_stop_string_is_not_lost_with_the_worker():
    async with running_pool(engine()) as bench:
        words = [str(token) for token in undisturbed([5, 6], 60)]
        stop = " ".join(words[5:40])
        stream = bench.pool.submit(request([5, 6], max_tokens=60, stop=(stop,)))
        await until(lambda: stream.num_output_tokens >= 10)
        kill_a_worker()
        assert (await read(stream)).split() == words[:5]
        assert stream.finish_reason == "stop"
        await until(lambda: bench.sample("requests_running", worker="0") == 0)


async def test_character_that_was_half_written_is_finished_by_the_next_worker():
    text = "é€😀".encode()

    def pieces(token: int) -> bytes:
        return (
            text[token % 2 : token % 2 + 1] if token % 5 else text[5:9][token % 4 : token % 4 + 1]
        )

    expected = b"".join(map(pieces, undisturbed([9], 60))).decode(errors="replace")
    async with running_pool(engine(), token_bytes=pieces) as bench:
        stream = bench.pool.submit(request([9], max_tokens=60))
        for num_tokens in (5, 30):
            await until(lambda: stream.num_output_tokens >= num_tokens)  # noqa: B023 - awaited here
            kill_a_worker()
            await until(lambda: not bench.pool.is_ready)
        assert await read(stream) == expected


async def test_new_requests_are_refused_while_no_worker_lives():
    async with running_pool(engine()) as bench:
        stream = bench.pool.submit(request([5], max_tokens=20))
        await decoding(stream)
        kill_a_worker()
        await until(lambda: (bench.pool.num_running, bench.pool.num_waiting) == (0, 1))
        assert not bench.pool.is_ready
        with pytest.raises(EngineUnavailable):
            bench.pool.submit(request([5]))
        await read(stream)
        assert await read_tokens(bench.pool.submit(request([7], max_tokens=4))) == undisturbed(
            [7], 4
        )


async def test_client_that_leaves_while_no_worker_lives_is_forgotten():
    async with running_pool(engine()) as bench:
        stays, leaves = (bench.pool.submit(request([n], max_tokens=20)) for n in (1, 2))
        await decoding(stays, leaves)
        kill_a_worker()
        await until(lambda: not bench.pool.is_ready)
        leaves.abort()
        assert bench.sample("aborts_total", stage="decode") == 1
        assert await read_tokens(stays) == undisturbed([1], 20)
        assert bench.sample("resubmissions_total") == 1
        assert bench.pool.num_running == bench.pool.num_waiting == 0


async def test_stopping_fails_those_who_wait_for_a_worker():
    async with running_pool(engine()) as bench:
        stream = bench.pool.submit(request([5], max_tokens=20))
        await decoding(stream)
        kill_a_worker()
        await until(lambda: not bench.pool.is_ready)
    with pytest.raises(WorkerDied, match="shutting down"):
        await read(stream)


async def test_requests_fail_when_no_worker_can_be_started_again():
    async with running_pool(engine()) as bench:
        stream = bench.pool.submit(request([5], max_tokens=20))
        await decoding(stream)
        never_ready_again(bench)
        kill_a_worker()
        with pytest.raises(WorkerDied, match="cannot be restarted"):
            await read(stream)
        assert bench.pool.num_waiting == 0


async def test_living_worker_takes_over_at_once():
    async with running_pool(engine(), workers=2) as bench:
        prompts = [[n] for n in range(4)]
        streams = [bench.pool.submit(request(prompt, max_tokens=60)) for prompt in prompts]
        await decoding(*streams)
        never_ready_again(bench)
        kill_a_worker()
        answers = await asyncio.gather(*map(read_tokens, streams))
        assert answers == [undisturbed(prompt, 60) for prompt in prompts]
        assert bench.sample("resubmissions_total") == 2
        assert bench.pool.is_ready


@pytest.mark.parametrize("workers", [1, 2])
async def test_request_that_kills_two_workers_fails_and_nobody_else_does(workers):
    prompts = [list(range(50 * n, 50 * n + 30)) for n in range(1, 6)]
    async with running_pool(engine("8x256", deadly_token=DEADLY), workers=workers) as bench:
        early = [bench.pool.submit(request(prompt, max_tokens=120)) for prompt in prompts[:3]]
        await decoding(*early)
        deadly = bench.pool.submit(request([1, 2, DEADLY], max_tokens=9))
        late = [bench.pool.submit(request(prompt, max_tokens=120)) for prompt in prompts[3:]]
        readers = [asyncio.create_task(read_tokens(stream)) for stream in (*early, *late)]
        with pytest.raises(WorkerDied, match="2 workers died while they ran this request"):
            await read(deadly)
        assert await asyncio.gather(*readers) == [undisturbed(prompt, 120) for prompt in prompts]
        assert bench.sample("quarantines_total") == 1
        assert bench.sample("requests_finished_total", reason="error") == 1
        restarts = [bench.sample("worker_restarts_total", worker=str(n)) for n in range(workers)]
        assert sum(filter(None, restarts)) == 2


async def test_two_deadly_requests_are_told_from_each_other_and_from_the_rest():
    prompts = [list(range(50 * n, 50 * n + 30)) for n in range(1, 4)]
    async with running_pool(engine("8x256", deadly_token=DEADLY)) as bench:
        good = [bench.pool.submit(request(prompt, max_tokens=60)) for prompt in prompts]
        bad = [bench.pool.submit(request([n, DEADLY])) for n in (1, 2)]
        ends = await asyncio.gather(*map(read, bad), return_exceptions=True)
        assert all(isinstance(end, WorkerDied) for end in ends)
        answers = await asyncio.gather(*map(read_tokens, good))
        assert answers == [undisturbed(prompt, 60) for prompt in prompts]
        assert bench.sample("quarantines_total") == 2


async def test_those_who_only_waited_count_no_death():
    async with running_pool(engine("1x256", deadly_token=DEADLY)) as bench:
        deadly = bench.pool.submit(request([1, DEADLY]))
        waiting = [bench.pool.submit(request([n], max_tokens=5)) for n in (2, 3, 4)]
        with pytest.raises(WorkerDied):
            await read(deadly)
        assert [flight.num_deaths for flight in bench.pool._flights.values()] == [0, 0, 0]
        for number, stream in zip((2, 3, 4), waiting, strict=True):
            assert await read_tokens(stream) == undisturbed([number], 5)


async def test_suspect_without_a_slot_does_not_hold_up_a_living_worker():
    """The only long slot of the second worker is taken; the suspect needs just that."""
    async with running_pool(engine("2x64,1x1024"), workers=2) as bench:
        long = [bench.pool.submit(request([n] * 500, max_tokens=200)) for n in (1, 2)]
        await until(lambda: all(stream.stage == "decode" for stream in long))
        never_ready_again(bench)
        kill_a_worker(signal.SIGSEGV)
        await until(lambda: len(worker_processes()) == 1 or bench.pool.num_waiting == 1)
        short = bench.pool.submit(request([3], max_tokens=5))
        assert await read_tokens(short) == undisturbed([3], 5)
        for stream in long:
            stream.abort()

import asyncio

from service.batches.gate import Gate
from tests.batches.builders import Clock, Slots, until


def build_gate(slots, *, max_in_flight=None, is_closed=lambda: False, clock=None):
    return Gate(
        slots, max_in_flight=max_in_flight, is_closed=is_closed, clock=clock or Clock(100.0)
    )


async def enter_all(gate, number):
    return [asyncio.create_task(gate.enter()) for _ in range(number)]


async def stop(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_as_many_enter_as_slots_are_idle():
    slots = Slots(4)
    slots.num_others = 1
    gate = build_gate(slots)
    tasks = await enter_all(gate, 10)
    await until(lambda: gate.num_in_flight == 3)
    await asyncio.sleep(0.15)  # longer than the gate waits before it looks again
    assert gate.num_in_flight == 3
    await stop(tasks)


async def test_nobody_enters_while_others_want_all_slots():
    slots = Slots(2)
    slots.num_others = 3
    gate = build_gate(slots)
    tasks = await enter_all(gate, 1)
    await asyncio.sleep(0.15)
    assert gate.num_in_flight == 0
    slots.num_others = 1
    await until(lambda: gate.num_in_flight == 1)
    await stop(tasks)


async def test_who_leaves_lets_the_next_in():
    gate = build_gate(Slots(1))
    await gate.enter()
    waiting = asyncio.create_task(gate.enter())
    gate.leave()
    await waiting
    assert gate.num_in_flight == 1


async def test_the_setting_bounds_what_idle_slots_would_take():
    gate = build_gate(Slots(8), max_in_flight=2)
    tasks = await enter_all(gate, 5)
    await until(lambda: gate.num_in_flight == 2)
    await asyncio.sleep(0.15)
    assert gate.num_in_flight == 2
    await stop(tasks)


async def test_a_pause_holds_everybody_until_it_is_over():
    clock = Clock(100.0)
    gate = build_gate(Slots(4), clock=clock)
    gate.pause(5)
    gate.pause(1)
    task = asyncio.create_task(gate.enter())
    clock.now = 104.9
    await asyncio.sleep(0.15)
    assert not task.done()
    clock.now = 105.0
    await task


async def test_an_engine_that_is_not_ready_gets_nothing():
    slots = Slots(4)
    slots.is_ready = False
    gate = build_gate(slots)
    task = asyncio.create_task(gate.enter())
    await asyncio.sleep(0.15)
    assert not task.done()
    slots.is_ready = True
    await task


async def test_those_who_wait_enter_in_turn():
    gate = build_gate(Slots(1))
    order = []

    async def enter(name):
        await gate.enter()
        order.append(name)
        gate.leave()

    await gate.enter()
    tasks = [asyncio.create_task(enter(name)) for name in "abc"]
    await asyncio.sleep(0)
    gate.leave()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]

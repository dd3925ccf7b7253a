import pytest

from service.errors import StorageError
from service.records.database import MEMORY
from service.records.responses import ItemRecord, ResponseRecord, ResponseRecords

DAY = 24 * 3600


class Clock:
    time = 1_000_000.0

    def __call__(self):
        return self.time


async def opened(path=MEMORY, clock=None, **limits):
    records = ResponseRecords(
        path, **{"ttl_seconds": DAY, "max_bytes": 10**9} | limits, now=clock or Clock()
    )
    await records.open()
    return records


def record(number, previous=None, *, chain="r1", tenant="", body=b"{}", is_finished=True):
    return ResponseRecord(
        id=f"r{number}",
        tenant=tenant,
        chain=chain,
        previous=previous,
        is_finished=is_finished,
        body=body,
        input=[ItemRecord(id=f"in{number}", body=b"input")],
        output=[ItemRecord(id=f"out{number}", body=b"output")],
    )


async def test_a_record_comes_back_as_it_was_put(tmp_path):
    path = tmp_path / "responses.sqlite3"
    records = await opened(path)
    await records.put(record(1))
    await records.close()
    again = await opened(path)
    assert await again.get("r1", "") == record(1)
    assert await again.get("r2", "") is None
    await again.close()


async def test_a_record_is_replaced_by_a_later_one_of_its_id():
    records = await opened()
    await records.put(record(1, is_finished=False))
    await records.put(record(1, body=b"later"))
    assert await records.get("r1", "") == record(1, body=b"later")
    await records.close()


async def test_another_tenant_finds_nothing():
    records = await opened()
    await records.put(record(1, tenant="one"))
    assert await records.get("r1", "two") is None
    assert await records.get_chain("r1", "two") == []
    assert await records.find_items(["in1"], "two") == {}
    assert not await records.delete("r1", "two")
    assert await records.get("r1", "one") is not None
    await records.close()


async def test_a_chain_is_read_from_its_first_response():
    records = await opened()
    for number in (1, 2, 3):
        await records.put(record(number, f"r{number - 1}" if number > 1 else None))
    await records.put(record(4, "r1"))
    assert [each.id for each in await records.get_chain("r3", "")] == ["r1", "r2", "r3"]
    assert [each.id for each in await records.get_chain("r4", "")] == ["r1", "r4"]
    await records.delete("r1", "")
    [first, _] = await records.get_chain("r3", "")
    assert (first.id, first.previous) == ("r2", "r1")
    await records.close()


async def test_items_of_inputs_and_outputs_are_found_by_id_the_newest_first():
    records = await opened()
    await records.put(record(1))
    newer = ItemRecord(id="in1", body=b"newer")
    await records.put(
        ResponseRecord(
            id="r2",
            tenant="",
            chain="r2",
            previous=None,
            is_finished=True,
            body=b"",
            input=[newer],
        )
    )
    found = await records.find_items(["in1", "out1", "absent"], "")
    assert found == {"in1": b"newer", "out1": b"output"}
    await records.close()


async def test_a_chain_expires_as_one_counted_from_its_last_response():
    clock = Clock()
    records = await opened(clock=clock)
    await records.put(record(1))
    clock.time += DAY - 1
    await records.put(record(2, "r1"))
    clock.time += DAY - 1
    assert len(await records.get_chain("r2", "")) == 2
    clock.time += 1
    assert await records.get_chain("r2", "") == []
    assert await records.find_items(["in1"], "") == {}
    await records.close()


async def test_what_expired_is_deleted_from_the_file(tmp_path):
    path = tmp_path / "responses.sqlite3"
    clock = Clock()
    records = await opened(path, clock)
    await records.put(record(1, body=b"secret" * 100_000))
    clock.time += DAY
    await records.put(record(2, chain="r2"))
    await records.close()
    assert path.stat().st_size < 100_000


async def test_the_chain_not_used_for_longest_makes_room():
    clock = Clock()
    records = await opened(clock=clock, max_bytes=1_000_000)
    for number in range(1, 6):
        clock.time += 1
        await records.put(record(number, chain=f"r{number}", body=b"x" * 300_000))
    there = [number for number in range(1, 6) if await records.get(f"r{number}", "")]
    assert there == [3, 4, 5]
    await records.close()


async def test_what_cannot_fit_is_refused_and_costs_nobody_else_their_place():
    records = await opened(max_bytes=1_000_000)
    await records.put(record(1))
    with pytest.raises(StorageError, match="store=false"):
        await records.put(record(2, chain="r2", body=b"x" * 2_000_000))
    assert await records.get("r1", "") is not None
    await records.close()


async def test_what_was_being_made_is_found_after_a_restart(tmp_path):
    path = tmp_path / "responses.sqlite3"
    records = await opened(path)
    await records.put(record(1, tenant="one"))
    await records.put(record(2, chain="r2", tenant="two", is_finished=False))
    await records.close()
    again = await opened(path)
    [unfinished] = await again.list_unfinished()
    assert (unfinished.id, unfinished.tenant) == ("r2", "two")
    await again.close()

import asyncio
import multiprocessing
import os
import signal

import pytest

from service.errors import StorageError
from service.records.database import MEMORY, Database, num_bytes

NOTES = "CREATE TABLE notes (text TEXT); CREATE INDEX by_text ON notes (text)"


async def opened(path, *migrations):
    database = Database(path, migrations or (NOTES,))
    await database.open()
    return database


def note(text):
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,))


def read(connection):
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY rowid")]


async def test_what_was_written_is_there_after_a_restart(tmp_path):
    path = tmp_path / "deep" / "notes.sqlite3"
    first = await opened(path)
    await first.run(note("kept"))
    await first.close()
    second = await opened(path)
    assert await second.run(read) == ["kept"]
    await second.close()


async def test_work_that_raises_is_undone():
    database = await opened(MEMORY)

    def write_and_fail(connection):
        note("lost")(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(write_and_fail)
    assert await database.run(read) == []
    await database.close()


async def test_sqlites_failures_are_storage_errors_and_leave_the_database_usable():
    database = await opened(MEMORY)
    with pytest.raises(StorageError, match="no such table"):
        await database.run(lambda connection: connection.execute("SELECT * FROM absent"))
    await database.run(note("after"))
    assert await database.run(read) == ["after"]
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.run(read)


async def test_an_older_file_is_migrated(tmp_path):
    path = tmp_path / "notes.sqlite3"
    old = await opened(path)
    await old.run(note("old"))
    await old.close()
    new = await opened(path, NOTES, "ALTER TABLE notes ADD COLUMN author TEXT DEFAULT 'nobody'")
    assert await new.run(lambda each: each.execute("SELECT * FROM notes").fetchall()) == [
        ("old", "nobody")
    ]
    await new.close()


async def test_a_newer_file_is_refused(tmp_path):
    path = tmp_path / "notes.sqlite3"
    await (await opened(path, NOTES, "CREATE TABLE more (x)")).close()
    with pytest.raises(StorageError, match="newer version"):
        await opened(path)


async def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "notes.sqlite3"
    with pytest.raises(StorageError):
        await opened(path, NOTES, "CREATE TABLE a (x); NOT SQL")
    await (await opened(path)).close()


async def test_a_second_owner_is_told_at_its_start(tmp_path):
    path = tmp_path / "notes.sqlite3"
    owner = await opened(path)
    with pytest.raises(StorageError, match="another process uses it"):
        await opened(path)
    await owner.close()
    await (await opened(path)).close()


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "notes.sqlite3"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError, match="Move it away"):
        await opened(path)
    assert path.read_bytes() == b"garbage" * 1000


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Choose a file in a folder"):
        await opened(tmp_path / "file" / "notes.sqlite3")


async def test_others_may_not_read_the_file(tmp_path):
    path = tmp_path / "state" / "notes.sqlite3"
    await (await opened(path)).close()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


async def test_size_counts_rows_and_not_free_pages():
    database = await opened(MEMORY)
    empty = await database.run(num_bytes)
    await database.run(note("x" * 100_000))
    assert await database.run(num_bytes) > empty + 100_000
    await database.run(lambda each: each.execute("DELETE FROM notes"))
    assert await database.run(num_bytes) < empty + 20_000
    await database.close()


async def test_what_was_committed_survives_a_kill(tmp_path):
    path = tmp_path / "notes.sqlite3"
    victim = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(path,))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    database = await opened(path)
    assert await database.run(read) == [str(number) for number in range(50)]
    await database.close()


def _write_and_die(path):
    async def write():
        database = await opened(path)
        for number in range(50):
            await database.run(note(str(number)))
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(write())

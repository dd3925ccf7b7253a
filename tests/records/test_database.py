import sqlite3

import pytest

from service.errors import StorageError
from service.records.database import Database

MIGRATIONS = ("CREATE TABLE words (word TEXT UNIQUE)",)


async def open_database(path, migrations=MIGRATIONS):
    database = Database(path, migrations)
    await database.open()
    return database


def insert(word):
    return lambda connection: connection.execute("INSERT INTO words VALUES (?)", (word,)).rowcount


def read(connection):
    return [word for (word,) in connection.execute("SELECT word FROM words")]


async def test_what_was_committed_is_there_after_opening_again(tmp_path):
    database = await open_database(tmp_path / "new" / "words.sqlite")
    assert await database.run(insert("one")) == 1
    await database.close()
    again = await open_database(tmp_path / "new" / "words.sqlite")
    assert await again.run(read) == ["one"]
    await again.close()


async def test_a_transaction_that_raises_leaves_nothing(tmp_path):
    database = await open_database(tmp_path / "words.sqlite")

    def fail(connection):
        insert("one")(connection)
        insert("one")(connection)

    with pytest.raises(sqlite3.IntegrityError):
        await database.run(fail)
    assert await database.run(read) == []
    await database.close()


async def test_new_migrations_run_on_an_old_file_once(tmp_path):
    path = tmp_path / "words.sqlite"
    await (await open_database(path)).close()
    longer = (*MIGRATIONS, "INSERT INTO words VALUES ('migrated')")
    for _ in range(2):
        database = await open_database(path, longer)
        assert await database.run(read) == ["migrated"]
        await database.close()


async def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "words.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StorageError, match=r"words\.sqlite"):
        await open_database(path)


async def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"words\.sqlite"):
        await open_database(tmp_path / "file" / "words.sqlite")


async def test_a_full_disk_is_an_error_and_the_database_goes_on(tmp_path):
    database = await open_database(tmp_path / "words.sqlite")
    limit = await database.run(lambda connection: connection.execute("PRAGMA page_count"))
    (pages,) = limit.fetchone()
    await database.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StorageError, match="full"):
        await database.run(insert("long" * 10_000))
    assert await database.run(insert("short")) == 1
    await database.close()

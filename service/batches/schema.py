"""The tables. A line is in `lines` until it has a result, and then in `results`, never in both.

A document is all that is known of a file or batch; the columns beside it are what is searched for.
"""

MIGRATIONS = (
    """
    CREATE TABLE files (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        purpose TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        document BLOB NOT NULL
    );
    CREATE INDEX files_of_tenant ON files (tenant, number);
    CREATE TABLE batches (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        status TEXT NOT NULL,
        is_over INTEGER NOT NULL,
        input_file_id TEXT NOT NULL,
        document BLOB NOT NULL
    );
    CREATE INDEX batches_of_tenant ON batches (tenant, number);
    CREATE INDEX batches_by_status ON batches (status);
    CREATE TABLE lines (
        batch_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        custom_id TEXT NOT NULL,
        offset INTEGER NOT NULL,
        length INTEGER NOT NULL,
        PRIMARY KEY (batch_id, number)
    ) WITHOUT ROWID;
    CREATE TABLE results (
        batch_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (batch_id, number)
    )
    """,
)

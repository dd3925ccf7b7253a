"""What outlives a request and the process: SQLite files, each with one owner."""

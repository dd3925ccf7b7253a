class SetupError(Exception):
    """The set-up cannot go on; the message is one line that says why and what to do."""

"""Arguments of the load tests' commands, and what is said of wrong ones."""

from argparse import ArgumentTypeError

from loadtests.traffic.scenarios import find_scenario


def scenario_name(text: str) -> str:
    try:
        return find_scenario(text).name
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A number of users, rounds or whole seconds."""
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)

"""Prepares a checkout: virtual environment, locked packages, llama-cpp-python for this CPU, model.

Runs before anything is installed, hence on the standard library alone: `python3 -m deploy.setup`
from the top of the checkout, which is what `make serve` and `make test` do.
"""

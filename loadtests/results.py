"""How measurements are shown: a table for people, JSON for scripts."""

import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table


def show_results(title: str, results: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, indent=2))
        return
    table = Table(title=title, show_header=False)
    for name, value in results.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)

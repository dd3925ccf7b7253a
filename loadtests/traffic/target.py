"""The server that is loaded: what its URL means, and which model it serves."""

import json
import urllib.error
import urllib.request


class TargetError(Exception):
    """The server cannot be loaded; the message says why."""


def trim_url(url: str) -> str:
    """Without the /v1 that OpenAI's clients want behind a base URL."""
    trimmed = url.rstrip("/").removesuffix("/v1").rstrip("/")
    if not trimmed.startswith(("http://", "https://")):
        raise TargetError(f"{url!r} is no URL of a server; one is like http://127.0.0.1:8000")
    return trimmed


def make_headers(api_key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    return headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def find_model(url: str, api_key: str | None) -> str:
    """The first model that the server lists. Raises TargetError."""
    request = urllib.request.Request(f"{url}/v1/models", headers=make_headers(api_key))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        hint = "; set LOADTEST_API_KEY" if isinstance(error, urllib.error.HTTPError) else ""
        raise TargetError(f"{url}/v1/models names no model: {error}{hint}") from None

"""What `smolserve serve` says when it is ready: how to call it, and what it took."""

import shlex
from collections.abc import Iterable

import orjson

from service.app import Started
from service.settings import Settings

_QUESTION = "Why is the sky blue?"
_MAX_TOKENS = 200
"""A small model may ramble; the first try should not take long."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
_MEBIBYTE = 1024 * 1024


def greet(settings: Settings, started: Started) -> str:
    url = base_url(settings)
    needs_key = bool(settings.api_keys)
    return "\n".join(
        [
            *_list_choices(started),
            *_list_memory(started),
            "",
            f"Ready: {started.model.id} on {url}",
            "",
            curl_line(url, started.model.id, needs_key=needs_key),
            "",
            *sdk_lines(url, started.model.id, needs_key=needs_key),
            "",
        ]
    )


def base_url(settings: Settings) -> str:
    """An address that works on this machine, whatever the service listens on."""
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def curl_line(url: str, model: str, *, needs_key: bool) -> str:
    messages = [{"role": "user", "content": _QUESTION}]
    body = {"model": model, "messages": messages, "max_tokens": _MAX_TOKENS}
    words = ["curl", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    line = shlex.join([*words, "-d", orjson.dumps(body).decode()])
    # The shell must expand the key, so it stands in double quotes.
    return f'{line} -H "Authorization: Bearer $SMOLSERVE_API_KEY"' if needs_key else line


def sdk_lines(url: str, model: str, *, needs_key: bool) -> list[str]:
    key = "YOUR_API_KEY" if needs_key else "none"
    messages = f'[{{"role": "user", "content": "{_QUESTION}"}}]'
    arguments = f'model="{model}", messages={messages}, max_tokens={_MAX_TOKENS}'
    return [
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        f"print(client.chat.completions.create({arguments}).choices[0].message.content)",
    ]


def _list_choices(started: Started) -> Iterable[str]:
    engine = started.pool.engine
    yield _row("chat format", started.model.format.name)
    yield _row("workers", f"{started.pool.num_workers}, {engine.threads} threads each")
    yield _row("slots", f"{engine.contexts} (slots x tokens), KV cache in {engine.kv_type}")
    if engine.rope_scaling > 1:
        length = f"{started.model.context_len:,} tokens"
        yield _row("context", f"{length}, stretched {engine.rope_scaling:g} times by YaRN")
    ready = list(started.workers.values())
    repacked = any(worker.extra_buffers for worker in ready)
    yield _row("weights", "repacked for this CPU" if repacked else "as in the file")
    yield _row("CPU code", ", ".join(sorted({worker.cpu_variant for worker in ready})))


def _list_memory(started: Started) -> Iterable[str]:
    for worker, ready in sorted(started.workers.items()):
        parts = {
            "weights": ready.model_bytes,
            "KV": ready.kv_bytes,
            "compute": ready.compute_bytes,
        }
        sizes = ", ".join(f"{name} {size / _MEBIBYTE:,.0f} MiB" for name, size in parts.items())
        yield _row(f"worker {worker}", f"{sizes}; loaded in {ready.load_seconds:.1f} s")


def _row(name: str, value: str) -> str:
    return f"  {name:<12} {value}"

"""Everything that can be set, read from SMOLSERVE_* variables; the only reader of the environment.

A group's variables have its name and two underscores before theirs: SMOLSERVE_ENGINE__THREADS.
Field descriptions are what `smolserve serve --help` shows.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.api.config import RequestLimits
from service.core.kv import FlashAttention, KvType
from service.core.request import FIRST_PRIORITY, LAST_PRIORITY
from service.errors import SettingsError
from service.grammar.config import GrammarConfig
from service.kvcache.size_class import SizeClass, parse_size_classes
from service.models.catalog import default_models_dir
from service.runtime.sessions import DEFAULT_MAX_SESSIONS, DEFAULT_TTL_SECONDS
from service.scheduler.config import SchedulerConfig

PREFIX = "SMOLSERVE_"
SETUP_VARIABLES = frozenset({"SMOLSERVE_SETUP_CACHE", "SMOLSERVE_PORTABLE"})  # of deploy.setup
_SCHEDULER = SchedulerConfig()
_LIMITS = RequestLimits()
_GRAMMAR = GrammarConfig()
_SECRET_FIELDS = frozenset({"api_keys"})

Auto = Literal["auto"]


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _auto_if_zero(value: object) -> object:
    return "auto" if value in (0, "0") else value


def _default_disk_dir() -> Path:
    """Beside what else is kept for the user and can be made again."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # noqa: TID251 - the one reader
    try:
        return Path(cache).expanduser() / "smolserve" / "kv"
    except RuntimeError:  # no home
        return Path("kv")


def _default_state_dir() -> Path:
    """What must not be lost; a user without a home keeps it here."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"  # noqa: TID251 - the one reader
    try:
        return Path(state).expanduser() / "smolserve"
    except RuntimeError:
        return Path("state")


def _parse_size_classes(value: object) -> object:
    if not isinstance(value, str) or value == "auto":
        return value
    try:
        return parse_size_classes(value)
    except SettingsError as error:
        raise ValueError(str(error)) from None


Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]
AutoCount = Annotated[Count | Auto, BeforeValidator(_auto_if_zero)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ByteCount = Annotated[int, Field(ge=0)]
RateLimit = Annotated[int, Field(ge=0)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_split_list)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_split_list)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split_list)]
SizeClasses = Annotated[tuple[SizeClass, ...] | Auto, BeforeValidator(_parse_size_classes)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolSettings(_Group):
    workers: AutoCount = Field(
        default="auto", description="Engine processes; auto is one, or one per GPU"
    )
    watchdog_s: Seconds = Field(
        default=30,
        description="Seconds that a busy engine process may be silent before it is replaced; "
        "longer than its longest step",
    )


class EngineSettings(_Group):
    contexts: SizeClasses = Field(
        default="auto",
        description="Size classes of slots, as SLOTSxTOKENS separated by commas: 8x2048,1x8192; "
        "auto fits the model and the free memory",
    )
    threads: AutoCount = Field(
        default="auto",
        description="CPU threads of each worker; auto is its share of the physical cores that the "
        "service may use",
    )
    gpu_layers: Annotated[int, Field(ge=0)] | Auto = Field(
        default="auto",
        description="Layers kept on the GPU; auto is all with the cuda backend, else none",
    )
    rope_scaling: Annotated[float, Field(ge=1, le=32)] = Field(
        default=1,
        description="Times that YaRN stretches the model's context; 2 makes 128k of SmolLM3's 64k",
    )
    kv_type: KvType = Field(default="f16", description="Number format of the KV cache")
    flash_attention: FlashAttention = Field(
        default="auto",
        description="Fused attention; auto is off on a CPU, where it is slow, and llama.cpp's "
        "choice elsewhere",
    )
    extra_buffers: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Copies of the weights in a form that is faster on this CPU; "
        "auto makes them where the memory allows",
    )

    embedding_len: Annotated[int, Field(ge=0)] = Field(
        default=1024,
        description="Tokens of the longest text that /v1/embeddings takes; its cells are reserved, "
        "and 0 turns it off",
    )

    @field_validator("flash_attention")
    @classmethod
    def _fuse_quantised_attention(
        cls, flash_attention: FlashAttention, info: ValidationInfo
    ) -> FlashAttention:
        kv_type = info.data.get("kv_type")
        if flash_attention == "off" and kv_type in {"q8_0", "q4_0"}:
            raise ValueError(
                f"a KV cache in {kv_type} needs flash attention; leave it on auto, "
                f"or set {PREFIX}ENGINE__KV_TYPE=f16"
            )
        return flash_attention


class CacheSettings(_Group):
    host_bytes: ByteCount = Field(
        default=1 << 30, description="Host memory of a worker for computed tokens that wait for use"
    )
    disk_bytes: ByteCount = Field(
        default=0, description="The same on disk, where they survive a restart; 0 keeps none there"
    )
    disk_dir: Path = Field(
        default_factory=_default_disk_dir, description="Folder for computed tokens on disk"
    )
    ttl_s: Seconds = Field(
        default=86_400, description="Seconds that unused computed tokens are kept"
    )
    max_sessions: Count = Field(
        default=DEFAULT_MAX_SESSIONS,
        description="Sessions that are remembered; the least recently used are forgotten first",
    )
    session_ttl_s: Seconds = Field(
        default=DEFAULT_TTL_SECONDS, description="Seconds that an unused session is remembered"
    )
    sharing: Literal["tenant", "global"] = Field(
        default="tenant",
        description="Who starts from whose computed tokens: requests of the same API key, or all",
    )
    public_prompts: Paths = Field(
        default=(),
        description="Files, separated by commas, each with a system prompt that all keys may share",
    )

    @field_validator("disk_bytes")
    @classmethod
    def _pass_through_memory(cls, disk_bytes: int, info: ValidationInfo) -> int:
        if disk_bytes and info.data.get("host_bytes") == 0:
            raise ValueError(
                "what is on disk passes through host memory; "
                f"give that some too with {PREFIX}CACHE__HOST_BYTES"
            )
        return disk_bytes


class SchedulerSettings(_Group):
    step_tokens: Count = Field(
        default=_SCHEDULER.step_tokens, description="Tokens that one step may compute"
    )
    target_itl_ms: Milliseconds = Field(
        default=_SCHEDULER.target_itl_seconds * 1000,
        description="Gap between tokens that running streams should keep beside prompts; half as "
        "long again where fewer than 16 prompt tokens would fit",
    )
    aging_s: Seconds = Field(
        default=_SCHEDULER.aging_seconds,
        description="Seconds of waiting that count as one step of priority",
    )
    max_drafts: Annotated[int, Field(ge=0, le=32)] = Field(
        default=_SCHEDULER.max_drafts,
        description="Tokens guessed from the text or a prediction that are computed ahead in a "
        "step where that pays; 0 guesses nothing",
    )
    request_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0,
        description="Seconds after which a request is ended, waiting included; 0 is never",
    )
    max_queued: Annotated[int, Field(ge=0)] = Field(
        default=1024, description="Requests that may wait; one more is answered 429"
    )


class RecordsSettings(_Group):
    path: Path | Auto = Field(
        default="auto",
        description="File that responses are kept in, :memory: for none; auto is one in the state "
        "folder, or none where that cannot be used",
    )
    ttl_s: Seconds = Field(
        default=30 * 86_400, description="Seconds that a chain of responses is kept unused"
    )
    max_bytes: Count = Field(
        default=1 << 30,
        description="What all responses may take together; the least recently used go first",
    )

    @field_validator("path", mode="before")
    @classmethod
    def _read_path(cls, path: object) -> object:
        """Text is a path, unless it is auto."""
        return Path(path) if isinstance(path, str) and path != "auto" else path


class FilesSettings(_Group):
    max_bytes: Count = Field(
        default=200 * 1024 * 1024, description="Largest file that may be uploaded; more is a 413"
    )
    max_total_bytes: Count = Field(
        default=10 * 1024**3, description="What an API key's files may take together"
    )
    retention_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=30, description="Days that files are kept whose owner sets no other time"
    )


class BatchesSettings(_Group):
    max_lines: Count = Field(default=50_000, description="Requests that a batch may have")
    max_active: Count = Field(
        default=20, description="Batches of an API key that may be under way; one more is a 429"
    )
    max_in_flight: AutoCount = Field(
        default="auto", description="Lines that run at a time; auto is as many as slots are idle"
    )


class GrammarSettings(_Group):
    max_bytes: Count = Field(
        default=_GRAMMAR.max_bytes,
        description="Longest JSON schema or grammar of a request, tools together",
    )
    compile_s: Seconds = Field(
        default=_GRAMMAR.compile_seconds,
        description="Seconds that a schema or grammar may take to compile; more is a 400",
    )
    compile_bytes: Count = Field(
        default=_GRAMMAR.compile_bytes,
        description="Memory that compiling a schema or grammar may take; more is a 400",
    )


class LimitSettings(_Group):
    messages: Count = Field(
        default=_LIMITS.max_messages, description="Messages that a request may have"
    )
    message_chars: Count = Field(
        default=_LIMITS.max_message_chars, description="Characters that a message may have"
    )
    choices: Annotated[int, Field(ge=1, le=_LIMITS.max_choices)] = Field(
        default=_LIMITS.max_choices, description="Answers that a request may ask for with n"
    )
    tools: Annotated[int, Field(ge=1, le=_LIMITS.max_tools)] = Field(
        default=_LIMITS.max_tools, description="Tools that a request may have"
    )
    stop_chars: Count = Field(
        default=_LIMITS.max_stop_chars, description="Characters that a stop string may have"
    )
    embedding_tokens: Count = Field(
        default=_LIMITS.max_embedding_tokens,
        description="Tokens that the texts of a request for embeddings may have together",
    )
    requests_per_minute: RateLimit = Field(
        default=0, description="Requests a minute of an API key that is not given its own; 0: any"
    )
    tokens_per_minute: RateLimit = Field(
        default=0, description="The same of tokens, prompts and answers together"
    )
    max_concurrent: RateLimit = Field(
        default=0, description="The same of requests that run or wait at a time"
    )
    best_priority: Annotated[int, Field(ge=FIRST_PRIORITY, le=LAST_PRIORITY)] = Field(
        default=FIRST_PRIORITY,
        description="The same of priority: a request that asks for a lower number gets this one; "
        "-100: any",
    )


class TracingSettings(_Group):
    endpoint: str = Field(
        default="",
        pattern=r"^($|https?://[^\s/]+/\S+)",
        description="Where traces are sent, by OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; "
        "none: nothing is traced",
    )
    service_name: str = Field(
        default="smolserve", min_length=1, description="What the service is called in traces"
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1,
        description="Share of the traces that begin here that are sent; a client that sends "
        "traceparent decides for its own",
    )
    timeout_s: Seconds = Field(
        default=5,
        description="Seconds that the collector may take, and that the end of the service waits "
        "for it",
    )
    max_spans: Count = Field(
        default=8192,
        description="Spans that may wait for the collector; at more the oldest are dropped",
    )


class DownloadSettings(_Group):
    endpoint: str = Field(
        default="https://huggingface.co",
        pattern=r"^https?://[^\s/]+",
        description="Address of the Hugging Face hub or a mirror of it",
    )


class Settings(BaseSettings):
    """Frozen; valid once made. Options win over the environment, and that over the defaults."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    model: str = Field(
        default="smollm2-135m-instruct",
        min_length=1,
        description="A name of the catalogue, or a GGUF file",
    )
    models_dir: Path = Field(
        default_factory=default_models_dir, description="Folder that model files are kept in"
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Folder of files, batches and responses; one service at a time",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on")
    port: Port = Field(default=8000, description="Port to listen on")
    api_keys: Secrets = Field(
        default=(), description="Accepted API keys, separated by commas; none: open"
    )
    keys_file: Path | None = Field(
        default=None,
        description="TOML file of more API keys, with the name, share and limits of each caller",
    )
    allowed_hosts: Strings = Field(
        default=(),
        description="Names beside localhost by which a service without keys may be called, "
        "separated by commas; without any, all names are where it does not listen on loopback",
    )
    backend: Literal["cpu", "cuda"] = Field(
        default="cpu", description="What llama.cpp is built for"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines to write"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="Form of log lines; auto is console on a terminal, else json"
    )
    log_prompts: bool = Field(
        default=False,
        description="Write the text of every prompt and answer to the log, for finding faults",
    )
    log_prompt_tokens: Count = Field(
        default=1000,
        description="Tokens of a prompt, and of an answer, that are written with it; longer ones "
        "lose their middle",
    )
    drain_timeout_s: Seconds = Field(
        default=30, description="Seconds that running streams may take to finish after SIGTERM"
    )
    max_body_bytes: Count = Field(
        default=4 * 1024 * 1024, description="Largest request body; more is a 413"
    )
    client_timeout_s: Seconds = Field(
        default=30,
        description="Seconds without a byte of a request that a client owes before a 408",
    )
    reader_timeout_s: Seconds = Field(
        default=60,
        le=86_400,
        description="Seconds that a client may take nothing of what it is sent before it is "
        "dropped",
    )
    max_connections: Count = Field(
        default=4096, description="Open connections; one more is answered 503"
    )
    ignore_unknown_fields: bool = Field(
        default=False,
        description="Answer requests with fields that are not known, which are a 400 otherwise",
    )
    cors_origins: Strings = Field(
        default=(), description="Origins that browsers may call from, separated by commas; * is any"
    )
    keepalive_s: Seconds = Field(
        default=5, description="Seconds of silence on a stream before a keep-alive comment"
    )
    pool: PoolSettings = PoolSettings()
    engine: EngineSettings = EngineSettings()
    cache: CacheSettings = Field(default_factory=CacheSettings)
    scheduler: SchedulerSettings = SchedulerSettings()
    limits: LimitSettings = LimitSettings()
    records: RecordsSettings = RecordsSettings()
    files: FilesSettings = FilesSettings()
    batches: BatchesSettings = BatchesSettings()
    grammar: GrammarSettings = GrammarSettings()
    tracing: TracingSettings = TracingSettings()
    download: DownloadSettings = DownloadSettings()

    @classmethod
    def load(cls, options: Mapping[str, str] | None = None) -> Self:
        """Reads the environment; `options` by `Setting.name` win over it.

        Raises SettingsError with a line for each unknown variable and each invalid value.
        """
        problems = [_describe_unknown(name) for name in _unknown_variables(os.environ)]  # noqa: TID251 - the one reader
        try:
            loaded = cls(**_nest(options or {}))
        except ValidationError as error:
            raise SettingsError("\n".join([*problems, *_describe_invalid(error)])) from None
        if problems:
            raise SettingsError("\n".join(problems))
        return loaded


def forget_secrets() -> None:
    """Takes them out of the environment, which every process that is started inherits."""
    secret = {setting.variable for setting in list_settings() if setting.name in _SECRET_FIELDS}
    for name in [name for name in os.environ if name.upper() in secret]:  # noqa: TID251 - its reader
        del os.environ[name]  # noqa: TID251 - its reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that can be set, as its user sees it."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """How code names it: engine.threads."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return PREFIX + "__".join(self.path).upper()

    @property
    def option(self) -> str:
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def description(self) -> str:
        return self.field.description or ""

    @property
    def default(self) -> str:
        """The default as one would write it; empty for an empty list."""
        return format_value(self.field.get_default(call_default_factory=True, validated_data={}))


def list_settings(model: type[BaseModel] = Settings) -> list[Setting]:
    """Every setting in the order they are written in."""
    return list(_walk(model, ()))


def format_value(value: object) -> str:
    """A setting's value as one would write it in a variable."""
    if value is None:
        return ""
    if isinstance(value, tuple) and not isinstance(value, SizeClass):
        return ",".join(map(format_value, cast("tuple[object, ...]", value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, (*path, name))
        else:
            yield Setting(path=(*path, name), field=field)


def _nest(options: Mapping[str, str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = name.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = value
    return nested


def _unknown_variables(environment: Iterable[str]) -> list[str]:
    known = {setting.variable for setting in list_settings()}
    names = (name for name in environment if name.upper().startswith(PREFIX))
    return sorted(name for name in names if name.upper() not in known | SETUP_VARIABLES)


def _describe_unknown(name: str) -> str:
    known = [setting.variable.removeprefix(PREFIX) for setting in list_settings()]
    close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1)
    hint = f"did you mean {PREFIX}{close[0]}?" if close else "see `smolserve serve --help`"
    return f"{name} is not a setting; {hint}"


def _describe_invalid(error: ValidationError) -> list[str]:
    """A line for each setting, whatever number of complaints Pydantic has about it."""
    by_path = {setting.path: setting for setting in list_settings()}
    complaints: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        setting = next((by_path[path] for path in _prefixes(item["loc"]) if path in by_path), None)
        if setting is None:
            continue  # an unknown variable inside a group, which is already reported
        given = "" if setting.name in _SECRET_FIELDS else f" {item['input']!r}"
        subject = f"{setting.variable} ({setting.option}): invalid value{given}"
        message = item["msg"].removeprefix("Value error, ")
        complaints.setdefault(subject, []).append(message[:1].lower() + message[1:])
    return [f"{subject}: {', or '.join(messages)}" for subject, messages in complaints.items()]


def _prefixes(location: tuple[int | str, ...]) -> Iterator[tuple[str, ...]]:
    names = tuple(str(part) for part in location)
    return (names[:length] for length in range(len(names), 0, -1))

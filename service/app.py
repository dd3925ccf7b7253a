"""The composition root: everything is built here from the settings, and only here."""

import asyncio
import contextlib
import hashlib
import math
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics

from service import __version__
from service.api.application import build_application
from service.api.config import ApiConfig, RequestLimits
from service.api.drain import Drain
from service.api.internal_call import InternalCaller
from service.api.keys import ApiKey, ApiKeys, Caller, digest_key
from service.api.keys_file import read_keys_file
from service.api.pages import is_loopback
from service.api.public_prompts import find_prefixes, read_public_prompt
from service.api.rate_limits import RateLimits
from service.api.responses.conversation import fail_unfinished
from service.api.served_model import ServedModel
from service.api.server import ClientLimits, Server, obey_signals
from service.batches.batches import Batches
from service.batches.config import BatchesConfig
from service.chat.format import choose_format
from service.core.messages import DeviceMemory, Ready
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.errors import SettingsError, StorageError
from service.gguf import smollm3
from service.gguf.header import read_header
from service.gguf.hyperparameters import Hyperparameters, read_hyperparameters
from service.gpus import share_gpus
from service.grammar.compiler import GrammarCompiler
from service.grammar.config import GrammarConfig
from service.grammar.tokenizer import list_tokens
from service.kvcache.size_class import SizeClass
from service.llama.devices import ask_gpus
from service.llama.vocab import Vocab
from service.models.catalog import find_entry, load_catalog
from service.models.model_file import ModelFile, is_path, resolve_model
from service.models.progress import ReportProgress
from service.models.pull import Puller
from service.records.database import MEMORY
from service.records.responses import ResponseRecords
from service.runtime.config import PoolConfig
from service.runtime.pool import EnginePool, Witness
from service.runtime.sharing import Sharing
from service.runtime.stages import StageRecorder
from service.runtime.transcripts import Transcriber
from service.scheduler.config import SchedulerConfig
from service.settings import LimitSettings, RecordsSettings, Settings, format_value
from service.sizing import (
    MAX_SMALL_SLOTS,
    MAX_SMALL_SLOTS_ON_GPU,
    affords_copy,
    available_bytes,
    count_threads,
    fit_size_classes,
)
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from service.telemetry.otlp import OtlpTracer

_ALL_LAYERS = -1
_MAX_MEMORY_BYTES = 64 * 1024 * 1024
"""Of responses that no file keeps."""
_DAY_SECONDS = 24 * 3600
_FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What can be said of a service that is ready."""

    model: ServedModel
    pool: PoolConfig
    workers: Mapping[int, Ready]


def fetch_model(
    settings: Settings, report: ReportProgress, say: Callable[[str], None]
) -> ModelFile:
    """The model's file, downloaded first if it is a catalogue's and not here.

    `say` is told what takes time. Raises ModelFileError or DownloadError.
    """
    name = settings.model
    if not is_path(name):
        entry = find_entry(load_catalog(settings.models_dir), name)
        if not (settings.models_dir / entry.file_name).exists():
            say(f"Fetching {name} into {settings.models_dir} …")
            Puller(
                models_dir=settings.models_dir,
                endpoint=settings.download.endpoint,
                report=report,
                on_wait=lambda: say("Another process is fetching into that folder; waiting for it"),
            ).pull(entry)
    return resolve_model(name, settings.models_dir)


async def run_service(
    settings: Settings,
    file: ModelFile,
    listener: socket.socket,
    on_ready: Callable[[Started], None],
) -> None:
    """Serves until a signal ends it; answers, though not chats, while it still loads.

    Raises SettingsError, or EngineError when the engine cannot start.
    """
    api = _configure_api(settings)
    keys = _configure_keys(settings)
    header = read_header(file.path)
    architecture = header.text("general.architecture") or smollm3.LLAMA
    shape = _stretch(read_hyperparameters(header, architecture), settings.engine.rope_scaling)
    vocab = Vocab.load(file.path)
    chat_format = choose_format(vocab)
    structlog.get_logger().info("chat_format", model=file.name, format=chat_format.name)
    model = ServedModel(
        id=file.name,
        created=int(file.path.stat().st_mtime),
        context_len=shape.context_len,
        vector_len=shape.hidden_len,
        fingerprint=_fingerprint(settings, file.path),
        sampling=_choose_sampling(file, architecture),
        format=chat_format,
        vocab=vocab,
    )
    disable_created_metrics()  # a series beside each counter, which nobody looks at
    metrics = Metrics(CollectorRegistry())
    config = _configure_pool(settings, file.path, shape)
    sharing = _configure_sharing(settings, model)
    tracer = _open_tracer(settings)
    pool = EnginePool(
        config,
        vocab.token_bytes,
        metrics,
        sharing=sharing,
        witnesses=_list_witnesses(settings, model, tracer),
    )
    grammars = GrammarCompiler(_configure_grammars(settings), lambda: list_tokens(vocab))
    drain = Drain()
    batches = Batches(
        _configure_batches(settings),
        capacity=pool,
        is_closed=lambda: drain.has_begun,
        metrics=metrics,
        clock=time.time,  # noqa: TID251 - what outlives the process goes by the calendar
    )
    async with _keeping_responses(settings) as records:
        app = build_application(
            api,
            keys=keys,
            model=model,
            engine=pool,
            grammars=grammars,
            batches=batches,
            records=records,
            drain=drain,
            metrics=metrics,
            log=structlog.get_logger(),
            tracer=tracer,
        )
        server = Server(
            app,
            listener,
            drain,
            drain_timeout_seconds=settings.drain_timeout_s,
            clients=ClientLimits(
                sending_seconds=settings.client_timeout_s,
                reading_seconds=settings.reader_timeout_s,
                max_connections=settings.max_connections,
            ),
        )
        reload = partial(_read_keys_again, settings, keys) if settings.keys_file else None
        with obey_signals(server, drain, reload):
            try:
                await batches.start(InternalCaller(app))
                await _run(
                    server,
                    pool,
                    batches,
                    lambda: on_ready(Started(model=model, pool=config, workers=pool.ready)),
                )
            finally:
                await grammars.close()
                if tracer is not None:
                    await asyncio.to_thread(tracer.close)


async def _run(
    server: Server, pool: EnginePool, batches: Batches, on_ready: Callable[[], None]
) -> None:
    serving = asyncio.create_task(server.run())
    loading = asyncio.create_task(pool.start())
    try:
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            on_ready()
        await serving
    finally:
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await loading  # its failure is already on its way
        server.stop()
        server.stop()
        await serving
        await batches.stop()  # before the engine, whose end would look like failures of its lines
        await pool.stop()


def _open_tracer(settings: Settings) -> "OtlpTracer | None":
    chosen = settings.tracing
    if not chosen.endpoint:
        return None
    # Who does not trace does not pay for loading what it takes.
    from service.telemetry.otlp import OtlpConfig, OtlpTracer  # noqa: PLC0415

    return OtlpTracer(
        OtlpConfig(
            endpoint=chosen.endpoint,
            service_name=chosen.service_name,
            sample_ratio=chosen.sample_ratio,
            timeout_seconds=chosen.timeout_s,
            max_spans=chosen.max_spans,
        )
    )


def _list_witnesses(
    settings: Settings, model: ServedModel, tracer: Tracer | None
) -> Sequence[Witness]:
    """Who is told of each request that the engine is done with."""
    witnesses: list[Witness] = []
    if tracer is not None:
        witnesses.append(StageRecorder(tracer, model.id))
    if settings.log_prompts:
        log = structlog.get_logger()
        log.warning("prompts_are_logged", max_tokens=settings.log_prompt_tokens)
        witnesses.append(
            Transcriber(model.vocab.token_bytes, max_tokens=settings.log_prompt_tokens, log=log)
        )
    return witnesses


def _fingerprint(settings: Settings, path: Path) -> str:
    """What answers depend on beside the request; the file counts by its ends, which is quick."""
    engine = settings.engine
    computation = (engine.kv_type, engine.flash_attention, engine.rope_scaling, settings.backend)
    build = (__version__, version("llama-cpp-python"), *map(str, computation))
    whole = hashlib.sha256("\0".join(build).encode())
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        whole.update(b"%d" % size)
        for start in (0, max(0, size - _FINGERPRINT_BYTES)):
            file.seek(start)
            whole.update(file.read(_FINGERPRINT_BYTES))
    return f"fp_{whole.hexdigest()[:12]}"


def _configure_sharing(settings: Settings, model: ServedModel) -> Sharing:
    prompts = map(read_public_prompt, settings.cache.public_prompts)
    return Sharing(
        is_global=settings.cache.sharing == "global",
        public_prefixes=[prefix for text in prompts for prefix in find_prefixes(model, text)],
    )


@asynccontextmanager
async def _keeping_responses(settings: Settings) -> AsyncGenerator[ResponseRecords]:
    """Where nobody chose their file, a bad one costs what it would keep, and not the service.

    Raises SettingsError.
    """
    chosen = settings.records
    is_chosen = chosen.path != "auto"
    path = settings.state_dir / "responses.sqlite" if chosen.path == "auto" else chosen.path
    records = _build_records(path, chosen)
    try:
        await records.open()
    except StorageError as error:
        if is_chosen:
            raise SettingsError(f"SMOLSERVE_RECORDS__PATH: {error}") from None
        structlog.get_logger().warning("responses_kept_in_memory", reason=str(error))
        records = _build_records(MEMORY, chosen)
        await records.open()
    try:
        await fail_unfinished(records)
        yield records
    finally:
        await records.close()


def _build_records(path: Path | str, chosen: RecordsSettings) -> ResponseRecords:
    is_in_memory = str(path) == MEMORY
    return ResponseRecords(
        path,
        ttl_seconds=chosen.ttl_s,
        max_bytes=min(chosen.max_bytes, _MAX_MEMORY_BYTES) if is_in_memory else chosen.max_bytes,
        now=time.time,  # noqa: TID251 - what outlives the process goes by the calendar
    )


def _configure_batches(settings: Settings) -> BatchesConfig:
    in_flight = settings.batches.max_in_flight
    return BatchesConfig(
        directory=settings.state_dir / "batches",
        max_file_bytes=settings.files.max_bytes,
        max_tenant_bytes=settings.files.max_total_bytes,
        retention_seconds=settings.files.retention_days * _DAY_SECONDS,
        max_lines=settings.batches.max_lines,
        max_body_bytes=settings.max_body_bytes,
        max_active=settings.batches.max_active,
        max_in_flight=None if in_flight == "auto" else in_flight,
    )


def _configure_api(settings: Settings) -> ApiConfig:
    is_private = is_loopback(settings.host)
    return ApiConfig(
        hosts=frozenset(settings.allowed_hosts) if is_private or settings.allowed_hosts else None,
        cors_origins=settings.cors_origins,
        max_body_bytes=settings.max_body_bytes,
        client_timeout_seconds=settings.client_timeout_s,
        request_timeout_seconds=settings.scheduler.request_timeout_s or None,
        limits=RequestLimits(
            max_messages=settings.limits.messages,
            max_message_chars=settings.limits.message_chars,
            max_choices=settings.limits.choices,
            max_tools=settings.limits.tools,
            max_stop_chars=settings.limits.stop_chars,
            max_embedding_tokens=settings.limits.embedding_tokens,
        ),
        ignore_unknown_fields=settings.ignore_unknown_fields,
        keepalive_seconds=settings.keepalive_s,
    )


def _configure_keys(settings: Settings) -> ApiKeys:
    """Raises SettingsError."""
    return ApiKeys(_list_keys(settings), anyone=_describe_anyone(settings.limits))


def _list_keys(settings: Settings) -> list[ApiKey]:
    """What the file says of a key holds, where the key stands in the plain list as well.

    Raises SettingsError.
    """
    anyone = _describe_anyone(settings.limits)
    described = read_keys_file(settings.keys_file, anyone) if settings.keys_file else []
    known = {key.digest for key in described}
    listed = [digest_key(key.get_secret_value()) for key in settings.api_keys]
    plain = [
        ApiKey.of_digest(digest, limits=anyone.limits, best_priority=anyone.best_priority)
        for digest in listed
        if digest not in known
    ]
    return described + plain


def _describe_anyone(limits: LimitSettings) -> Caller:
    """Who calls without a key, and what a key may use of which nothing is said."""
    return Caller(
        limits=RateLimits(
            requests_per_minute=limits.requests_per_minute or None,
            tokens_per_minute=limits.tokens_per_minute or None,
            max_concurrent=limits.max_concurrent or None,
        ),
        best_priority=limits.best_priority,
    )


def _read_keys_again(settings: Settings, keys: ApiKeys) -> None:
    """While the service runs; a file that cannot be read changes nothing."""
    log = structlog.get_logger()
    try:
        listed = _list_keys(settings)
    except SettingsError as error:
        log.warning("keys_not_read", reason=str(error), means="those known before go on to hold")
        return
    keys.replace(listed)
    log.info("keys_read", num_keys=len(listed))


def _configure_grammars(settings: Settings) -> GrammarConfig:
    return GrammarConfig(
        max_bytes=settings.grammar.max_bytes,
        compile_seconds=settings.grammar.compile_s,
        compile_bytes=settings.grammar.compile_bytes,
    )


def _configure_pool(settings: Settings, path: Path, shape: Hyperparameters) -> PoolConfig:
    engine = settings.engine
    workers = None if settings.pool.workers == "auto" else settings.pool.workers
    gpus = _find_gpus(settings)
    share = share_gpus(gpus, workers) if gpus else None
    num_workers = share.num_workers if share else workers or 1
    weight_bytes = path.stat().st_size
    free_bytes = share.free_bytes if share else available_bytes() // num_workers
    extra_buffers = engine.extra_buffers == "on" or (
        engine.extra_buffers == "auto"
        and affords_copy(
            shape, weight_bytes=weight_bytes, free_bytes=free_bytes, kv_type=engine.kv_type
        )
    )
    contexts = engine.contexts
    if contexts == "auto":
        is_copied = extra_buffers and not share
        contexts = fit_size_classes(
            shape,
            weight_bytes=weight_bytes * (2 if is_copied else 1),
            free_bytes=free_bytes,
            kv_type=engine.kv_type,
            max_small_slots=MAX_SMALL_SLOTS_ON_GPU if share else MAX_SMALL_SLOTS,
        )
    _check_slots(contexts, shape, engine.rope_scaling)
    all_layers = _ALL_LAYERS if settings.backend == "cuda" else 0
    return PoolConfig(
        engine=EngineConfig(
            model_path=str(path),
            contexts=format_value(contexts),
            threads=max(1, count_threads() // num_workers)
            if engine.threads == "auto"
            else engine.threads,
            gpu_layers=all_layers if engine.gpu_layers == "auto" else engine.gpu_layers,
            kv_type=engine.kv_type,
            flash_attention=engine.flash_attention,
            rope_scaling=engine.rope_scaling,
            extra_buffers=extra_buffers,
            log_level=settings.log_level,
            log_format=settings.log_format,
            log_prompts=settings.log_prompts,
            host_cache_bytes=settings.cache.host_bytes,
            disk_cache_bytes=settings.cache.disk_bytes,
            disk_cache_dir=str(settings.cache.disk_dir),
            cache_ttl_seconds=settings.cache.ttl_s,
            embedding_len=min(engine.embedding_len, shape.context_len),
            scheduler=SchedulerConfig(
                step_tokens=settings.scheduler.step_tokens,
                target_itl_seconds=settings.scheduler.target_itl_ms / 1000,
                aging_seconds=settings.scheduler.aging_s,
                max_drafts=settings.scheduler.max_drafts,
            ),
        ),
        num_workers=num_workers,
        max_queued=settings.scheduler.max_queued,
        watchdog_seconds=settings.pool.watchdog_s,
        max_sessions=settings.cache.max_sessions,
        session_ttl_seconds=settings.cache.session_ttl_s,
        gpus=share.numbers if share else (),
    )


def _find_gpus(settings: Settings) -> Sequence[DeviceMemory]:
    """Those that hold the model; none where the user keeps it off them.

    Raises SettingsError where there should be one.
    """
    if settings.backend != "cuda" or settings.engine.gpu_layers == 0:
        return ()
    gpus = ask_gpus()
    if not gpus:
        raise SettingsError(
            "SMOLSERVE_BACKEND=cuda, and llama.cpp finds no GPU: see whether nvidia-smi lists one, "
            "and whether the set-up ran with SMOLSERVE_BACKEND=cuda; or set SMOLSERVE_BACKEND=cpu"
        )
    return gpus


def _check_slots(classes: tuple[SizeClass, ...], shape: Hyperparameters, scaling: float) -> None:
    """Raises SettingsError for slots in whose later part the model has no positions."""
    longest = max(size.slot_len for size in classes)
    if longest > shape.context_len:
        needed = math.ceil(longest / shape.context_len * scaling)
        raise SettingsError(
            f"SMOLSERVE_ENGINE__CONTEXTS: a slot of {longest} tokens is longer than the model's "
            f"context of {shape.context_len}; make it shorter, or stretch the context with "
            f"SMOLSERVE_ENGINE__ROPE_SCALING={needed}"
        )


def _stretch(shape: Hyperparameters, rope_scaling: float) -> Hyperparameters:
    return replace(shape, context_len=int(shape.context_len * rope_scaling))


def _choose_sampling(file: ModelFile, architecture: str) -> SamplingParams:
    """The catalogue's word, else SmolLM3's card for a SmolLM3 file, else nothing special."""
    if file.entry is not None:
        advice = file.entry.sampling
        return SamplingParams(temperature=advice.temperature, top_p=advice.top_p)
    if architecture == smollm3.ARCHITECTURE:
        return SamplingParams(temperature=smollm3.TEMPERATURE, top_p=smollm3.TOP_P)
    return SamplingParams()

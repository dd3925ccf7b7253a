"""The composition root: everything is built here from the settings, and only here."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics

from service.api.application import build_application
from service.api.config import ApiConfig
from service.api.drain import Drain
from service.api.served_model import ServedModel
from service.api.server import Server, obey_signals
from service.chat.format import ChatFormat, choose_format
from service.core.messages import Ready
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig
from service.gguf.header import read_header
from service.gguf.hyperparameters import Hyperparameters, read_hyperparameters
from service.llama.vocab import Vocab
from service.models.catalog import find_entry, load_catalog
from service.models.model_file import ModelFile, is_path, resolve_model
from service.models.progress import ReportProgress
from service.models.pull import Puller
from service.runtime.config import PoolConfig
from service.runtime.pool import EnginePool
from service.scheduler.config import SchedulerConfig
from service.settings import Settings, format_value
from service.sizing import available_bytes, count_physical_cores, fit_size_classes
from service.telemetry.metrics import Metrics

_ALL_LAYERS = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What can be said of a service that is ready."""

    model: ServedModel
    pool: PoolConfig
    workers: Mapping[int, Ready]


def fetch_model(settings: Settings, report: ReportProgress) -> ModelFile:
    """The model's file, downloaded first if it is a catalogue's and not here.

    Raises ModelFileError or DownloadError.
    """
    name = settings.model
    if not is_path(name):
        entry = find_entry(load_catalog(settings.models_dir), name)
        if not (settings.models_dir / entry.file_name).exists():
            endpoint = settings.download.endpoint
            Puller(models_dir=settings.models_dir, endpoint=endpoint, report=report).pull(entry)
    return resolve_model(name, settings.models_dir)


async def run_service(
    settings: Settings,
    file: ModelFile,
    listener: socket.socket,
    on_ready: Callable[[Started], None],
) -> None:
    """Serves until a signal ends it; answers, though not chats, while it still loads.

    Raises EngineError when the engine cannot start.
    """
    shape = _read_shape(file.path)
    vocab = Vocab.load(file.path)
    chat_format = choose_format(vocab)
    structlog.get_logger().info("chat_format", model=file.name, format=chat_format.name)
    model = _describe_model(file, shape, vocab, chat_format)
    disable_created_metrics()  # a series beside each counter, which nobody looks at
    metrics = Metrics(CollectorRegistry())
    config = _configure_pool(settings, file.path, shape)
    pool = EnginePool(config, vocab.token_bytes, metrics)
    drain = Drain()
    app = build_application(
        _configure_api(settings),
        model=model,
        engine=pool,
        drain=drain,
        metrics=metrics,
        log=structlog.get_logger(),
    )
    server = Server(app, listener, drain, drain_timeout_seconds=settings.drain_timeout_s)
    with obey_signals(server, drain):
        await _run(
            server, pool, lambda: on_ready(Started(model=model, pool=config, workers=pool.ready))
        )


async def _run(server: Server, pool: EnginePool, on_ready: Callable[[], None]) -> None:
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
        await pool.stop()


def _configure_api(settings: Settings) -> ApiConfig:
    return ApiConfig(
        api_keys=tuple(key.get_secret_value() for key in settings.api_keys),
        cors_origins=settings.cors_origins,
        max_body_bytes=settings.max_body_bytes,
        keepalive_seconds=settings.keepalive_s,
    )


def _configure_pool(settings: Settings, path: Path, shape: Hyperparameters) -> PoolConfig:
    engine = settings.engine
    contexts = engine.contexts
    if contexts == "auto":
        contexts = fit_size_classes(
            shape,
            weight_bytes=path.stat().st_size,
            free_bytes=available_bytes(),
            kv_type=engine.kv_type,
        )
    all_layers = _ALL_LAYERS if settings.backend == "cuda" else 0
    return PoolConfig(
        engine=EngineConfig(
            model_path=str(path),
            contexts=format_value(contexts),
            threads=count_physical_cores() if engine.threads == "auto" else engine.threads,
            gpu_layers=all_layers if engine.gpu_layers == "auto" else engine.gpu_layers,
            kv_type=engine.kv_type,
            flash_attention=engine.flash_attention,
            host_cache_bytes=engine.host_cache_bytes,
            scheduler=SchedulerConfig(
                step_tokens=settings.scheduler.step_tokens,
                mixed_step_tokens=settings.scheduler.mixed_step_tokens,
            ),
        ),
        num_workers=1 if settings.pool.workers == "auto" else settings.pool.workers,
        max_queued=settings.scheduler.max_queued,
    )


def _read_shape(path: Path) -> Hyperparameters:
    header = read_header(path)
    return read_hyperparameters(header, header.text("general.architecture") or "llama")


def _describe_model(
    file: ModelFile, shape: Hyperparameters, vocab: Vocab, chat_format: ChatFormat
) -> ServedModel:
    entry = file.entry
    sampling = SamplingParams()
    if entry is not None:
        sampling = SamplingParams(
            temperature=entry.sampling.temperature, top_p=entry.sampling.top_p
        )
    return ServedModel(
        id=file.name,
        created=int(file.path.stat().st_mtime),
        context_len=entry.context_len if entry else shape.context_len,
        sampling=sampling,
        format=chat_format,
        vocab=vocab,
    )

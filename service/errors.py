"""Every exception the service raises on purpose.

    SmolserveError
    ├── SettingsError                 a setting is unknown or invalid; stops the start
    ├── ModelFileError                a model file is missing, truncated, corrupt or unsuitable
    │   └── DownloadError             a model could not be fetched, or its checksum is wrong
    ├── MetricsUnavailable            a running service's metrics cannot be read
    ├── RequestError                  the client's mistake, or a limit it ran into
    │   ├── InvalidRequest            a field has a wrong type or value, or is not supported
    │   │   └── ContextLengthExceeded the prompt does not fit the largest slot
    │   ├── AuthenticationError       no API key, or a wrong one
    │   ├── ModelNotFound             the request names a model that is not served here
    │   ├── ObjectNotFound            the request names a file, batch or response that is not here
    │   ├── BodyTooLarge              the request's body is over the limit
    │   ├── UnsupportedMediaType      the request's body is not of the type that is read here
    │   ├── SlowClient                the request's body stopped coming
    │   └── QueueFull                 the bounded queue is full; retry later
    ├── StorageError                  a file that keeps records cannot be used
    └── EngineError                   our side failed
        ├── EngineUnavailable         no worker is ready: loading, restarting or draining
        ├── WorkerDied                the worker that ran the request is gone
        ├── LlamaError                llama.cpp refused; carries its return code
        └── SnapshotFileError         a file of KV state cannot be used; it is computed again

`code` is stable: it is what the HTTP body, the log and the metric label carry.
"""


class SmolserveError(Exception):
    """Base of all; `code` names the kind of failure."""

    code = "internal_error"


class SettingsError(SmolserveError):
    """A setting is unknown or invalid."""

    code = "invalid_settings"


class ModelFileError(SmolserveError):
    """A model file cannot be used; the message says which, why and what to do."""

    code = "invalid_model_file"


class DownloadError(ModelFileError):
    """A model could not be fetched or failed its checksum; nothing half-written is left."""

    code = "download_failed"


class MetricsUnavailable(SmolserveError):  # noqa: N818 - a condition, not a fault
    """A running service's metrics cannot be read; the message says why and what to do."""

    code = "metrics_unavailable"


class RequestError(SmolserveError):
    """Something the client can correct. `param` is the path of the offending field, if one is."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(RequestError):  # noqa: N818 - named as the API names it
    """A field has a wrong type or value, or is not supported."""

    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param)
        if code is not None:
            self.code = code


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the largest slot."""

    code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """No API key, or a wrong one."""

    code = "invalid_api_key"


class ModelNotFound(RequestError):  # noqa: N818 - OpenAI's code is model_not_found
    """The request names a model that is not served here."""

    code = "model_not_found"


class ObjectNotFound(RequestError):  # noqa: N818 - a condition, not a fault
    """The request names a file, batch or response that is not here, or is someone else's."""

    code = "not_found"


class BodyTooLarge(RequestError):  # noqa: N818 - a condition, not a fault
    """The request's body is over the limit."""

    code = "body_too_large"


class UnsupportedMediaType(RequestError):  # noqa: N818 - a condition, not a fault
    """The request's body is not of the type that is read here."""

    code = "unsupported_media_type"


class SlowClient(RequestError):  # noqa: N818 - a condition, not a fault
    """The request's body stopped coming."""

    code = "request_timeout"


class QueueFull(RequestError):  # noqa: N818 - a condition, not a fault
    """The bounded queue is full; `retry_after_seconds` is an honest guess."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StorageError(SmolserveError):
    """A file that keeps records cannot be opened, read or written; the message says what to do."""

    code = "storage_failed"


class EngineError(SmolserveError):
    """Our side failed; the request may be sent again."""

    code = "engine_error"


class EngineUnavailable(EngineError):  # noqa: N818 - a condition, not a fault
    """No worker is ready: loading, restarting or draining."""

    code = "engine_unavailable"


class WorkerDied(EngineError):  # noqa: N818 - a condition, not a fault
    """The worker that ran the request is gone."""

    code = "worker_died"


class LlamaError(EngineError):
    """llama.cpp refused an operation."""

    code = "llama_error"


class SnapshotFileError(EngineError):
    """A file of KV state cannot be used; never leaves the worker."""

    code = "snapshot_file_error"

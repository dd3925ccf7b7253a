"""The file that says of each API key whose it is and what its caller may use."""

import string
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from service.api.keys import ApiKey, Caller, digest_key
from service.api.rate_limits import RateLimits
from service.core.request import FIRST_PRIORITY, LAST_PRIORITY
from service.errors import SettingsError

_TABLE = "callers"
_DIGEST_LEN = 64
_LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrent")
_FIELDS = frozenset({"name", "key", "sha256", "weight", "best_priority", *_LIMITS})
_NAME_CHARS = frozenset(string.ascii_letters + string.digits + "._-")
_MAX_NAME_LEN = 64
_MIN_WEIGHT, _MAX_WEIGHT = 0.01, 100


def read_keys_file(path: Path, defaults: Caller) -> list[ApiKey]:
    """The limits and the best priority of `defaults` hold for who has none; a limit of 0 is none.

    Raises SettingsError, which never quotes a key.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        tables = _list_tables(document)
        keys = [_Entry(number, table).read(defaults) for number, table in enumerate(tables, 1)]
        _check_unique(keys)
    except OSError as error:
        raise _invalid(path, f"{error.strerror}; name a file that this user may read") from None
    except UnicodeDecodeError:
        raise _invalid(path, "it is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, f"it is not TOML: {error}") from None
    except ValueError as error:
        raise _invalid(path, str(error)) from None
    return keys


class _Entry:
    """One caller's table. Raises ValueError that says which, and what to write instead."""

    def __init__(self, number: int, table: Mapping[str, object]) -> None:
        self._table = table
        name = table.get("name")
        self._place = f"{_TABLE}[{number}]" + (f" ({name})" if _is_name(name) else "")

    def read(self, defaults: Caller) -> ApiKey:
        unknown = self._table.keys() - _FIELDS
        if unknown:
            self._refuse(
                min(unknown)[:100], f"is not known; there are {', '.join(sorted(_FIELDS))}"
            )
        return ApiKey.of_digest(
            self._read_digest(),
            name=self._read_name(),
            weight=self._read_weight(),
            limits=RateLimits(
                **{name: self._read_limit(name, getattr(defaults.limits, name)) for name in _LIMITS}
            ),
            best_priority=self._read_best_priority(defaults.best_priority),
        )

    def _read_name(self) -> str:
        name = self._table.get("name")
        if not _is_name(name):
            self._refuse("name", f"must be 1 to {_MAX_NAME_LEN} of letters, digits, '.', '_', '-'")
        return cast("str", name)

    def _read_digest(self) -> bytes:
        key, digest = self._table.get("key"), self._table.get("sha256")
        if (key is None) == (digest is None):
            self._refuse("key", "or sha256 must be there, and not both")
        if key is not None:
            if not isinstance(key, str) or not key.strip() or key != key.strip():
                self._refuse("key", "must be text without white space around it")
            return digest_key(key)
        if not isinstance(digest, str) or not _is_digest(digest):
            self._refuse("sha256", "must be the 64 hexadecimal digits of the key's SHA-256")
        return bytes.fromhex(digest)

    def _read_weight(self) -> float:
        weight = self._table.get("weight", 1.0)
        if not _is_number(weight) or not _MIN_WEIGHT <= cast("float", weight) <= _MAX_WEIGHT:
            self._refuse("weight", "must be a number from 0.01 to 100")
        return float(cast("float", weight))

    def _read_best_priority(self, default: int) -> int:
        priority = self._table.get("best_priority", default)
        if type(priority) is not int or not FIRST_PRIORITY <= priority <= LAST_PRIORITY:
            self._refuse(
                "best_priority", f"must be a whole number from {FIRST_PRIORITY} to {LAST_PRIORITY}"
            )
        return priority

    def _read_limit(self, name: str, default: int | None) -> int | None:
        if name not in self._table:
            return default
        limit = self._table[name]
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            self._refuse(name, "must be a whole number; 0 is no limit")
        return limit or None

    def _refuse(self, field: str, complaint: str) -> NoReturn:
        raise ValueError(f"{self._place}: {field} {complaint}")


def _list_tables(document: Mapping[str, Any]) -> list[Mapping[str, object]]:
    tables: object = document.get(_TABLE, [])
    if document.keys() - {_TABLE} or not isinstance(tables, list):
        raise ValueError(f"it may only have tables of the form [[{_TABLE}]]")
    listed = cast("list[object]", tables)
    if not listed or not all(isinstance(table, dict) for table in listed):
        raise ValueError(f"it must have a table [[{_TABLE}]] for each caller")
    return cast("list[Mapping[str, object]]", listed)


def _check_unique(keys: list[ApiKey]) -> None:
    for what, values in (
        ("name", [key.caller.name for key in keys]),
        ("key", [key.digest for key in keys]),
    ):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            names = [key.caller.name for key in keys if value in {key.caller.name, key.digest}]
            raise ValueError(f"{' and '.join(map(str, names))} have the same {what}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME_LEN and set(value) <= _NAME_CHARS


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_digest(value: str) -> bool:
    return len(value) == _DIGEST_LEN and set(value) <= set(string.hexdigits)


def _invalid(path: Path, reason: str) -> SettingsError:
    return SettingsError(f"SMOLSERVE_KEYS_FILE: {path}: {reason}")

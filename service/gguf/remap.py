"""Both key families in one file, and the NoPE layers written down; tensors stay as they are."""

import hashlib
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from service.errors import ModelFileError
from service.gguf import smollm3
from service.gguf.files import (
    PAGE,
    Progress,
    atomic_file,
    copy_bytes,
    ignore_progress,
    require_absent,
    require_space,
    write_all,
)
from service.gguf.header import Header, open_regular, pad, read_header
from service.gguf.hyperparameters import read_hyperparameters
from service.gguf.summary import lacks_keys, map_keys
from service.gguf.writer import (
    encode_header,
    i32_array_field,
    renamed_field,
    text_field,
)

Architecture = Literal["smollm3", "llama"]

PADDING_KEY = "smolserve.padding"
"""Blanks that move the tensors to a page offset they had in the source, so that they reflink."""

STAMP_KEY = "smolserve.remapped_from"
"""Tells which source a remapped file was made of: its size, time of change and header's digest."""

_FORM = 1
"""Part of the stamp; a new number when `remap` writes other things makes older files stale."""

COST_OF_LLAMA = (
    "as architecture llama every loader applies rotary embedding to all layers, also to those that "
    "were trained without it: the file loads and runs, and its answers are wrong"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remapped:
    target: Path
    changed: bool
    """False if the source needed nothing and was copied as it is."""
    message: str
    added_keys: tuple[str, ...]


def needs_remap(path: Path) -> bool:
    """Whether `path` is a SmolLM3 file without the llama keys or the list of NoPE layers.

    Raises ModelFileError if it is no sound GGUF file.
    """
    return lacks_keys(read_header(path))


def is_remapped_from(source: Header, target: Path) -> bool:
    """Whether `target` is whole and what `remap` would make of `source` as it is now."""
    try:
        header = read_header(target)
    except ModelFileError:
        return False
    return header.text(STAMP_KEY) == _stamp(source) and not header.missing_bytes


def remap(
    source: Path,
    target: Path,
    *,
    architecture: Architecture = "smollm3",
    accept_rope_everywhere: bool = False,
    force: bool = False,
    progress: Progress = ignore_progress,
) -> Remapped:
    """Write `source` to `target` with both key families.

    A file that needs nothing (of another architecture, or remapped before) is copied as it is.
    Raises ModelFileError if the source is not sound, the target exists (unless `force`), the disk
    is full, or `architecture` is llama without `accept_rope_everywhere`.
    """
    if architecture == smollm3.LLAMA and not accept_rope_everywhere:
        raise ModelFileError(
            f"{COST_OF_LLAMA}. Pass --accept-rope-everywhere to do it all the same"
        )
    header = read_header(source)
    if header.missing_bytes:
        raise ModelFileError(
            f"{source} is cut short by {header.missing_bytes} bytes; download it again"
        )
    require_absent(target, force=force)
    plan = _plan(header, architecture)
    require_space(target.absolute().parent, len(plan.header) + header.file_size - plan.copy_from)
    with open_regular(source) as original, atomic_file(target, force=force) as copy:
        _check_unchanged(original, header)
        write_all(copy, plan.header)
        copy_bytes(original, plan.copy_from, copy, progress)
    return Remapped(
        target=target,
        changed=bool(plan.header),
        message=plan.message,
        added_keys=plan.added_keys,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    header: bytes
    """The new header; empty to copy the file as it is."""
    copy_from: int
    """The first byte of the source that is copied."""
    message: str
    added_keys: tuple[str, ...] = ()


def _plan(header: Header, architecture: Architecture) -> _Plan:
    found = header.text("general.architecture")
    if found != smollm3.ARCHITECTURE:
        message = f"architecture {found} needs no mapping: copied as it is"
        return _Plan(header=b"", copy_from=0, message=message)
    if architecture == smollm3.ARCHITECTURE and not lacks_keys(header):
        message = "both key families and the NoPE layers are there already: copied as it is"
        return _Plan(header=b"", copy_from=0, message=message)
    added = _missing_fields(header)
    stamp = text_field(STAMP_KEY, _stamp(header))
    fields = [*_kept_fields(header, architecture), *added.values(), stamp]
    message = f"{len(added)} keys added; architecture {architecture}"
    if architecture == smollm3.LLAMA:
        message += f". Mind: {COST_OF_LLAMA}"
    return _Plan(
        header=_page_aligned(header, fields),
        copy_from=header.data_start,
        message=message,
        added_keys=tuple(added),
    )


def _stamp(source: Header) -> str:
    """Other bytes at the same path differ in one of these, short of a forgery."""
    changed = source.path.stat().st_mtime_ns
    digest = hashlib.sha256(source.raw).hexdigest()
    return f"form {_FORM}; {source.file_size} bytes; changed {changed} ns; header {digest}"


def _missing_fields(header: Header) -> dict[str, bytes]:
    shape = read_hyperparameters(header, smollm3.ARCHITECTURE)
    added: dict[str, bytes] = {}
    for mapping in map_keys(header):
        if mapping.state == "different":
            raise ModelFileError(
                f"{header.path}: {mapping.target} is {mapping.target_value} but {mapping.source} "
                f"is {mapping.source_value}; one of them is wrong, get the file anew"
            )
        if mapping.state == "missing":
            field = header.fields[mapping.source]
            value = header.raw[field.value_start : field.end]
            added[mapping.target] = renamed_field(mapping.target, value)
    if smollm3.declared_nope_layers(header) is None:
        layers = smollm3.nope_layers(shape.num_layers)
        added[smollm3.NOPE_KEY] = i32_array_field(smollm3.NOPE_KEY, layers)
    return added


def _kept_fields(header: Header, architecture: Architecture) -> list[bytes]:
    kept: list[bytes] = []
    for field in header.fields.values():
        if field.key == "general.architecture" and architecture != smollm3.ARCHITECTURE:
            kept.append(text_field(field.key, architecture))
        elif field.key not in {PADDING_KEY, STAMP_KEY}:
            kept.append(header.raw[field.start : field.end])
    return kept


def _page_aligned(header: Header, fields: list[bytes]) -> bytes:
    """A header whose length equals the source's data start modulo `PAGE`."""

    def encode(num_blanks: int) -> bytes:
        return encode_header(
            [*fields, text_field(PADDING_KEY, " " * num_blanks)],
            header.raw[header.tensors_start :],
            num_tensors=len(header.tensors),
            alignment=header.alignment,
            version=header.version,
        )

    shortest = len(encode(0))
    blanks = (header.data_start - shortest) % PAGE
    encoded = encode(blanks)
    assert len(encoded) == pad(len(encoded), header.alignment)
    return encoded


def _check_unchanged(file: FileIO, header: Header) -> None:
    if file.read(len(header.raw)) != header.raw:
        raise ModelFileError(f"{header.path} changed while it was read; try again")

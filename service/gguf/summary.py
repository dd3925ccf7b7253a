"""Everything worth knowing about a GGUF file, as plain data that prints and serialises."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gguf.constants import TokenType

from service.core.kv import KvType
from service.errors import ModelFileError
from service.gguf import smollm3
from service.gguf.header import Field, Header, Scalar, Tensor, read_header
from service.gguf.hyperparameters import Hyperparameters, read_hyperparameters
from service.gguf.memory import MemoryEstimate, estimate_memory, kv_bytes_per_token

SCHEMA_VERSION = 1
"""Of the JSON; it grows when a field changes its meaning or goes."""

LONGEST_TEXT = 200
"""Longer texts (templates, licences) and all arrays appear by length only."""

_SPECIAL_ROLES = ("bos", "eos", "eot", "eom", "unknown", "padding", "separator", "mask")

MappingState = Literal["present", "missing", "different", "nothing to map"]
NopeSource = Literal["metadata", "architecture", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataEntry:
    key: str
    type: str
    value: Scalar | None
    """None for arrays and long texts, of which `length` says how long they are."""
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeGroup:
    """Tensors alike but for their layer: `blk.*.attn_q.weight`."""

    name: str
    shape: tuple[int, ...]
    num_tensors: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisationGroup:
    type: str
    num_tensors: int
    num_elements: int
    num_bytes: int
    shapes: tuple[ShapeGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerQuantisation:
    """Which layers hold `tensor` in `type`."""

    tensor: str
    type: str
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialToken:
    role: str
    """What the metadata names it for, else its kind: control or user-defined."""
    token_id: int
    text: str | None
    """None if the id lies outside of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSummary:
    model: str | None
    pre_tokenizer: str | None
    num_tokens: int
    num_merges: int
    num_control: int
    num_user_defined: int
    num_unused: int
    add_bos: bool | None
    special: tuple[SpecialToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMapping:
    """One key of the llama family and the SmolLM3 key that it copies."""

    suffix: str
    """The key without its family."""
    source: str
    target: str
    source_value: Scalar | None
    target_value: Scalar | None
    state: MappingState


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufSummary:
    schema_version: int
    path: str
    file_size: int
    missing_bytes: int
    """Above 0 where the file is cut short."""
    gguf_version: int
    alignment: int
    header_bytes: int
    num_tensors: int
    num_metadata: int
    architecture: str | None
    name: str | None
    hyperparameters: Hyperparameters | None
    """None for architectures whose keys do not tell a plain decoder."""
    hyperparameters_problem: str | None
    tensor_bytes: int
    quantisations: tuple[QuantisationGroup, ...]
    layer_quantisations: tuple[LayerQuantisation, ...]
    nope_layers: tuple[int, ...]
    nope_source: NopeSource
    tied_embeddings: bool
    tokenizer: TokenizerSummary
    chat_template_len: int | None
    """Characters of it, None if there is none."""
    mapping: tuple[KeyMapping, ...]
    needs_remap: bool
    kv_bytes_per_token: dict[KvType, int]
    metadata: tuple[MetadataEntry, ...]

    def estimate_memory(
        self, *, num_slots: int, slot_len: int, kv_type: KvType
    ) -> MemoryEstimate | None:
        """None where the hyper-parameters are not known."""
        if self.hyperparameters is None:
            return None
        return estimate_memory(
            self.hyperparameters,
            weight_bytes=self.tensor_bytes,
            num_slots=num_slots,
            slot_len=slot_len,
            kv_type=kv_type,
        )


def inspect(path: Path) -> GgufSummary:
    """Read the header of `path` and sum it up. Raises ModelFileError if it is not sound."""
    return summarise(read_header(path))


def summarise(header: Header) -> GgufSummary:
    architecture = header.text("general.architecture")
    shape, problem = _hyperparameters(header, architecture)
    mapping = map_keys(header)
    nope_layers, nope_source = find_nope_layers(header, shape)
    template = header.text("tokenizer.chat_template")
    return GgufSummary(
        schema_version=SCHEMA_VERSION,
        path=str(header.path),
        file_size=header.file_size,
        missing_bytes=header.missing_bytes,
        gguf_version=header.version,
        alignment=header.alignment,
        header_bytes=header.data_start,
        num_tensors=len(header.tensors),
        num_metadata=len(header.fields),
        architecture=architecture,
        name=header.text("general.name"),
        hyperparameters=shape,
        hyperparameters_problem=problem,
        tensor_bytes=sum(tensor.num_bytes for tensor in header.tensors),
        quantisations=_group_quantisations(header.tensors),
        layer_quantisations=_group_layers(header.tensors, ("attn_v", "ffn_down")),
        nope_layers=nope_layers,
        nope_source=nope_source,
        tied_embeddings=not any(tensor.name == "output.weight" for tensor in header.tensors),
        tokenizer=_summarise_tokenizer(header),
        chat_template_len=None if template is None else len(template),
        mapping=mapping,
        needs_remap=lacks_keys(header),
        kv_bytes_per_token={} if shape is None else _kv_bytes(shape),
        metadata=tuple(_summarise_field(field) for field in header.fields.values()),
    )


def map_keys(header: Header) -> tuple[KeyMapping, ...]:
    """Where each of the ten keys stands; empty for a file without SmolLM3 keys."""
    family = f"{smollm3.ARCHITECTURE}."
    if not any(key.startswith(family) for key in header.fields):
        return ()
    return tuple(_map_key(header, suffix) for suffix in smollm3.MAPPED)


def lacks_keys(header: Header) -> bool:
    """Whether this is a SmolLM3 file that `remap` would add anything to."""
    if header.text("general.architecture") != smollm3.ARCHITECTURE:
        return False
    missing = any(mapping.state == "missing" for mapping in map_keys(header))
    return missing or header.find(smollm3.NOPE_KEY) is None


def find_nope_layers(
    header: Header, shape: Hyperparameters | None
) -> tuple[tuple[int, ...], NopeSource]:
    """The layers that must have no rotary embedding, and who says so."""
    declared = smollm3.declared_nope_layers(header)
    if declared is not None:
        return declared, "metadata"
    if shape is not None and header.text("general.architecture") == smollm3.ARCHITECTURE:
        return smollm3.nope_layers(shape.num_layers), "architecture"
    return (), "none"


def _hyperparameters(
    header: Header, architecture: str | None
) -> tuple[Hyperparameters | None, str | None]:
    if architecture is None:
        return None, "metadata key general.architecture is missing"
    try:
        return read_hyperparameters(header, architecture), None
    except ModelFileError as error:
        return None, str(error)


def _map_key(header: Header, suffix: str) -> KeyMapping:
    source, target = f"{smollm3.ARCHITECTURE}.{suffix}", f"{smollm3.LLAMA}.{suffix}"
    source_value, target_value = header.find(source), header.find(target)
    if source_value is None:
        state: MappingState = "nothing to map"
    elif target_value is None:
        state = "missing"
    elif smollm3.equal_values(source_value, target_value):
        state = "present"
    else:
        state = "different"
    return KeyMapping(
        suffix=suffix,
        source=source,
        target=target,
        source_value=_scalar(header.fields.get(source)),
        target_value=_scalar(header.fields.get(target)),
        state=state,
    )


def _scalar(field: Field | None) -> Scalar | None:
    return None if field is None else _summarise_field(field).value


def _summarise_field(field: Field) -> MetadataEntry:
    value, type_name = field.value, field.type.name.lower()
    if isinstance(value, (int, float)):
        return MetadataEntry(key=field.key, type=type_name, value=value, length=None)
    if isinstance(value, str):
        shown = value if len(value) <= LONGEST_TEXT else None
        return MetadataEntry(key=field.key, type=type_name, value=shown, length=len(value))
    element = "" if field.element_type is None else field.element_type.name.lower()
    return MetadataEntry(key=field.key, type=f"array of {element}", value=None, length=len(value))


def _group_quantisations(tensors: tuple[Tensor, ...]) -> tuple[QuantisationGroup, ...]:
    by_type: defaultdict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        by_type[tensor.type.name].append(tensor)
    groups = (
        QuantisationGroup(
            type=name,
            num_tensors=len(members),
            num_elements=sum(tensor.num_elements for tensor in members),
            num_bytes=sum(tensor.num_bytes for tensor in members),
            shapes=_group_shapes(members),
        )
        for name, members in by_type.items()
    )
    return tuple(sorted(groups, key=lambda group: (-group.num_bytes, group.type)))


def _group_shapes(tensors: Iterable[Tensor]) -> tuple[ShapeGroup, ...]:
    counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
    sizes: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for tensor in tensors:
        group = (_name_without_layer(tensor.name), tensor.shape)
        counts[group] += 1
        sizes[group] += tensor.num_bytes
    return tuple(
        ShapeGroup(name=name, shape=shape, num_tensors=count, num_bytes=sizes[name, shape])
        for (name, shape), count in sorted(counts.items())
    )


def _group_layers(
    tensors: tuple[Tensor, ...], names: tuple[str, ...]
) -> tuple[LayerQuantisation, ...]:
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for tensor in tensors:
        layer = layer_of(tensor.name)
        name = tensor.name.removeprefix(f"blk.{layer}.").removesuffix(".weight")
        if layer is not None and name in names:
            found[name, tensor.type.name].append(layer)
    return tuple(
        LayerQuantisation(tensor=name, type=type_name, layers=tuple(sorted(layers)))
        for (name, type_name), layers in sorted(found.items())
    )


def layer_of(name: str) -> int | None:
    """3 for `blk.3.attn_q.weight`."""
    prefix, _, rest = name.partition(".")
    number, _, _ = rest.partition(".")
    return int(number) if prefix == "blk" and number.isascii() and number.isdigit() else None


def _name_without_layer(name: str) -> str:
    layer = layer_of(name)
    return name if layer is None else f"blk.*.{name.split('.', 2)[-1]}"


def _summarise_tokenizer(header: Header) -> TokenizerSummary:
    tokens = header.texts("tokenizer.ggml.tokens") or ()
    kinds = header.numbers("tokenizer.ggml.token_type")
    add_bos = header.find("tokenizer.ggml.add_bos_token")
    counts: Counter[int] = Counter(() if kinds is None else kinds.tolist())
    return TokenizerSummary(
        model=header.text("tokenizer.ggml.model"),
        pre_tokenizer=header.text("tokenizer.ggml.pre"),
        num_tokens=len(tokens),
        num_merges=len(header.texts("tokenizer.ggml.merges") or ()),
        num_control=counts[TokenType.CONTROL],
        num_user_defined=counts[TokenType.USER_DEFINED],
        num_unused=counts[TokenType.UNUSED],
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        special=_special_tokens(header, tokens, [] if kinds is None else kinds.tolist()),
    )


def _special_tokens(
    header: Header, tokens: tuple[str, ...], kinds: list[int]
) -> tuple[SpecialToken, ...]:
    """Those with a role in the metadata, then the control and user-defined ones in use."""
    special: list[SpecialToken] = []
    for role in _SPECIAL_ROLES:
        token_id = header.integer(f"tokenizer.ggml.{role}_token_id")
        if token_id is not None:
            text = tokens[token_id] if 0 <= token_id < len(tokens) else None
            special.append(SpecialToken(role=role, token_id=token_id, text=text))
    for token_id, (kind, text) in enumerate(zip(kinds, tokens, strict=False)):
        if kind in _KINDS and "reserved" not in text and len(special) < MAX_SPECIAL:
            special.append(SpecialToken(role=_KINDS[kind], token_id=token_id, text=text))
    return tuple(special)


MAX_SPECIAL = 64
_KINDS = {int(TokenType.CONTROL): "control", int(TokenType.USER_DEFINED): "user-defined"}


def _kv_bytes(shape: Hyperparameters) -> dict[KvType, int]:
    kinds: tuple[KvType, ...] = ("f16", "q8_0", "q4_0")
    return {kind: kv_bytes_per_token(shape, kind) for kind in kinds}

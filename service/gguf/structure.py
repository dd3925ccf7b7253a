"""Checks that need the header only: whether the file can be what it claims to be."""

from collections import Counter
from collections.abc import Iterable, Iterator

from gguf.constants import GGMLQuantizationType

from service.errors import ModelFileError
from service.gguf import smollm3
from service.gguf.check import Check, failed, passed, skipped
from service.gguf.header import Header, Tensor, pad, shorten
from service.gguf.hyperparameters import Hyperparameters, read_hyperparameters
from service.gguf.summary import map_keys

_KNOWN = {smollm3.ARCHITECTURE, smollm3.LLAMA}
_OPTIONAL = {"output.weight", "rope_freqs.weight"}

REMAP = "run `smolserve gguf remap`"


def check_structure(header: Header) -> Iterator[Check]:
    """Every check, in an order in which the first failure is the most telling one."""
    shape: Hyperparameters | None = None
    architecture = header.text("general.architecture")
    try:
        shape = read_hyperparameters(header, architecture or "")
        yield _check_shape(architecture, shape)
    except ModelFileError as error:
        yield failed("shape", f"architecture {shorten(str(architecture))}: {error}")
    yield _check_layout(header)
    yield _check_tensors(header, shape, architecture)
    yield _check_quantisation(header.tensors)
    yield _check_tokenizer(header)
    yield _check_mapping(header, shape)


def _check_shape(architecture: str | None, shape: Hyperparameters) -> Check:
    if architecture in _KNOWN and shape.hidden_len % shape.num_heads:
        return failed("shape", f"{shape.hidden_len} is no multiple of {shape.num_heads} heads")
    if shape.num_heads % shape.num_kv_heads:
        return failed(
            "shape", f"{shape.num_heads} heads do not share {shape.num_kv_heads} key/value heads"
        )
    if architecture in _KNOWN and shape.rope_len != shape.head_len:
        # llama.cpp ends the process on this one.
        return failed("shape", f"RoPE of {shape.rope_len} in heads of {shape.head_len}")
    detail = f"{shorten(str(architecture))}, {shape.num_layers} layers of {shape.hidden_len}"
    return passed("shape", detail)


def _check_layout(header: Header) -> Check:
    """No tensor beyond the end, none over another, and packed as llama.cpp wants them."""
    if header.missing_bytes:
        return failed("layout", f"cut short by {header.missing_bytes} bytes; download it again")
    expected = 0
    for tensor in header.tensors:
        if tensor.offset != expected:
            kind = "overlaps the tensor before" if tensor.offset < expected else "leaves a gap"
            return failed(
                "layout", f"{shorten(tensor.name)} at {tensor.offset}, not {expected}: {kind}"
            )
        expected = pad(tensor.offset + tensor.num_bytes, header.alignment)
    return passed("layout", f"{len(header.tensors)} tensors, packed, {header.data_size} bytes")


def _check_tensors(
    header: Header, shape: Hyperparameters | None, architecture: str | None
) -> Check:
    if shape is None or architecture not in _KNOWN:
        return skipped("tensors", f"not known for architecture {shorten(str(architecture))}")
    found = {tensor.name: tensor.shape for tensor in header.tensors}
    tied = "output.weight" not in found
    expected = smollm3.expected_tensors(shape, tied=tied)
    missing = [name for name in expected if name not in found]
    if missing:
        return failed("tensors", f"{len(missing)} missing: {_some(missing)}")
    wrong = [name for name, dims in expected.items() if found[name] != dims]
    if wrong:
        name = wrong[0]
        return failed("tensors", f"{name} has shape {found[name]}, not {expected[name]}")
    surplus = [name for name in found if name not in expected and name not in _OPTIONAL]
    if surplus:
        return failed("tensors", f"{len(surplus)} not of this architecture: {_some(surplus)}")
    return passed("tensors", f"all {len(expected)}, embeddings {'tied' if tied else 'not tied'}")


def _check_quantisation(tensors: tuple[Tensor, ...]) -> Check:
    for tensor in tensors:
        is_norm = tensor.name.endswith("_norm.weight")
        if is_norm and tensor.type is not GGMLQuantizationType.F32:
            return failed("quantisation", f"{shorten(tensor.name)} is {tensor.type.name}, not F32")
        if tensor.type not in smollm3.ACCEPTED_TYPES:
            accepted = ", ".join(sorted(kind.name for kind in smollm3.ACCEPTED_TYPES))
            return failed(
                "quantisation",
                f"{shorten(tensor.name)} is {tensor.type.name}; accepted are {accepted}",
            )
    if not tensors:
        return failed("quantisation", "the file holds no tensors")
    counts = Counter(tensor.type.name for tensor in tensors)
    return passed("quantisation", ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))


def _check_tokenizer(header: Header) -> Check:
    tokens = header.texts("tokenizer.ggml.tokens")
    if not tokens:
        return failed("tokenizer", "tokenizer.ggml.tokens is missing or no list of texts")
    rows = [tensor.shape[1:] for tensor in header.tensors if tensor.name == "token_embd.weight"]
    if rows and rows[0] != (len(tokens),):
        return failed("tokenizer", f"{len(tokens)} tokens for embeddings of shape {rows[0]}")
    if len(set(tokens)) != len(tokens):
        # llama.cpp ends the process on this one.
        text, count = Counter(tokens).most_common(1)[0]
        return failed("tokenizer", f"token {shorten(text)} appears {count} times")
    kinds = header.numbers("tokenizer.ggml.token_type")
    if kinds is not None and kinds.size < len(tokens):
        return failed("tokenizer", f"{kinds.size} token types for {len(tokens)} tokens")
    for key in header.fields:
        token = header.integer(key)
        if key.endswith("_token_id") and not (token is not None and 0 <= token < len(tokens)):
            return failed("tokenizer", f"{shorten(key)} names no token of {len(tokens)}")
    return passed("tokenizer", f"{len(tokens)} tokens, all different")


def _check_mapping(header: Header, shape: Hyperparameters | None) -> Check:
    mappings = map_keys(header)
    if not mappings:
        return skipped("mapping", "no SmolLM3 keys to map")
    for mapping in mappings:
        if mapping.state == "different":
            detail = f"{mapping.source} and {mapping.target} have different values"
            return failed("mapping", detail)
    missing = [mapping.target for mapping in mappings if mapping.state == "missing"]
    if missing:
        return skipped("mapping", f"not remapped, {len(missing)} llama keys missing; {REMAP}")
    return _check_nope_layers(header, shape)


def _check_nope_layers(header: Header, shape: Hyperparameters | None) -> Check:
    try:
        layers = smollm3.declared_nope_layers(header)
    except ModelFileError as error:
        return failed("mapping", str(error))
    if layers is None:
        return skipped("mapping", f"{smollm3.NOPE_KEY} is missing; {REMAP}")
    if shape is None or layers != smollm3.nope_layers(shape.num_layers):
        return failed("mapping", f"{smollm3.NOPE_KEY} lists other layers than SmolLM3 has; {REMAP}")
    detail = f"{len(smollm3.MAPPED)} keys in both families, {len(layers)} NoPE layers"
    return passed("mapping", detail)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(shorten(name) for name in listed[:3]) + (" …" if len(listed) > 3 else "")  # noqa: PLR2004 - enough to see

"""Proof that what is served is SmolLM3: llama.cpp against a forward pass in plain NumPy.

Two files hold the same weights. In `tiny_f32` they are float32, so nothing is rounded but the last
bits of sums: agreement must be near exact. `tiny` is Q4_K_M: both sides use the same dequantised
weights, and llama.cpp rounds activations to 8 bits a block. What that rounding alone does to the
logits is measured on the reference, by rounding there; that is the error which is granted.
"""

import ast
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

import service
from tests.gguf.builders import feed, feed_all, feed_each, opened, report
from tests.gguf.reference import Reference

NOPE_LAYERS = (3, 7)
NUM_DRAWN = 2048
"""Tokens with embeddings; the logits of all others are zero on both sides."""

EXACT = 1e-4
"""Of logits with a standard deviation of 6: 8 layers of float32 sums, and angles in float32."""

KEYS_IN_16_BITS = 0.05
"""With the KV cache in f16, as it is served: 8 layers of keys and values rounded to 11 bits."""

TOKENS = np.random.default_rng(1).integers(0, NUM_DRAWN, 80).tolist()


def reference(path: Path, *, nope_layers=NOPE_LAYERS, rounds_activations=False) -> Reference:
    return Reference(
        path=path,
        nope_layers=nope_layers,
        num_tokens=NUM_DRAWN,
        rounds_activations=rounds_activations,
    )


def distance(left, right) -> float:
    """Root mean square over drawn tokens."""
    difference = np.asarray(left)[..., :NUM_DRAWN] - np.asarray(right)[..., :NUM_DRAWN]
    return float(np.sqrt(np.mean(difference**2)))


@pytest.fixture(scope="module")
def expected(tiny_f32):
    """Of both files: they hold the same weights."""
    return reference(tiny_f32).logits(TOKENS)


@pytest.fixture(scope="module")
def granted(tiny, expected) -> float:
    rounded = reference(tiny, rounds_activations=True).logits(TOKENS)
    return 1.5 * distance(rounded, expected)


def test_both_files_hold_the_same_weights(tiny, expected):
    from_quantised = reference(tiny).logits(TOKENS)
    assert distance(from_quantised, expected) == 0


def test_unrounded_logits_agree_and_those_of_the_llama_file_do_not(tiny_f32, llama_f32, expected):
    with opened(tiny_f32, exact=True) as context:
        as_smollm3 = distance(feed_all(context, TOKENS), expected)
    with opened(llama_f32, exact=True) as context:
        logits = feed_all(context, TOKENS)
    as_plain_llama = distance(logits, expected)
    wrong_tokens = np.mean(logits[:, :NUM_DRAWN].argmax(axis=1) != expected.argmax(axis=1))
    report(
        f"f32: smollm3 {as_smollm3:.1e}, llama {as_plain_llama:.2f}, of std {expected.std():.2f}"
    )
    report(f"llama's best token is another one at {wrong_tokens:.0%} of the positions")
    assert as_smollm3 < EXACT
    assert as_plain_llama > 1000 * EXACT


def test_rope_in_every_layer_is_what_the_llama_file_computes(tiny_f32, llama_f32):
    everywhere = reference(tiny_f32, nope_layers=()).logits(TOKENS)
    with opened(llama_f32, exact=True) as context:
        assert distance(feed_all(context, TOKENS), everywhere) < EXACT


def test_quantised_logits_agree_and_those_of_the_llama_file_do_not(
    remapped, llama, expected, granted
):
    with opened(remapped) as context:
        as_smollm3 = distance(feed_all(context, TOKENS), expected)
    with opened(llama) as context:
        as_plain_llama = distance(feed_all(context, TOKENS), expected)
    report(f"Q4_K_M: smollm3 {as_smollm3:.3f}, granted {granted:.3f}, llama {as_plain_llama:.2f}")
    assert as_smollm3 < granted
    assert as_plain_llama > 5 * granted


@pytest.mark.parametrize("chunk", [7, 32, 64])
def test_prompt_longer_than_a_chunk_agrees(tiny_f32, expected, chunk):
    with opened(tiny_f32, exact=True) as context:
        assert distance(feed(context, TOKENS, chunk=chunk), expected[-1]) < EXACT


def test_decode_after_prefill_agrees(tiny_f32, expected):
    with opened(tiny_f32, exact=True) as context:
        feed(context, TOKENS[:64])
        decoded = feed_each(context, TOKENS[64:], start=64)
    assert distance(decoded, expected[64:]) < EXACT


def test_other_conversations_in_the_context_change_nothing(tiny_f32, expected):
    with opened(tiny_f32, exact=True) as context:
        feed(context, TOKENS[::-1], slot=0)
        feed(context, TOKENS[::2], slot=1)
        assert distance(feed(context, TOKENS, slot=2), expected[-1]) < EXACT


def test_sequence_restored_into_another_slot_agrees(tiny_f32, expected):
    with opened(tiny_f32, exact=True) as context:
        feed(context, TOKENS[:64], slot=0)
        context.restore(3, [context.save(0)], 64)
        decoded = feed_each(context, TOKENS[64:], slot=3, start=64)
    assert distance(decoded, expected[64:]) < EXACT


def test_sequence_restored_into_another_context_and_truncated_agrees(tiny_f32, expected):
    with opened(tiny_f32, exact=True) as context:
        feed(context, TOKENS[:80], slot=2)
        snapshot = context.save(2)
    with opened(tiny_f32, exact=True, num_slots=1, slot_len=1024) as context:
        context.restore(0, [snapshot], 48)
        decoded = feed_each(context, TOKENS[48:], start=48)
    assert distance(decoded, expected[48:]) < EXACT


def test_cache_in_16_bits_as_it_is_served_agrees(tiny_f32, expected):
    with opened(tiny_f32) as context:
        assert distance(feed_all(context, TOKENS), expected) < KEYS_IN_16_BITS


def after_shift(path: Path) -> float:
    """How far the next logits move when a whole sequence moves by 100 positions.

    Relative positions stay as they were, so a model whose layers all rotate cannot notice.
    """
    with opened(path, exact=True) as context:
        feed(context, TOKENS[:64])
        before = feed(context, TOKENS[64:65], start=64)
        context.truncate(0, 64)
        llama_cpp.llama_memory_seq_add(context._kv, 0, 0, -1, 100)
        after = feed(context, TOKENS[64:65], start=164)
    return distance(before, after)


def test_shifting_positions_would_break_nope_layers(tiny_f32, llama_f32):
    as_smollm3, as_plain_llama = after_shift(tiny_f32), after_shift(llama_f32)
    report(f"moved by 100: smollm3 {as_smollm3:.2f}, llama {as_plain_llama:.1e}")
    assert as_plain_llama < 0.01
    assert as_smollm3 > 100 * as_plain_llama


def test_nothing_in_the_service_shifts_positions():
    shifting = {"llama_memory_seq_add", "llama_memory_seq_div"}
    for path in Path(service.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not used & shifting, path

from collections import Counter

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from service.errors import ModelFileError
from service.gguf.blocks import BlockSource
from service.gguf.header import read_header
from service.gguf.smollm3 import SPECIAL_TOKENS, nope_layers
from service.gguf.summary import inspect
from service.gguf.synth import lay_out, plan, synthesise
from service.gguf.vocabulary import make_vocabulary
from service.llama.vocab import Vocab

Q4_K, Q6_K, F32 = (GGMLQuantizationType[name] for name in ("Q4_K", "Q6_K", "F32"))


def test_3b_has_the_tensors_of_the_real_file():
    tensors = {tensor.name: tensor for tensor in lay_out(plan("3b").shape, "q4_k_m")}
    assert len(tensors) == 326
    assert Counter(tensor.type for tensor in tensors.values()) == {Q4_K: 216, Q6_K: 37, F32: 73}
    assert tensors["token_embd.weight"].shape == (2048, 128256)
    assert tensors["blk.0.attn_k.weight"].shape == (2048, 512)
    assert tensors["blk.35.ffn_down.weight"].shape == (11008, 2048)
    last = max(tensors.values(), key=lambda tensor: tensor.offset)
    assert f"{(last.offset + last.num_bytes) / 2**30:.2f}" == "1.78"


@pytest.mark.parametrize("name", ["attn_v", "ffn_down"])
def test_3b_has_more_bits_in_the_layers_where_the_real_file_has_them(name):
    tensors = lay_out(plan("3b").shape, "q4_k_m")
    layers = [
        int(tensor.name.split(".")[1])
        for tensor in tensors
        if f".{name}." in tensor.name and tensor.type is Q6_K
    ]
    assert sorted(layers) == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35]


def test_3b_has_nine_nope_layers_and_tiny_two():
    assert nope_layers(plan("3b").shape.num_layers) == (3, 7, 11, 15, 19, 23, 27, 31, 35)
    assert nope_layers(plan("tiny").shape.num_layers) == (3, 7)


def test_tiny_takes_a_few_megabytes_of_disk(tiny):
    assert tiny.stat().st_blocks * 512 < 8e6


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny, tmp_path):
    synthesise(tmp_path / "again.gguf", "tiny")
    synthesise(tmp_path / "other.gguf", "tiny", seed=1)
    content = tiny.read_bytes()
    assert (tmp_path / "again.gguf").read_bytes() == content
    assert (tmp_path / "other.gguf").read_bytes() != content


def test_generator_gives_the_bytes_it_gave_when_it_was_written():
    drawn = BlockSource(0, 0).blocks(Q4_K, 256, std=1.0)
    assert drawn[4:12].tobytes().hex() == "cfeb0fa321d7d982"


@pytest.mark.parametrize("kind", [Q4_K, Q6_K])
def test_random_blocks_have_the_wanted_size(kind):
    weights = dequantize(BlockSource(0).blocks(kind, 256 * 4000, std=0.02), kind)
    assert np.isfinite(weights).all()
    assert weights.std() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean()) < 0.0002


def test_special_tokens_have_their_real_ids(tiny):
    tokens = read_header(tiny).texts("tokenizer.ggml.tokens") or ()
    assert len(tokens) == 128256
    assert {token: tokens[token] for token in SPECIAL_TOKENS} == SPECIAL_TOKENS
    assert tokens[128255] == "<|reserved_special_token_247|>"


def test_llama_cpp_reads_the_tokenizer(tiny):
    vocab = Vocab.load(tiny)
    assert vocab.special_id("<|im_start|>") == 128011
    assert vocab.eos == 128012
    assert vocab.special_id("<think>") == 128002
    assert not vocab.add_bos
    vocab.close()


def test_any_text_survives_tokenising(tiny):
    vocab = Vocab.load(tiny)
    text = "Hello there, 123!\n\tŁódź 漢字 🙂 <|im_start|>user"
    for parse_special in (True, False):
        tokens = vocab.tokenize(text, parse_special=parse_special)
        assert b"".join(map(vocab.token_bytes, tokens)).decode() == text
    vocab.close()


def test_common_english_takes_fewer_tokens_than_characters(tiny):
    vocab = Vocab.load(tiny)
    text = "the weather in the north is getting better and better"
    assert len(vocab.tokenize(text, parse_special=False)) < len(text) / 1.5
    vocab.close()


def test_full_vocabulary_has_a_merge_for_every_token():
    vocabulary = make_vocabulary(128_000)
    assert len(vocabulary.merges) == 128_000 - 256
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) == 128256
    assert not any(token.startswith("<|unused") for token in vocabulary.tokens)


def test_unrounded_weights_are_those_of_the_quantised_file(tiny, tiny_f32):
    quantised, plain = inspect(tiny), inspect(tiny_f32)
    assert [group.type for group in plain.quantisations] == ["F32"]
    assert plain.hyperparameters == quantised.hyperparameters


def test_3b_without_quantisation_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="f32 is for the tiny size"):
        synthesise(tmp_path / "big.gguf", "3b", weights="f32")

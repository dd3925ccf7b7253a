import pytest

from service.llama.vocab import Vocab
from tests.llama.builders import MODEL_PATH

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def vocab():
    vocab = Vocab.load(MODEL_PATH)
    yield vocab
    vocab.close()


@pytest.mark.parametrize(
    "text", ["", "Hello, world", "naïve café 😀 日本語", "  \n\t two  spaces "]
)
def test_tokens_render_back_to_the_text(vocab, text):
    tokens = vocab.tokenize(text, parse_special=False)
    assert b"".join(vocab.token_bytes(token) for token in tokens).decode() == text


def test_control_text_becomes_its_token_only_when_asked(vocab):
    token = vocab.special_id("<|im_start|>")
    assert vocab.tokenize("<|im_start|>", parse_special=True) == [token]
    assert token not in vocab.tokenize("<|im_start|>", parse_special=False)


def test_end_of_turn_ends_a_generation(vocab):
    assert vocab.special_id("<|im_end|>") in vocab.eog_tokens


def test_metadata_and_template_are_those_of_the_file(vocab):
    assert vocab.metadata["general.architecture"] == "llama"
    assert vocab.metadata["llama.context_length"] == "8192"
    assert "<|im_start|>" in vocab.chat_template
    assert vocab.num_tokens == 49152

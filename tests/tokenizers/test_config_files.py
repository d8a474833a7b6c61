"""Contract: tokenizer_config.json and special_tokens_map.json say what every transformers understands."""

import pytest

from llama_convert.convert.tokenizers.added import added_tokens
from llama_convert.convert.tokenizers.huggingface import special_tokens_map, tokenizer_config
from llama_convert.convert.tokenizers.sentencepiece import Piece, PieceKind, SentencePieceVocabulary
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary

RANKS = TiktokenVocabulary(tokens=tuple(bytes([value]) for value in range(256)))
PIECES = SentencePieceVocabulary(
    pieces=(
        Piece(text="<unk>", score=0.0, kind=PieceKind.UNKNOWN),
        Piece(text="<s>", score=0.0, kind=PieceKind.CONTROL),
        Piece(text="</s>", score=0.0, kind=PieceKind.CONTROL),
        Piece(text="a", score=0.0, kind=PieceKind.NORMAL),
        Piece(text="<step>", score=0.0, kind=PieceKind.USER_DEFINED),
    ),
    add_dummy_prefix=True,
    byte_fallback=False,
    unknown=0,
    begin=1,
    end=2,
    pad=None,
)


@pytest.mark.parametrize(("number", "end"), [(257, "<|end_of_text|>"), (265, "<|eot_id|>")])
def test_llama_3(number, end):
    added = added_tokens(RANKS, special_tokens("3.1"))
    config = tokenizer_config(added, begin=256, end=number, pad=None, context=131072, chat_template=None)
    tokens = config.pop("added_tokens_decoder")
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": end,
        "add_bos_token": True,
        "add_eos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "clean_up_tokenization_spaces": False,
    }
    assert list(tokens) == [str(i) for i in range(256, 512)]
    assert tokens["256"] == {
        "content": "<|begin_of_text|>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def test_llama_2():
    added = added_tokens(PIECES)
    assert [(token.id, token.text) for token in added] == [(0, "<unk>"), (1, "<s>"), (2, "</s>"), (4, "<step>")]
    names = special_tokens_map(added, begin=1, end=2, pad=None)
    assert names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_a_template_is_part_of_the_config():
    config = tokenizer_config((), begin=1, end=2, pad=None, context=4096, chat_template="{{ x }}")
    assert config["chat_template"] == "{{ x }}"
    assert "bos_token" not in config

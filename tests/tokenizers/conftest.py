"""Tokenizers to compare with: Meta's real one, and a small SentencePiece model trained here."""

# ruff: noqa: RUF001 (the strings are meant to be hard)
import io
import json
import random
from pathlib import Path

import llama_models
import pytest
import sentencepiece

from llama_convert.convert.tokenizers.added import NamedVocabulary, added_tokens
from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.convert.tokenizers.huggingface import special_tokens_map, tokenizer_config
from llama_convert.convert.tokenizers.special_tokens import begin_token, end_token, special_tokens
from llama_convert.convert.tokenizers.tiktoken import read_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from tests.small_tokenizers import small_tiktoken

# Strings on which tokenizers differ when one of them is wrong.
HARD = [
    "",
    " ",
    "  ",
    "   a",
    "a   ",
    " leading",
    "trailing ",
    "  two  inside  ",
    "\n",
    "\n\n\n",
    "\r\n\r\n",
    "a\r\nb\rc\nd",
    " \n \n\n \t\t \n   ",
    "\t\tindented\n\t\t\tmore",
    "x" * 300,
    " " * 200,
    "a" + " " * 77 + "b",
    "\u00a0\u2003\u3000 mixed \u200b spaces\ufeff",
    "It's I'm we'll they've you'd he'S WE'RE 'tis ''s '",
    "0 1 12 123 1234 12345 123456789 3.14159 1e-10 0x7fff ½ ٣٤٥ ९८ Ⅷ",
    "def f(x):\n    return {k: [v] for k, v in x.items()}  # done\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] >> 2; }\n\n}}}));",
    '<div class="a">&nbsp;</div><!-- x -->',
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\Windows\\x",
    "ÀÉÎõü ßẞ ıİ ŀ ñandú smörgåsbord",
    "e\u0301 n\u0303 Z\u0351\u036b\u0343\u036a\u0302 a\u0327\u0301",
    "việc nghiên cứu khoa học",
    " việc",
    "Жизнь прожить — не поле перейти",
    "Η ζωή εν τάφω ΑΣ ας",
    "שָׁלוֹם עולם",
    "مرحبا بالعالم ۱۲۳ لا",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก ๑๒๓",
    "ကမ္ဘာ့ကုလသမဂ္ဂ ខ្មែរ ລາວ",
    "ありがとうございます、カタカナ。漢字かな交じり文",
    "你好，世界！繁體字與简体字",
    "안녕하세요 ㄱㄴㄷ 한글",
    "ქართული Հայերեն አማርኛ தமிழ் తెలుగు ಕನ್ನಡ മലയാളം বাংলা ਪੰਜਾਬੀ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀𓂀 𠜎𠜱 🄰🅱",
    "🙂 👍🏽 👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇩🇪🇫🇷 ❤\ufe0f 1\ufe0f\u20e3",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\ufffd\ufffe\uffff \U0010ffff \ue000",
    "\u2581\u2581 ▁already ▁ here",
    "Ġ Ċ literal byte characters Ã©",
    "!!!??? ... --- ### ***bold*** ~~~ $$$ %%% @@@ ^^^ &&& ||| \\\\ ``` ''' \"\"\"",
    "(((([[[[{{{{<<<<",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ABCabcABC camelCase snake_case kebab-case SCREAMING_CASE",
    "The quick brown fox jumps over the lazy dog. " * 20,
    "<0x0A> <unknown> [INST] <<SYS>>",
    "l'été d'où qu’il “quoted” ‘single’ … – —",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ∑∫∂√∞≈≠≤≥ αβγ",
    "\u202eright to left\u202c \u2066x\u2069",
]

SYLLABLES = ["ka", "lo", "mi", "tre", "nus", "fi", "dar", "o", "ben", "qui", "sa", "lar", "e", "po", "an", "ing"]
SYMBOLS = ["▁<PRE>", "<sym>", "<sy", "ab.c"]


def _write_folder(folder, vocabulary, special, *, version, instruct, template=None):
    added = added_tokens(vocabulary, special)
    ids = {token.text: token.id for token in added}
    ends = {"begin": ids.get(begin_token(version)), "end": ids.get(end_token(version, instruct=instruct)), "pad": None}
    config = tokenizer_config(added, **ends, context=8192, chat_template=template)
    write_tokenizer_json(folder / "tokenizer.json", vocabulary, special)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    names = special_tokens_map(added, **ends)
    (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def hard_strings():
    return HARD


@pytest.fixture(scope="session")
def write_folder():
    """A function that writes a vocabulary as the tokenizer files of a Hugging Face folder."""
    return _write_folder


@pytest.fixture(scope="session")
def meta_path():
    return Path(llama_models.__file__).parent / "llama3" / "tokenizer.model"


@pytest.fixture(scope="session")
def meta(meta_path):
    from llama_models.llama3.tokenizer import Tokenizer

    return Tokenizer(meta_path)


@pytest.fixture(scope="session")
def vocabulary(meta_path):
    return read_tiktoken(meta_path)


@pytest.fixture(scope="session")
def llama_3_folder(vocabulary, tmp_path_factory):
    """Meta's tokenizer as Llama 3.1 Instruct's Hugging Face files."""
    return _write_folder(
        tmp_path_factory.mktemp("llama-3.1"),
        vocabulary,
        special_tokens("3.1"),
        version="3.1",
        instruct=True,
        template=chat_template("3.1"),
    )


@pytest.fixture(scope="session")
def llama_3_fast(llama_3_folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(llama_3_folder / "tokenizer.json"))


def made_up_text(lines=400, seed=7):
    """Words of a made-up language, numbers, brackets, code and runs of spaces; the same on every run."""
    chance = random.Random(seed)

    def word():
        return "".join(chance.choices(SYLLABLES, k=chance.randint(1, 3)))

    text = []
    for _ in range(lines):
        words = [chance.choice([word(), word(), word().title(), str(chance.randrange(10**4))]) for _ in range(9)]
        text.append((" " * chance.randrange(4)) + chance.choice(["  ", " ", ", "]).join(words) + "  (x=1);")
    return text


def _train(**options):
    """The bytes of a SentencePiece model with the options that Llama's was trained with."""
    model = io.BytesIO()
    llama_like = {
        "model_type": "bpe",
        "vocab_size": 700,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.9995,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(made_up_text()), model_writer=model, **(llama_like | options)
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def train():
    """A function that trains a small SentencePiece model, Llama-like but for the options it is given."""
    return _train


@pytest.fixture(scope="session")
def plain_model():
    return _train()


@pytest.fixture(scope="session")
def symbols_model():
    return _train(user_defined_symbols=SYMBOLS, control_symbols=["<step>"])


@pytest.fixture(scope="session")
def small_ranks(tmp_path_factory):
    """A tiktoken vocabulary of 512 tokens, one of which no merges reach, and its special names."""
    path = tmp_path_factory.mktemp("small") / "tokenizer.model"
    return NamedVocabulary(vocabulary=read_tiktoken(small_tiktoken(path)), special=special_tokens("3.1"))


@pytest.fixture(scope="session")
def real_ranks(vocabulary):
    """Llama 3.1's vocabulary and special names."""
    return NamedVocabulary(vocabulary=vocabulary, special=special_tokens("3.1"))


@pytest.fixture(scope="session", params=["plain", "symbols", "no prefix", "no bytes", "pad"])
def small_model(request, tmp_path_factory):
    """The file of a small SentencePiece model, of every kind that a Llama's can be."""
    options = {
        "plain": {},
        "symbols": {"user_defined_symbols": SYMBOLS, "control_symbols": ["<step>"]},
        "no prefix": {"add_dummy_prefix": False, "user_defined_symbols": ["<sym>"]},
        "no bytes": {"byte_fallback": False},
        "pad": {"pad_id": 3, "vocab_size": 400},
    }
    path = tmp_path_factory.mktemp("small") / "tokenizer.model"
    path.write_bytes(_train(**options[request.param]))
    return path

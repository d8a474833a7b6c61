"""Contract: the ids that a model is chatted with are those of transformers, of Meta's own code, and of the book."""

from __future__ import annotations

import functools
import json

import pytest
import sentencepiece
from tokenizers import Tokenizer

from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.verify.chat_formats import Conversation
from llama_convert.verify.chat_rendering import renderer
from llama_convert.verify.chat_speaking import TEMPLATES, Dialect
from llama_convert.verify.speech import encode_marked
from llama_convert.verify.tokenizer_judges import sentencepiece_judge, tiktoken_judge, tokenizers_judge
from tests.tokenizers.test_chat import ASSISTANT, DIALOGUES, SYSTEM, USER, meta_code_llama_70b, meta_llama_2


def documented(judge, name):
    return Dialect(name=name, judge=judge, render=TEMPLATES[name].text, end=None)


@pytest.fixture(scope="module")
def llama_3(meta_path):
    return documented(tiktoken_judge(meta_path, 128_256, special_tokens("3.1")), "llama-3")


@pytest.fixture(scope="module")
def meta_chat(meta):
    from llama_models.datatypes import RawMessage
    from llama_models.llama3.chat_format import ChatFormat

    form = ChatFormat(meta)
    return lambda messages: form.encode_dialog_prompt([RawMessage(**message) for message in messages]).tokens


@pytest.mark.parametrize("messages", DIALOGUES)
def test_llama_3_is_metas(llama_3, meta_chat, messages):
    assert llama_3.ids(messages) == meta_chat(messages)


def test_control_a_missing_turn_is_seen(llama_3, meta_chat):
    assert llama_3.ids([USER, ASSISTANT, USER]) != meta_chat([USER, USER])


@pytest.mark.parametrize("system", ["You are a helpful assistant.", "Be brief.\n\nAnswer in one line."])
def test_llama_3_is_the_books(llama_3, meta_path, system):
    from llms_from_scratch.llama3 import ChatFormat, Llama3Tokenizer

    form = ChatFormat(Llama3Tokenizer(str(meta_path)))
    wanted = form.encode(USER["content"], system_message=system)
    assert llama_3.ids([{"role": "system", "content": system}, USER]) == wanted


@functools.cache
def opened(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def in_transformers(folder, messages):
    return opened(folder).apply_chat_template(messages, tokenize=True, return_dict=False, add_generation_prompt=True)


@pytest.mark.parametrize("messages", DIALOGUES[:3])
def test_a_folder_of_llama_3_is_as_in_transformers(llama_3_folder, messages):
    judge = tokenizers_judge(llama_3_folder / "tokenizer.json")
    render = renderer(chat_template("3.1"), "<|begin_of_text|>", "<|eot_id|>")
    assert Dialect(name="own", judge=judge, render=render, end=None).ids(messages) == in_transformers(
        llama_3_folder, messages
    )


@pytest.mark.parametrize("large_code", [False, True])
@pytest.mark.parametrize("messages", [DIALOGUES[0], DIALOGUES[4]])
def test_a_folder_of_llama_2_is_as_in_transformers(tmp_path, write_folder, symbols_model, messages, large_code):
    (tmp_path / "tokenizer.bytes").write_bytes(symbols_model)
    template = chat_template("code", large_code=large_code)
    vocabulary = read_sentencepiece(tmp_path / "tokenizer.bytes")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(folder, vocabulary, (), version="2", instruct=True, template=template)
    judge = tokenizers_judge(folder / "tokenizer.json")
    dialect = Dialect(name="own", judge=judge, render=renderer(template, "<s>", "</s>"), end=None)
    assert dialect.ids(messages) == in_transformers(folder, messages)


def test_a_tokenizer_that_puts_a_space_at_the_beginning_alone(tmp_path, plain_model):
    """Part by part, as Meta's code does, there would be one behind every special token."""
    (tmp_path / "tokenizer.bytes").write_bytes(plain_model)
    path = tmp_path / "tokenizer.json"
    write_tokenizer_json(path, read_sentencepiece(tmp_path / "tokenizer.bytes"), ())
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": None, "pre_tokenizer": metaspace}))
    text = TEMPLATES["llama-2"].text(Conversation(name="", messages=tuple(DIALOGUES[3]), prompt=True))
    wanted = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert encode_marked(tokenizers_judge(path), text) == wanted


@pytest.mark.parametrize("messages", DIALOGUES)
@pytest.mark.parametrize(
    ("name", "wanted"), [("llama-2", meta_llama_2), ("code-llama-70b", meta_code_llama_70b)], ids=["2", "70b"]
)
def test_formats_before_llama_3_are_metas(tmp_path, symbols_model, messages, name, wanted):
    (tmp_path / "tokenizer.model").write_bytes(symbols_model)
    judge = sentencepiece_judge(tmp_path / "tokenizer.model")
    processor = sentencepiece.SentencePieceProcessor(model_proto=symbols_model)
    assert documented(judge, name).ids(messages) == wanted(processor, messages)
    other = [SYSTEM, *messages] if messages[0] is not SYSTEM else messages[1:]
    assert documented(judge, name).ids(other) != wanted(processor, messages)

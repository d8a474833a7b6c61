"""Contract: a chat template gives the ids that Meta's own chat code gives for the same messages."""

import json

import pytest
import sentencepiece

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import special_tokens

SYSTEM = {"role": "system", "content": "You are brief.\n\nAnswer in one line."}
USER = {"role": "user", "content": "Was ist 2+2?  Sag's mir 🙂"}
ASSISTANT = {"role": "assistant", "content": "4"}
AGAIN = {"role": "user", "content": "def f(x):\n    return x"}
TOOL = {
    "type": "function",
    "function": {"name": "songs", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "songs", "arguments": {"n": 3}}}]}
RESULT = {"role": "tool", "content": '["a", "b"]'}
DIALOGUES = [
    [USER],
    [SYSTEM, USER],
    [USER, ASSISTANT, AGAIN],
    [SYSTEM, USER, ASSISTANT, AGAIN],
    [SYSTEM, USER, ASSISTANT, AGAIN, ASSISTANT, USER],
]
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"


def padded(messages):
    """The same messages with white space around their content, which templates drop."""
    return [message | {"content": f"\n  {message['content']} \n"} for message in messages]


@pytest.fixture(scope="module", params=["3", "3.1", "3.2", "3.3"])
def llama_3(request, tmp_path_factory, write_folder, llama_3_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_3_folder)
    tokenizer.chat_template = chat_template(request.param)
    return tokenizer


@pytest.fixture(scope="module")
def meta_chat(meta):
    """Meta's ids for messages, as a function."""
    from llama_models.datatypes import RawMessage, ToolCall
    from llama_models.llama3.chat_format import ChatFormat

    def raw(message):
        calls = [
            ToolCall(call_id="1", tool_name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in message.get("tool_calls", ())
        ]
        return RawMessage(role=message["role"], content=message.get("content", ""), tool_calls=calls)

    def ids(messages):
        return ChatFormat(meta).encode_dialog_prompt([raw(message) for message in messages]).tokens

    return ids


def ids(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


@pytest.mark.parametrize("messages", DIALOGUES)
def test_llama_3_prompts_are_metas(llama_3, meta_chat, messages):
    expected = meta_chat(messages)
    assert ids(llama_3, messages, add_generation_prompt=True) == expected
    assert ids(llama_3, padded(messages), add_generation_prompt=True) == expected
    header = llama_3(HEADER.format("assistant"), add_special_tokens=False)["input_ids"]
    assert ids(llama_3, messages) == expected[: -len(header)]


def test_control_without_the_begin_token_ids_differ(llama_3, meta_chat):
    llama_3.chat_template, whole = llama_3.chat_template.replace("{{- bos_token -}}", ""), llama_3.chat_template
    try:
        assert ids(llama_3, [USER], add_generation_prompt=True) == meta_chat([USER])[1:]
    finally:
        llama_3.chat_template = whole


@pytest.fixture(scope="module")
def llama_3_1(llama_3_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama_3_folder)


def test_the_folder_brings_its_template(llama_3_1):
    assert llama_3_1.chat_template == chat_template("3.1")


def test_calls_and_results_are_metas(llama_3_1, meta_chat):
    messages = [SYSTEM, USER, CALL, RESULT]
    assert ids(llama_3_1, messages, add_generation_prompt=True) == meta_chat(messages)
    as_text = json.loads(json.dumps(messages))
    as_text[2]["tool_calls"][0]["function"]["arguments"] = '{"n": 3}'
    assert ids(llama_3_1, as_text, add_generation_prompt=True) == meta_chat(messages)


def test_tools_are_offered_in_the_documented_way(llama_3_1):
    text = llama_3_1.apply_chat_template(
        [SYSTEM, USER, CALL, RESULT], tools=[TOOL], tokenize=False, add_generation_prompt=True
    )
    system, offer, user, call, result, prompt = text.removeprefix("<|begin_of_text|><|start_header_id|>").split(
        "<|start_header_id|>"
    )
    assert system == f"system<|end_header_id|>\n\nEnvironment: ipython\n\n{SYSTEM['content']}<|eot_id|>"
    assert offer.startswith("user<|end_header_id|>\n\n")
    assert json.dumps(TOOL) in offer
    assert user == f"user<|end_header_id|>\n\n{USER['content']}<|eot_id|>"
    said = '<|python_tag|>{"type": "function", "name": "songs", "parameters": {"n": 3}}<|eom_id|>'
    assert call == f"assistant<|end_header_id|>\n\n{said}"
    assert result == f"ipython<|end_header_id|>\n\n{RESULT['content']}<|eot_id|>"
    assert prompt == "assistant<|end_header_id|>\n\n"


def test_tools_without_a_system_message(llama_3_1):
    text = llama_3_1.apply_chat_template([USER], tools=[TOOL], tokenize=False)
    assert text.startswith("<|begin_of_text|>" + HEADER.format("system") + "Environment: ipython<|eot_id|>")


def test_two_calls_in_a_message_are_refused(llama_3_1):
    with pytest.raises(Exception, match="one tool call"):
        llama_3_1.apply_chat_template([USER, CALL | {"tool_calls": CALL["tool_calls"] * 2}], tokenize=False)


@pytest.fixture(scope="module")
def llama_2(tmp_path_factory, write_folder, symbols_model):
    """A function that gives a SentencePiece tokenizer with a chat template, and the library's tokenizer."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("llama-2")
    (folder / "tokenizer.model").write_bytes(symbols_model)
    vocabulary = read_sentencepiece(folder / "tokenizer.model")
    (folder / "tokenizer.model").unlink()

    def opened(template):
        write_folder(folder, vocabulary, (), version="2", instruct=True, template=template)
        judge = sentencepiece.SentencePieceProcessor(model_proto=symbols_model)
        return AutoTokenizer.from_pretrained(folder), judge

    return opened


def meta_llama_2(judge, messages):
    """The ids of meta-llama/llama generation.py, chat_completion, as its documentation describes them."""
    if messages[0]["role"] == "system":
        first = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n{messages[1]['content']}"
        messages = [{"role": "user", "content": first}, *messages[2:]]
    found = []
    for i, message in enumerate(messages):
        content = message["content"].strip()
        if message["role"] == "user":
            answered = i + 1 < len(messages)
            answer = f" {messages[i + 1]['content'].strip()} " if answered else ""
            found += [judge.bos_id(), *judge.encode(f"[INST] {content} [/INST]{answer}")]
            found += [judge.eos_id()] * answered
    return found


@pytest.mark.parametrize("messages", DIALOGUES)
@pytest.mark.parametrize("version", ["2", "code"])
def test_llama_2_prompts_are_metas(llama_2, version, messages):
    tokenizer, judge = llama_2(chat_template(version))
    expected = meta_llama_2(judge, messages)
    assert ids(tokenizer, messages, add_generation_prompt=True) == expected
    assert ids(tokenizer, messages) == expected
    if messages[0] is not SYSTEM:
        assert ids(tokenizer, padded(messages)) == expected


def meta_code_llama_70b(judge, messages):
    """The ids of meta-llama/codellama generation.py, dialog_prompt_tokens: header and body encoded apart."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    step, found = judge.piece_to_id("<step>"), [judge.bos_id()]
    for message in messages:
        answered = "\nDestination: user" * (message["role"] == "assistant")
        found += judge.encode(f" Source: {message['role']}{answered}")
        if message["content"]:
            found += judge.encode("\n\n " + message["content"].strip())
        found.append(step)
    return found + judge.encode(" Source: assistant\nDestination: user") + judge.encode("\n\n ")


@pytest.mark.parametrize("messages", DIALOGUES)
def test_code_llama_70b_prompts_are_metas(llama_2, messages):
    tokenizer, judge = llama_2(chat_template("code", large_code=True))
    expected = meta_code_llama_70b(judge, messages)
    assert ids(tokenizer, messages, add_generation_prompt=True) == expected
    assert ids(tokenizer, padded(messages), add_generation_prompt=True) == expected
    prompt = judge.encode(" Source: assistant\nDestination: user") + judge.encode("\n\n ")
    assert ids(tokenizer, messages) == expected[: -len(prompt)]


@pytest.mark.parametrize("large_code", [False, True])
@pytest.mark.parametrize(
    "messages", [[ASSISTANT], [USER, USER], [SYSTEM, ASSISTANT], [USER, ASSISTANT, SYSTEM], [USER, RESULT]]
)
def test_a_wrong_order_is_refused(llama_2, messages, large_code):
    tokenizer, _ = llama_2(chat_template("code", large_code=large_code))
    with pytest.raises(Exception, match="must take turns"):
        tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("messages", DIALOGUES)
@pytest.mark.parametrize(
    "template",
    [chat_template("2"), chat_template("code", large_code=True), chat_template("3"), chat_template("3.1")],
    ids=["2", "70b", "3", "3.1"],
)
def test_settings_of_the_reader_do_not_matter(template, messages):
    import jinja2

    def rendered(**options):
        environment = jinja2.Environment(**options)
        return environment.from_string(template).render(
            messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True, tools=None
        )

    texts = {
        rendered(trim_blocks=trim, lstrip_blocks=lstrip, keep_trailing_newline=keep)
        for trim in (True, False)
        for lstrip in (True, False)
        for keep in (True, False)
    }
    assert len(texts) == 1
    assert texts.pop().startswith("<s>")


@pytest.mark.parametrize("version", ["1", "guard-1", "guard-2", "guard-3"])
def test_some_versions_have_no_template(version):
    assert chat_template(version) is None


def test_an_unknown_version_is_refused():
    with pytest.raises(UsageError, match="no Llama version"):
        chat_template("4")


def test_llama_3_1_names_are_in_its_templates():
    """Whatever special token a template names exists in its version."""
    for version in ("3", "3.1"):
        named = {part.split("|>")[0] for part in chat_template(version).split("<|")[1:]}
        assert named <= {name[2:-2] for name in special_tokens(version)}

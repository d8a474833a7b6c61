"""Contract: chat formats are Meta's; a template that departs from them is found, and a hostile one refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from llama_convert.convert import Request, convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.verify.chat import ChatFindings, check_chat
from llama_convert.verify.chat_formats import code_llama_70b, conversations, documented
from llama_convert.verify.chat_rendering import TemplateRefused, first_difference, renderer
from llama_convert.verify.judges import open_judge
from llama_convert.verify.report import Verdict
from llama_convert.verify.tokenizer import check_tokenizer
from tests.checkpoints import CASES

BY_NAME = {case.name: case for case in CASES}
VERSIONS = ("2", "code", "3", "3.1")
label = pytest.mark.parametrize


@pytest.fixture(scope="module")
def instruct(meta_checkpoint, tmp_path_factory):
    """(version, format) -> Meta's folder opened, and the path of what --instruct makes of it; both read only."""
    made = {}

    def converted(version, to="hf"):
        meta = meta_checkpoint(BY_NAME[version])
        if (version, to) not in made:
            folder = tmp_path_factory.mktemp("instruct") / "out"
            plan = plan_conversion(meta, to=to, request=Request(instruct=True), llama_version=version)
            convert_checkpoint(plan, folder)
            made[version, to] = next(folder.glob("*.gguf")) if to == "gguf" else folder
        return open_checkpoint(meta, version), open_checkpoint(made[version, to], version)

    return converted


def chat(*sides):
    """The part of the level that is judged here, without the texts of the corpus."""
    return check_chat([(side, open_judge(side)) for side in sides])


def with_uses(side, **changes):
    """The side, its files saying something else of the use of tokens."""
    return replace(side, tokenizer=replace(side.tokenizer, conventions=replace(side.tokenizer.conventions, **changes)))


def edited(side, *changes):
    """The side with texts of its template replaced, each of which must be there."""
    template = side.tokenizer.conventions.chat_template
    for old, new in changes:
        assert old in template
        template = template.replace(old, new)
    return with_uses(side, chat_template=template)


@label("to", ["hf", "gguf"])
@label("version", VERSIONS)
def test_right_templates_pass(version, to, instruct):
    a, b = instruct(version, to)
    assert b.tokenizer.conventions.chat_template
    for sides in ((a, b), (b, None), (b, b)):
        result = check_tokenizer(*sides)
        assert (result.verdict, result.findings) == (Verdict.PASSED, ())
        assert not [warning for warning in result.warnings if "chat" in warning]
        assert result.measures["chat_templates"] == (2 if sides == (b, b) else 1)


@label("version", VERSIONS)
def test_hf_and_gguf_speak_alike(version, instruct):
    (_, hf), (_, gguf) = instruct(version), instruct(version, "gguf")
    assert chat(hf, gguf) == chat(gguf, hf) == ChatFindings(checked=2)


HEADER = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
PROMPT = "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'"
MISTAKES_OF_3 = {
    "eot replaced": [("<|eot_id|>", "<|end_of_text|>")],
    "no blank line": [(HEADER, HEADER.replace("\\n\\n", "\\n"))],
    "no begin token": [("{{- bos_token -}}\n", "")],
    "no prompt": [("if add_generation_prompt", "if false")],
    "a prompt always": [("if add_generation_prompt", "if true")],
    "a role swapped": [(PROMPT, PROMPT.replace("assistant", "user"))],
    "no role": [(HEADER, HEADER.replace("message['role']", "'user'"))],
    "a line behind each turn": [("'<|eot_id|>'", "'<|eot_id|>\\n'")],
    "markup escaped": [("message['content'] | trim", "message['content'] | trim | escape")],
    "cut": [("message['content'] | trim", "(message['content'] | trim)[:9]")],
}
INST = "bos_token + '[INST] '"
MISTAKES_OF_2 = {
    "no space in front": [(INST, "bos_token + '[INST]'")],
    "no space behind": [("' [/INST]'", "'[/INST]'")],
    "begin token once": [(INST, "(bos_token if loop.first else '') + '[INST] '")],
    "no end token": [("+ eos_token", "")],
    "system outside": [("'<<SYS>>\\n'", "'<<SYS>>'")],
}


@label("to", ["hf", "gguf"])
@label("mistake", MISTAKES_OF_3)
def test_a_mistake_in_llama_3s_is_found(mistake, to, instruct):
    a, b = instruct("3", to)
    wrong = edited(b, *MISTAKES_OF_3[mistake])
    for sides in ((a, wrong), (wrong,), (b, wrong), (wrong, b)):
        assert "chat template" in chat(*sides).findings[0]


@label("version", ["2", "code"])
@label("mistake", MISTAKES_OF_2)
def test_a_mistake_in_llama_2s_is_found(mistake, version, instruct):
    a, b = instruct(version)
    assert "chat template" in chat(a, edited(b, *MISTAKES_OF_2[mistake])).findings[0]


def test_the_finding_shows_both_texts(instruct):
    a, b = instruct("3")
    (found,) = check_tokenizer(a, edited(b, *MISTAKES_OF_3["no blank line"])).findings
    assert found == (
        f"{b.path}: chat template, a question: Llama 3's "
        "'er<|end_header_id|>\\n\\nWhat is 2+2?<|eot_id|><|start_header_id' against "
        "'er<|end_header_id|>\\nWhat is 2+2?<|eot_id|><|start_header_id|' at character 58"
    )


def test_answers_that_do_not_end_are_found(instruct):
    a, b = instruct("3")
    ends = b.tokenizer.conventions.ends
    (found,) = check_tokenizer(a, with_uses(b, ends=ends[:1])).findings
    assert found == f"{b.path}: answers end at [{ends[0]}], not at <|eot_id|> (521) as chats do"
    assert chat(b, with_uses(b, ends=ends[:1])).findings == (found,)


def test_a_token_that_is_missing_is_found(instruct, tmp_path):
    a, b = instruct("3.1")
    extra = edited(b, ("{{- bos_token -}}", "{{- bos_token -}}{{- '<|im_start|>' -}}"))
    found = chat(a, extra).findings
    assert f"{b.path}: the chat template uses <|im_start|>, which is no special token" in found


@label("special", [True, False])
def test_a_token_that_is_not_special_is_found(special, instruct, tmp_path):
    _, b = instruct("3")
    values = json.loads(b.tokenizer.path.read_text(encoding="utf-8"))
    (token,) = [token for token in values["added_tokens"] if token["content"] == "<|eot_id|>"]
    token["special"] = special
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    found = chat(replace(b, tokenizer=replace(b.tokenizer, path=path))).findings
    assert found == () if special else "uses <|eot_id|>, which is no special token" in found[0]


def test_a_token_that_text_does_not_become_is_found(instruct, tmp_path):
    """Only where no letter or digit is next to it: then the answer 4 swallows the end of its turn."""
    _, b = instruct("3")
    values = json.loads(b.tokenizer.path.read_text(encoding="utf-8"))
    for token in values["added_tokens"]:
        token["single_word"] = token["content"] == "<|eot_id|>"
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    (found,) = chat(replace(b, tokenizer=replace(b.tokenizer, path=path))).findings
    assert "chat template, three turns: <|eot_id|> is there 3 times, its id 521 2 times" in found


# --- the templates on the Hub, as they are known to differ -----------------------------------------

# Written here after what they print: a system block that is always there, with two lines of dates.
DATED = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + (strftime_now("%d %b %Y") if now else "26 Jul 2024") + "\\n\\n" }}{{- system }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""


@label("template", [DATED, DATED.replace("if now", "if true")], ids=["fixed", "today"])
def test_the_hubs_dates_are_accepted_and_named(template, instruct):
    a, b = instruct("3.1")
    result = chat(a, with_uses(b, chat_template=template))
    assert result.findings == ()
    assert "lines with dates in a system block that is always there" in result.warnings[-1]


@label("change", [("system }}", "'' }}"), ("\\n\\nCutting", "\\nCutting"), ("December 2023\\n", "December 2023 ")])
def test_another_change_of_them_is_found(change, instruct):
    a, b = instruct("3.1")
    assert change[0] in DATED
    assert "Llama 3's" in chat(a, with_uses(b, chat_template=DATED.replace(*change))).findings[0]


HUB_70B = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ '<s>' }}{% endif %}"
    "{{ 'Source: ' + message['role'] + '\\n\\n ' + message['content'].strip() + ' <step> ' }}{% endfor %}"
    "{{ 'Source: assistant\\nDestination: user\\n\\n ' }}"
)


def large(side):
    return replace(side, config=replace(side.config, hidden_size=8192, layers=80))


def test_code_llama_70b_has_a_format_of_its_own(instruct):
    """The small tokenizer has no <step>, which is the one thing that is found."""
    a, b = instruct("code")
    for template in (chat_template("code", large_code=True), HUB_70B):
        result = chat(a, large(with_uses(b, chat_template=template)))
        assert result.findings == (f"{b.path}: the chat template uses <step>, which is no special token",)
        assert any("no spaces before sources" in warning for warning in result.warnings) == (template == HUB_70B)
    found = chat(a, large(b)).findings[0]
    assert "chat template, a question: Code Llama 70B's '<s> Source: system<step>" in found
    small = with_uses(b, chat_template=chat_template("code", large_code=True))
    assert "Llama 2's '<s>[INST]" in chat(a, small).findings[0]


# --- templates that are not Meta's -----------------------------------------------------------------

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_format_of_its_own_is_said_and_must_only_be_kept(instruct):
    _, b = instruct("3")
    own = with_uses(b, chat_template=CHATML)
    for sides in ((own,), (own, own)):
        result = chat(*sides)
        assert result.findings == ()
        assert any("of a format of its own, not held against Llama 3's" in warning for warning in result.warnings)
    assert "chat templates differ in a question" in chat(own, b).findings[0]


def test_a_departure_that_is_also_as_is_said_only(instruct):
    """A may be trained on it: B is held against A's."""
    _, b = instruct("3")
    own = edited(b, *MISTAKES_OF_3["a line behind each turn"])
    result = chat(own, own)
    assert result.findings == ()
    assert any("chat template, a question: Llama 3's" in warning for warning in result.warnings)


def test_a_template_lost_is_said(instruct):
    _, b = instruct("3")
    result = chat(b, with_uses(b, chat_template=None))
    assert result.findings == ()
    assert any("no chat template, and" in warning for warning in result.warnings)


def test_a_version_that_does_not_chat(instruct):
    assert all(documented(version, None) is None for version in ("1", "guard-1", "guard-2", "guard-3"))


def test_without_jinja2_it_says_so(instruct, monkeypatch):
    a, b = instruct("3")
    for name in [name for name in sys.modules if name.partition(".")[0] == "jinja2"]:
        monkeypatch.setitem(sys.modules, name, None)
    result = check_tokenizer(a, edited(b, *MISTAKES_OF_3["no prompt"]))
    assert result.verdict is Verdict.PASSED
    assert "chat template not checked: pip install jinja2" in result.warnings
    assert result.measures["chat_templates"] == 0


@label(
    ("template", "words"),
    [
        ("{{ ''.__class__ }}", "access to attribute '__class__' of 'str' is unsafe"),
        ("{% if messages.__class__.__mro__ %}{% endif %}", "access to attribute '__class__' of 'list' is unsafe"),
        ("{{ ''|attr('__class__') }}", "access to attribute '__class__' of 'str' is unsafe"),
        ("{{ raise_exception.__globals__ }}", "access to attribute '__globals__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' is unsafe"),
        ("{% for i in range(999999999) %}{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[0] + 1 }}", "unsupported operand"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{% include 'a' %}", "no loader"),
    ],
)
def test_a_template_that_cannot_or_may_not_is_refused(template, words, instruct):
    a, b = instruct("3")
    (found,) = chat(a, with_uses(b, chat_template=template)).findings
    assert found.startswith(f"{b.path}: its chat template was refused: ")
    assert words in found
    assert "\n" not in found


# --- the formats themselves ------------------------------------------------------------------------


@label("version", VERSIONS)
def test_documents_and_the_converters_templates_agree(version, instruct):
    """Two who wrote the same format independently; each whole conversation, character for character."""
    begin, end = ("<s>", "</s>") if version in ("2", "code") else ("<|begin_of_text|>", "<|eot_id|>")
    render = renderer(chat_template(version), begin, end)
    _, b = instruct(version)
    for conversation in conversations():
        assert documented(version, b.config).text(conversation) == render(conversation)


def test_so_for_code_llama_70b():
    render = renderer(chat_template("code", large_code=True), "<s>", "</s>")
    assert [code_llama_70b(one) for one in conversations()] == [render(one) for one in conversations()]


@label("version", ["3", "3.1"])
def test_transformers_renders_the_same(version, instruct):
    """The environment is that of transformers, for a template that uses what it offers."""
    from transformers import AutoTokenizer

    _, b = instruct(version)
    tokenizer = AutoTokenizer.from_pretrained(b.path)
    rich = "{% for m in messages %}{% if loop.index0 > 1 %}{% break %}{% endif %}\n  {{ m | tojson }}\n{% endfor %}\n"
    rich += "{%- generation %}{{ eos_token }}{% endgeneration %} {{ strftime_now('%Y') }}"
    for template in (b.tokenizer.conventions.chat_template, DATED, rich):
        render = renderer(template, tokenizer.bos_token, tokenizer.eos_token)
        tokenizer.chat_template = template
        for one in conversations():
            theirs = tokenizer.apply_chat_template(list(one.messages), tokenize=False, add_generation_prompt=one.prompt)
            assert render(one) == theirs


def test_the_first_difference():
    assert first_difference("abc", "abd") == "'abc' against 'abd' at character 2"
    assert first_difference("abc", "ab").endswith("'abc' against 'ab' at character 2")


def test_templates_that_decline_are_heard():
    render = renderer("{{ raise_exception('no system') }}", "", "")
    assert {render(one) for one in conversations()} == {"(declined: no system)"}
    with pytest.raises(TemplateRefused):
        renderer("{{ (", "", "")

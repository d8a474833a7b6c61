"""A model card: what a converted folder is, how it was made, what was proven, how it is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_convert.hub.loading import LIBRARIES, how_to_load

_FLOATS = {"float64", "float32", "bfloat16", "float16"}


@dataclass(frozen=True, slots=True)
class Licence:
    """identifier: of the Hub's list of licences. notice: what the licence wants to be shown."""

    identifier: str
    notice: str


def _llama(identifier: str, title: str, built: str = "") -> Licence:
    notice = f"{title} is licensed under the {title} Community License, Copyright © Meta Platforms, Inc. "
    return Licence(identifier, f"{built}{notice}All Rights Reserved.")


_LLAMA_2 = _llama("llama2", "Llama 2")
_LLAMA_3 = _llama("llama3", "Meta Llama 3", "Built with Meta Llama 3. ")
_LLAMA_3_1, _LLAMA_3_2, _LLAMA_3_3 = (
    _llama(f"llama{version}", f"Llama {version}", "Built with Llama. ") for version in ("3.1", "3.2", "3.3")
)
# By the names of convert.versions. Source: the metadata of Meta's own repositories. Llama 1's licence has no
# identifier on the Hub.
_LICENCES = {
    "2": _LLAMA_2,
    "code": _LLAMA_2,
    "3": _LLAMA_3,
    "3.1": _LLAMA_3_1,
    "3.2": _LLAMA_3_2,
    "3.3": _LLAMA_3_3,
    "guard-1": _LLAMA_2,
    "guard-2": _LLAMA_3,
    "guard-3": _LLAMA_3_1,
}


def model_card(values: Mapping[str, Any], repository: str, files: Sequence[str]) -> str:
    """README.md for a folder: front matter in the Hub's words, then what a reader wants to know.

    values: the folder's conversion.json, with a verdict. files: the names of all its files.
    """
    import yaml

    parts = [
        f"---\n{yaml.safe_dump(_metadata(values, files), sort_keys=False, allow_unicode=True)}---",
        f"# {repository.rsplit('/', maxsplit=1)[-1]}",
        _summary(values),
        f"## How it was converted\n\n{_conversion(values)}",
        f"## What was verified\n\n{_verdict(values, repository)}",
        f"## How to load it\n\n{how_to_load(values['target']['format'], repository, files)}",
    ]
    return "\n\n".join(parts) + "\n"


def licence_of(version: str) -> Licence | None:
    """The licence under which this version of Llama is given out; None where the Hub has no word for it."""
    return _LICENCES.get(version)


def _metadata(values: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    source, form = values["source"], values["target"]["format"]
    base, quantised = source.get("repository"), _dtypes(values).keys() - _FLOATS
    return {
        **({"base_model": base} if base else {}),
        **({"base_model_relation": "quantized"} if base and quantised else {}),
        **_licence_metadata(source["llama_version"], files),
        "library_name": LIBRARIES.get(form, "pytorch"),
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["llama", f"llama-{source['llama_version']}", form, "llama-convert"])),
    }


def _licence_metadata(version: str, files: Sequence[str]) -> dict[str, str]:
    """An identifier, or for a licence that the Hub does not list its name, and a link where the text is there."""
    licence = licence_of(version)
    if licence is not None:
        return {"license": licence.identifier}
    link = {"license_link": "LICENSE"} if "LICENSE" in files else {}
    return {"license": "other", "license_name": f"llama-{version}", **link}


def _summary(values: Mapping[str, Any]) -> str:
    source = values["source"]
    what = f"[{source['repository']}](https://huggingface.co/{source['repository']})" if "repository" in source else (
        f"A model of Llama {source['llama_version']}'s architecture")  # fmt: skip
    sentence = f"{what} in the format `{values['target']['format']}`, converted by llama-convert."
    licence = licence_of(source["llama_version"])
    return sentence + (f" {licence.notice}" if licence else "")


def _conversion(values: Mapping[str, Any]) -> str:
    source, target = values["source"], values["target"]
    commit = f" at commit `{source['commit']}`" if "commit" in source else ""
    options = {name: value for name, value in values["options"].items() if value not in (None, False)}
    options = {name: value for name, value in options.items() if name not in ("to", "check")}
    tools = ", ".join(f"{name} {version}" for name, version in values["tool"].items())
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in _dtypes(values).most_common())
    rows = [
        ("from", f"`{source.get('repository', source['folder'])}`{commit}, format `{source['format']}`"),
        ("to", f"format `{target['format']}`"),
        ("tensors", dtypes),
        *([("options", ", ".join(f"`{name}={value}`" for name, value in options.items()))] if options else []),
        ("with", tools),
        ("on", values["date"]),
    ]
    return _table(("", ""), rows) + "\n\nWhat every tensor was made of is in `conversion.json`, with its checksum."


def _verdict(values: Mapping[str, Any], repository: str) -> str:
    verified = values["verified"]
    same = "the same model" + (" but for its vocabulary" if "rows" in values.get("vocabulary", {}) else "")
    whole = all(level["verdict"] == "passed" for level in verified["levels"])
    found = f"found to be {same}" if whole else "no difference was found; not everything was checked"
    rows = [(level["name"], level["verdict"], level["figures"]) for level in verified["levels"]]
    name = repository.rsplit("/", maxsplit=1)[-1]
    return (
        f"On {verified['date']} the result was held against its source: {found}.\n\n"
        f"{_table(('level', 'verdict', 'figures'), rows)}\n\n"
        "Your copy is whole where this says so; it needs neither the source nor a network:\n\n"
        f"```\nhf download {repository} --local-dir {name}\nllama-convert verify {name} --certificate\n```"
    )


def _dtypes(values: Mapping[str, Any]) -> Counter[str]:
    """How many tensors have each type."""
    return Counter(str(tensor["dtype"]) for tensor in values["tensors"].values())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

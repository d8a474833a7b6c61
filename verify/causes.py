"""Every known cause for which two checkpoints are not the same model: the sentence that says it, and what to do.

Sentences are templates: {a} and {b} the two sides' names, {places} the weights in words, {detail} what was found.
"""

from __future__ import annotations

from dataclasses import dataclass

_AGAIN = "Convert the source again with llama-convert"
_COPY = "Copy or download B's weight files again; if they stay so, convert the source again."


@dataclass(frozen=True, slots=True)
class Cause:
    """sentence: a template. fix: what to do. vague: it says where the values differ, but no reason."""

    sentence: str
    fix: str
    vague: bool = False


CAUSES = {
    # What the files say of the model.
    "wrong-theta": Cause(
        "the rotary base is wrong: {detail}", "Set it to A's value in B's file; the weights need no change."
    ),
    "rope-scaling-missing": Cause(
        "the scaling of the rotary wavelengths is missing: {detail}",
        "Add A's rope_scaling to B's file: without it the model fails on long texts first.",
    ),
    "rope-scaling-added": Cause(
        "the rotary wavelengths are scaled where they must not be: {detail}", "Remove rope_scaling from B's file."
    ),
    "rope-scaling-factor": Cause(
        "the factor of the rotary scaling is wrong: {detail}",
        "Set it to A's: 8 for Llama 3.1 and 3.3, 32 for 3.2. Where A's files hold none, --llama-version says which.",
    ),
    "rope-scaling-frequencies": Cause(
        "the limits of the rotary scaling are wrong: {detail}", "Set them to A's values in B's file."
    ),
    "rope-scaling-context": Cause(
        "the original context of the rotary scaling is wrong: {detail}",
        "Set it to A's value in B's file; it is 8192 in every released Llama.",
    ),
    "wrong-norm-eps": Cause(
        "the norms' epsilon is wrong: {detail}",
        "Set it to A's value in B's file: 1e-6 in Llama 1, 1e-5 in all later ones.",
    ),
    "wrong-head-count": Cause(
        "the heads are counted wrong: {detail}", "Set them to A's values in B's file; the shapes of q and k fit both."
    ),
    "vocabulary-off-by-one": Cause(
        "the vocabulary of {b} is off by a row or a few: {detail}",
        f"{_AGAIN}; add or remove tokens only behind the last one, in embedding, output head and tokenizer alike.",
    ),
    "other-vocabulary": Cause(
        "the vocabularies have other sizes: {detail}",
        f"Compare with the checkpoint that B was made of, or {_AGAIN[0].lower()}{_AGAIN[1:]}, without resizing.",
    ),
    "wrong-context": Cause(
        "the context is another: {detail}", "Set it to A's value in B's file; the weights need no change."
    ),
    "other-sizes": Cause(
        "the models have other sizes: {detail}",
        "These are two different models: compare B with the one it was made of.",
    ),
    # Rows of q, k and v.
    "rotary-order": Cause(
        "the rows of {places} lie in the other rotary order ({detail}) in {b}",
        f"{_AGAIN}; a hand-written script forgot the reordering of q and k, or did it for one of them only.",
    ),
    "rotary-order-twice": Cause(
        "on the way to {b} the rows of {places} were reordered once too often; it declares them {detail}",
        f"{_AGAIN}, from the first source: one of two steps reordered what was in order already.",
    ),
    "wrong-heads-in-reorder": Cause(
        "on the way to {b} the rows of {places} were reordered as if they were {detail}",
        f"{_AGAIN}; a hand-written script used the wrong number of heads: k has kv_heads of them, of head_dim rows.",
    ),
    "values-reordered": Cause(
        "the rows of {places} were put in rotary order in {b}; only q and k are rotated",
        f"{_AGAIN}; a hand-written script reordered v too.",
    ),
    "rows-reordered": Cause(
        "{b} has the rows of {places} in an order that is not {a}'s, and that no known mistake gives",
        f"{_AGAIN}; a hand-written script moved rows, perhaps by heads of a wrong size.",
    ),
    # Weights in the place of others.
    "gate-and-up-swapped": Cause(
        "gate and up are swapped in {b}: {places}",
        f"{_AGAIN}; in Meta's names w1 is the gate, w3 is up and w2 is down.",
    ),
    "norms-swapped": Cause(
        "norms are swapped in {b}: {places}, {detail}", f"{_AGAIN}; the attention norm comes first in a layer."
    ),
    "keys-and-values-swapped": Cause(
        "k and v are swapped in {b}: {places}",
        f"{_AGAIN}; the rows of a fused qkv tensor lie in another order than was assumed.",
    ),
    "embedding-and-head-swapped": Cause("token embedding and output head are swapped in {b}: {places}", f"{_AGAIN}."),
    "tensor-of-another-layer": Cause(
        "{b} has the values of {a}'s {detail} in {places}",
        f"{_AGAIN}; layers were numbered or sorted wrong (as text, 10 comes before 2).",
    ),
    "head-tied-by-mistake": Cause(
        "{b} uses its token embedding as the output head; {a} has a head of its own",
        "Write A's output head into B and set tie_word_embeddings to false.",
    ),
    "head-untied-by-mistake": Cause(
        "{b} has an output head of its own; in {a} the token embedding is the head",
        "Set tie_word_embeddings to true and remove the output head, or store the embedding's values as head.",
    ),
    "tensor-of-another-model": Cause(
        "{b} has {detail} in {places}", "Fetch or convert these tensors again: files of two models were mixed."
    ),
    # Shards.
    "shards-in-wrong-order": Cause(
        "{b} has the pieces of {places} joined in the wrong order: {detail}",
        f"{_AGAIN}; join the shards by their number (as text, 10 comes before 2).",
    ),
    "joined-on-the-wrong-axis": Cause(
        "{b} has the pieces of {places} joined on the wrong axis: {detail}",
        f"{_AGAIN}; o_proj, down_proj and the embedding of Llama 1 and 2 are cut by columns, all others by rows.",
    ),
    # Values on their way.
    "float16-detour": Cause(
        "float16 lay on the way to {b}, and what it cannot hold is lost in {places}",
        f"{_AGAIN}; a script loaded the model in float16. Load bfloat16 models in bfloat16 or float32.",
    ),
    "bfloat16-detour": Cause(
        "bfloat16 lay on the way to {b}, and all but 8 bits of each value are lost in {places}",
        f"{_AGAIN}; a script loaded the model in bfloat16. Load it in its own type or float32.",
    ),
    "truncated-not-rounded": Cause(
        "{b} has {places} cut off to the shorter type instead of rounded",
        f"{_AGAIN}; a cast must round to the nearest value, ties to even.",
    ),
    "quantised-another-way": Cause(
        "{b} has {places} in other codes than plain rounding gives, though no further from {a}: {detail}",
        "If an importance matrix was used, nothing is wrong; else convert the source again with --quantize.",
    ),
    "sides-exchanged": Cause(
        "{a} is {b} rounded to fewer bits, not the other way round: {detail}",
        "Name the checkpoint that the other was made of first: verify B A.",
    ),
    "scaled": Cause("{b} has {places} multiplied by {detail}", f"{_AGAIN}; the factor belongs into no weight."),
    "transposed": Cause("{b} has {places} transposed", f"{_AGAIN}; rows are outputs, columns are inputs."),
    # Damage.
    "flipped-bit": Cause("one bit of {places} is flipped in {b}: {detail}", _COPY),
    "few-values-changed": Cause("a few values of {places} are changed in {b}: {detail}", _COPY),
    "rows-zeroed": Cause(
        "rows of {places} are zero in {b}: {detail}",
        "Copy or download B's weight files again, to the end; a hole in a file reads as zeros.",
    ),
    "values-differ": Cause("{b} has other values in {places}: {detail}", f"{_AGAIN}, and compare again.", vague=True),
    "unknown": Cause(
        "no known mistake explains it: {detail}",
        "Read how the two sides compute this place: their configs and weights agree as far as they can be compared.",
        vague=True,
    ),
}

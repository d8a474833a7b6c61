"""What quantised types do to a model: how far weights move, and what that costs it.

Three numbers for each type, so that a right conversion can be told from a wrong one where no value can be
recomputed: a quantiser may choose its scales as it likes, by importance matrices or by search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llama_convert.convert.architecture import weights
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.reading import stored_type

# How much larger than the worst error measured one may be. Where that is near to what another tensor gives
# (1.41, at equal norm), LARGEST holds: IQ1_S and IQ1_M reach 0.60, the three-valued types 0.85.
FACTOR = 1.5
LARGEST = 0.92

# The worst ||quantised - weight|| / ||weight|| of a whole matrix. ggml's types: by ggml_quantize_chunk of
# llama.cpp build 11549, without and with a random importance matrix (e^normal); affine codes: by mlx 0.32.4, in
# groups of 32, 64 and 128, scales in bfloat16 and float32; the rest by rounding as their formats say. On
# 64 x 4096 and 256 x 256 values of a Gaussian and of Student's t with 4 degrees of freedom, and on each matrix
# of the embedded model; 1024 x 4096 of Student's for those with a scale for a row or a tensor. Student's is the
# worst nearly everywhere, a Gaussian's error is 0.6 to 0.9 of it.
MEASURED = {
    "q8_0": 0.0074,
    "q6_k": 0.0235,
    "q5_k": 0.0448,
    "q5_1": 0.0456,
    "q5_0": 0.0585,
    "q4_k": 0.0904,
    "iq4_nl": 0.0942,
    "q4_1": 0.0945,
    "iq4_xs": 0.0951,
    "nvfp4": 0.1083,
    "q4_0": 0.1158,
    "mxfp4": 0.1320,
    "q3_k": 0.1859,
    "iq3_s": 0.1981,
    "iq3_xxs": 0.2559,
    "iq2_s": 0.3427,
    "q2_k": 0.3485,
    "iq2_xs": 0.3607,
    "iq2_xxs": 0.4283,
    "iq1_m": 0.5982,
    "iq1_s": 0.5997,
    "tq1_0": 0.8452,
    "tq2_0": 0.8452,
    "affine of 8 bits": 0.0119,
    "affine of 6 bits": 0.0357,
    "affine of 5 bits": 0.0714,
    "affine of 4 bits": 0.1464,
    "affine of 3 bits": 0.3039,
    "affine of 2 bits": 0.5693,
    "float8_e4m3fn": 0.0270,
    "float8_e5m2": 0.0547,
    "int8 by groups": 0.0090,
    "int8 by rows": 0.0271,
    "int8 by tensors": 0.1160,
}


class Published(NamedTuple):
    """A row of a published table: mean Kullback-Leibler divergence, perplexity, and its distance from float16's."""

    row: str
    divergence: float
    perplexity: float
    difference: float

    @property
    def ratio(self) -> float:
        """The perplexity as a multiple of float16's."""
        return self.perplexity / (self.perplexity - self.difference)


# llama.cpp, tools/perplexity/README.md, "LLaMA 3 8b Scoreboard": Wikitext-2, against float16. Files mix types:
# of each type the row whose coarsest matrices are of it; without importance matrix, where that is listed.
PUBLISHED = {
    "q8_0": Published("q8_0", 0.001355, 6.234284, 0.002650),
    "q6_k": Published("q6_K", 0.005452, 6.253382, 0.021748),
    "q5_k": Published("q5_K_S", 0.016595, 6.336598, 0.104964),
    "q5_1": Published("q5_1", 0.018045, 6.337857, 0.106223),
    "q5_0": Published("q5_0", 0.022239, 6.363224, 0.131591),
    "iq4_nl": Published("iq4_NL, WT 10m", 0.035742, 6.455593, 0.223959),
    "iq4_xs": Published("iq4_XS, WT 10m", 0.036334, 6.459705, 0.228071),
    "q4_k": Published("q4_K_S", 0.043136, 6.500529, 0.268895),
    "q4_1": Published("q4_1", 0.071683, 6.682737, 0.451103),
    "q4_0": Published("q4_0", 0.071940, 6.700147, 0.468514),
    "iq3_s": Published("iq3_S, WT 10m", 0.111278, 6.965501, 0.733867),
    "iq3_xxs": Published("iq3_XXS, WT 10m", 0.183625, 7.458436, 1.226803),
    "q3_k": Published("q3_K_S", 0.228217, 7.863786, 1.632152),
    "iq2_s": Published("iq2_M, WT 10m", 0.325989, 8.600799, 2.369166),
    "q2_k": Published("q2_K", 0.445132, 9.751568, 3.519934),
    "iq2_xs": Published("iq2_XS, WT 10m", 0.546290, 10.761424, 4.529791),
    "iq2_xxs": Published("iq2_XXS, WT 10m", 0.812022, 14.091782, 7.860148),
    "iq1_m": Published("iq1_M, WT 10m", 1.393084, 25.493722, 19.262089),
    "iq1_s": Published("iq1_S, WT 10m", 2.254554, 60.694593, 54.462959),
}
# Types without a published row: the one that is taken for them, of about as many bits and as coarse or
# coarser by the errors above. No number stands for the three-valued types of a model not trained for them.
STAND_INS = {
    "mxfp4": "q3_k",
    "nvfp4": "q4_0",
    "tq1_0": "iq1_s",
    "tq2_0": "iq1_s",
    "affine of 8 bits": "q6_k",
    "affine of 6 bits": "q5_k",
    "affine of 5 bits": "q4_k",
    "affine of 4 bits": "q4_0",  # as coarse in groups of 64, which is usual
    "affine of 3 bits": "q2_k",
    "affine of 2 bits": "iq1_m",
    "float8_e4m3fn": "q5_k",
    "float8_e5m2": "q5_0",
    "int8 by groups": "q6_k",
    "int8 by rows": "q5_k",
    "int8 by tensors": "q4_0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a model loses that is stored in a quantised type.

    name: of the type. divergence: mean Kullback-Leibler divergence of the next token's probabilities.
    perplexity_ratio: of the quantised model's perplexity to the original's. row: of the published table that
    has both. relative_error: the largest that a matrix may have, as root of summed squares.
    """

    name: str
    divergence: float
    perplexity_ratio: float
    row: str
    relative_error: float


def expectation(name: str) -> Expectation:
    """What the type of this name does; one of MEASURED."""
    found = PUBLISHED[STAND_INS.get(name, name)]
    return Expectation(
        name=name,
        divergence=found.divergence,
        perplexity_ratio=found.ratio,
        row=found.row,
        relative_error=min(FACTOR * MEASURED[name], LARGEST),
    )


def expected(checkpoint: Checkpoint) -> Expectation | None:
    """What the coarsest type among the checkpoint's matrices does; None where none of them is quantised.

    Coarsest by divergence. Of a file that mixes types this is more than the whole loses.
    """
    names = {
        stored_type(piece)
        for weight in weights(checkpoint.config)
        if weight in checkpoint.parts
        for piece in checkpoint.parts[weight].pieces
    }
    found = [expectation(name) for name in names if name in MEASURED]
    return max(found, key=lambda one: one.divergence, default=None)

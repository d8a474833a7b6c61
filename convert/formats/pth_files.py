"""Weight files of torch's `.pth` kind, laid out for tensors to be; the formats that store them share this."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from llama_convert.convert.containers.pth_writer import Layout, archive_name, lay_out
from llama_convert.convert.expressions import Expression
from llama_convert.convert.outputs import Step, Tensor, WeightFile


def pth_file(name: str, tensors: Sequence[Tensor]) -> WeightFile:
    """The file that torch.save would write of these tensors in this order.

    Tensors that are made of the very same (a tied head and the embedding) share one storage, as one tensor under
    two names does in torch; only the first of them is a step.
    """
    shapes = [(tensor.name, tensor.expression.dtype, tensor.expression.shape) for tensor in tensors]
    layout = lay_out(archive_name(name), shapes, _aliases(tensors))
    made = {tensor.name: tensor for tensor in tensors}
    return WeightFile(
        name=name,
        fixed=((0, layout.header),),
        steps=tuple(Step(made[owner], offset) for owner, offset in layout.offsets),
        size=layout.size,
        ending=partial(_ending, layout),
    )


def _aliases(tensors: Sequence[Tensor]) -> dict[str, str]:
    owners: dict[Expression, str] = {}
    sharing = {tensor.name: owners.setdefault(tensor.expression, tensor.name) for tensor in tensors}
    return {name: owner for name, owner in sharing.items() if name != owner}


def _ending(layout: Layout, crcs: Sequence[int]) -> list[tuple[int, bytes]]:
    return layout.trailer({owner: crc32 for (owner, _), crc32 in zip(layout.offsets, crcs, strict=True)})

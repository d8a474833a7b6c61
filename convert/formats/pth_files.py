"""A `.pth` as a file to be: tensors in their order, some of them under a second name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from llama_convert.convert.containers.pth_writer import Layout, archive_name, lay_out
from llama_convert.convert.outputs import Step, Tensor, WeightFile

_NONE: Mapping[str, str] = MappingProxyType({})


def pth_file(name: str, tensors: Sequence[Tensor], aliases: Mapping[str, str] = _NONE) -> WeightFile:
    """The file that torch.save would write of an OrderedDict of these tensors, in this order.

    aliases: names among them that share the bytes of another: those have no step of their own.
    """
    shapes = [(tensor.name, tensor.expression.dtype, tensor.expression.shape) for tensor in tensors]
    layout = lay_out(archive_name(name), shapes, aliases)
    made = {tensor.name: tensor for tensor in tensors}
    return WeightFile(
        name=name,
        fixed=((0, layout.header),),
        steps=tuple(Step(made[tensor], offset) for tensor, offset in layout.offsets),
        size=layout.size,
        ending=partial(_ending, layout),
    )


def _ending(layout: Layout, crcs: Sequence[int]) -> Sequence[tuple[int, bytes]]:
    return layout.trailer({name: crc32 for (name, _), crc32 in zip(layout.offsets, crcs, strict=True)})

"""The pickle of a `.pth`, byte for byte what torch.save writes for a dict of plain tensors, made without torch.

The inverse of `unpickler.unpickle` for such dicts. Sources: CPython Modules/_pickle.c (protocol 2, what is put
into the memo, batches of a dict); torch/_tensor.py, torch/serialization.py (what a tensor is reduced to).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from llama_convert.convert.containers.slices import DType
from llama_convert.convert.containers.unpickler import Storage, StoredTensor

_BATCH = 1000  # items of a dict that one instruction adds
_ORDERED_DICT = b"ccollections\nOrderedDict\n"
_UNTYPED = b"ctorch.storage\nUntypedStorage\n"
_STORAGES = {
    DType.FLOAT64: b"ctorch\nDoubleStorage\n",
    DType.FLOAT32: b"ctorch\nFloatStorage\n",
    DType.FLOAT16: b"ctorch\nHalfStorage\n",
    DType.BFLOAT16: b"ctorch\nBFloat16Storage\n",
    DType.INT64: b"ctorch\nLongStorage\n",
    DType.INT32: b"ctorch\nIntStorage\n",
    DType.INT16: b"ctorch\nShortStorage\n",
    DType.INT8: b"ctorch\nCharStorage\n",
    DType.UINT8: b"ctorch\nByteStorage\n",
    DType.BOOL: b"ctorch\nBoolStorage\n",
}
_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
_REBUILD_OF_DTYPE = b"ctorch._utils\n_rebuild_tensor_v3\n"


def contiguous(key: str, dtype: DType, shape: tuple[int, ...]) -> StoredTensor:
    """A tensor whose elements are the storage `key`, row after row.

    Types without a storage class of their own (float8, uint32) lie in a storage of bytes, as torch has it.
    """
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)  # torch strides over an empty axis as over one element
    typed = dtype in _STORAGES
    elements = prod(shape)
    storage = Storage(key, dtype, elements) if typed else Storage(key, DType.UINT8, dtype.size(elements))
    return StoredTensor(storage, dtype, 0, shape, tuple(strides))


def pickle_state(tensors: Mapping[str, StoredTensor]) -> bytes:
    """The pickle of an OrderedDict with these tensors, all on the CPU, as torch.save makes it.

    Every name is a string of its own in the memo, also one that reads like a storage's key or like `cpu`.
    """
    pickler = _Pickler()
    pickler.empty_ordered_dict()
    names = list(tensors)
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        pickler.write(b"(" if len(batch) > 1 else b"")
        for name in batch:
            pickler.new(_text(name))
            pickler.tensor(tensors[name])
        pickler.write(b"u" if len(batch) > 1 else b"s")
    pickler.write(b".")
    return bytes(pickler.code)


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _number(number: int) -> bytes:
    if number < 1 << 8:
        return b"K" + number.to_bytes(1, "little")
    if number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if number < 1 << 31:
        return b"J" + number.to_bytes(4, "little")
    length = number.bit_length() // 8 + 1  # with room for a sign
    return b"\x8a" + length.to_bytes(1, "little") + number.to_bytes(length, "little")


class _Pickler:
    """Instructions as they are added, and the places in the memo of what may be needed again."""

    def __init__(self) -> None:
        self.code = bytearray(b"\x80\x02")
        self._memo: dict[bytes, int] = {}
        self._filled = 0

    def write(self, code: bytes) -> None:
        self.code += code

    def new(self, code: bytes) -> int:
        """Add what builds an object, and put it into the memo; its place there."""
        place = self._filled
        self._filled += 1
        self.write(code + (b"q" + bytes([place]) if place < 256 else b"r" + place.to_bytes(4, "little")))
        return place

    def shared(self, code: bytes) -> None:
        """An object that exists once: built the first time, then fetched from the memo."""
        if code not in self._memo:
            self._memo[code] = self.new(code)
            return
        place = self._memo[code]
        self.write(b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little"))

    def empty_ordered_dict(self) -> None:
        self.shared(_ORDERED_DICT)
        self.new(b")R")

    def sizes(self, numbers: Sequence[int]) -> None:
        code = b"".join(map(_number, numbers))
        if not numbers:
            self.write(b")")
        elif len(numbers) <= 3:
            self.new(code + bytes([0x84 + len(numbers)]))
        else:
            self.new(b"(" + code + b"t")

    def tensor(self, tensor: StoredTensor) -> None:
        typed = tensor.dtype in _STORAGES
        self.shared(_REBUILD if typed else _REBUILD_OF_DTYPE)
        self.write(b"(")
        self.storage(tensor.storage, _STORAGES.get(tensor.dtype, _UNTYPED))
        self.write(_number(tensor.offset))
        self.sizes(tensor.shape)
        self.sizes(tensor.strides)
        self.write(b"\x89")  # requires no gradient
        self.empty_ordered_dict()  # hooks
        if not typed:
            self.shared(f"ctorch\n{tensor.dtype.label}\n".encode())
        self.new(b"t")
        self.new(b"R")

    def storage(self, storage: Storage, kind: bytes) -> None:
        self.write(b"(")
        self.shared(_text("storage"))
        self.shared(kind)
        self.shared(_text(storage.key))
        self.shared(_text("cpu"))
        self.new(_number(storage.elements) + b"t")
        self.write(b"Q")

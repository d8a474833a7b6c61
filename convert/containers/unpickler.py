"""The pickles inside `.pth` files, read as data: nothing in them is ever imported or called.

A pickle is a program for a small stack machine. This one knows only the instructions that torch.save
writes, and builds plain dicts, lists, numbers and `StoredTensor`s. Whatever else a file asks for is
collected by name and refused. Sources: CPython Lib/pickletools.py; torch/serialization.py, torch/_utils.py.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from llama_convert.convert.containers.slices import DType


class PickleError(Exception):
    """The stream is no pickle that torch.save writes; the text says why."""


@dataclass(frozen=True, slots=True)
class Global:
    """Something the pickle names but does not contain: `module name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements elsewhere in the file; key names it, elements counts it."""

    key: str
    dtype: DType
    elements: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage: offset and strides in elements."""

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Refused:
    """Stands for the result of anything that was not allowed; never reaches a caller."""


_STORAGE_TYPES = {
    "torch DoubleStorage": DType.FLOAT64,
    "torch FloatStorage": DType.FLOAT32,
    "torch HalfStorage": DType.FLOAT16,
    "torch BFloat16Storage": DType.BFLOAT16,
    "torch LongStorage": DType.INT64,
    "torch IntStorage": DType.INT32,
    "torch ShortStorage": DType.INT16,
    "torch CharStorage": DType.INT8,
    "torch ByteStorage": DType.UINT8,
    "torch BoolStorage": DType.BOOL,
    "torch UntypedStorage": DType.UINT8,
    "torch.storage UntypedStorage": DType.UINT8,
}
_DTYPES = {f"torch {dtype.label}": dtype for dtype in DType}


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Any:
    return _view(storage, storage.dtype, offset, shape, strides)


def _tensor_of_dtype(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: object
) -> Any:
    # (requires_grad, backward_hooks, dtype, ...): types without a storage class of their own, such as float8.
    dtype = rest[2]
    if not isinstance(dtype, DType):
        raise PickleError("a tensor names no element type")
    return _view(storage, dtype, offset, shape, strides)


def _view(storage: Storage, dtype: DType, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise PickleError(f"damaged pickle: a tensor of shape {shape} with strides {strides}")
    return StoredTensor(storage, dtype, offset, shape, strides)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
    "torch._utils _rebuild_parameter_with_state": lambda data, *_: data,
    # Filled by later instructions; with contents as an argument, few bytes could ask for many copies.
    "collections OrderedDict": dict,
}

_MARK = object()
_LITERALS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES")
_VALUES = frozenset((*_NUMBERS, *_TEXTS))
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset(("PROTO", "FRAME"))


def unpickle(stream: IO[bytes]) -> Any:
    """The object a pickle describes, made of plain data; the stream is left right after it.

    Raises PickleError: no pickle, an instruction torch.save never writes, or names that are not
    tensors' (all of them listed). Cost: a few microseconds an instruction, memory as the pickle's size.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.result()
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # A damaged stream breaks the stack machine in any of these ways; none is a fault of ours.
        raise PickleError(f"damaged pickle: {error}") from error
    raise PickleError("the pickle has no end")


class _Machine:
    """The stack machine: `step` carries out one instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.refused: dict[str, None] = {}

    def result(self) -> Any:
        if self.refused:
            raise PickleError(
                "its pickle asks for what no checkpoint needs: "
                + ", ".join(self.refused).replace(" ", ".").replace(",.", ", ")
            )
        (value,) = self.stack
        return value

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _LITERALS:
            self.stack.append(_LITERALS[name]())
        elif name in _SHORT_TUPLES:
            self.stack.append(tuple(self._pop(_SHORT_TUPLES[name])))
        elif name not in _IGNORED:
            self._instruction(name)(argument)

    def _instruction(self, name: str) -> Callable[[Any], None]:
        instruction = getattr(self, f"do_{name.lower()}", None)
        if instruction is None:
            raise PickleError(f"the pickle has an instruction no checkpoint needs: {name}")
        return instruction  # type: ignore[no-any-return]

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise PickleError("damaged pickle: stack underflow")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def do_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def do_pop(self, _: Any) -> None:
        self.stack.pop()

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def do_global(self, argument: str) -> None:
        self.stack.append(Global(argument))

    def do_stack_global(self, _: Any) -> None:
        module, name = self._pop(2)
        self.stack.append(Global(f"{module} {name}"))

    def do_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    do_long_binput = do_binput

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    do_long_binget = do_binget

    def do_append(self, _: Any) -> None:
        (value,) = self._pop(1)
        self._top(list).append(value)

    def do_appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def do_setitem(self, _: Any) -> None:
        key, value = self._pop(2)
        self._top(dict)[key] = value

    def do_setitems(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._top(dict).update(zip(values[::2], values[1::2], strict=True))

    def _top(self, kind: type) -> Any:
        top = self.stack[-1]
        if isinstance(top, Refused):
            return kind()
        if not isinstance(top, kind):
            raise PickleError(f"damaged pickle: a {kind.__name__} was expected")
        return top

    def do_reduce(self, _: Any) -> None:
        function, arguments = self._pop(2)
        self.stack.append(self._call(function, arguments))

    do_newobj = do_reduce

    def do_build(self, _: Any) -> None:
        # State set on an object: torch keeps `_metadata` on ordered dicts, which no weight needs.
        self._pop(1)

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        name = function.name if isinstance(function, Global) else repr(function)[:80]
        if name in _FUNCTIONS:
            values = [_DTYPES.get(a.name, a) if isinstance(a, Global) else a for a in arguments]
            if not any(isinstance(value, Refused) for value in values):
                return _FUNCTIONS[name](*values)
        else:
            self.refused[name] = None
        return Refused()

    def do_binpersid(self, _: Any) -> None:
        (identity,) = self._pop(1)
        self.stack.append(self._storage(identity))

    def _storage(self, identity: Any) -> Any:
        # ('storage', type, key, location, elements[, view]); legacy files may name a view of a storage.
        kind, storage_type, key, _, elements, *view = identity
        if kind != "storage" or not isinstance(storage_type, Global):
            raise PickleError("damaged pickle: an unknown kind of storage")
        if storage_type.name not in _STORAGE_TYPES:
            self.refused[storage_type.name] = None
            return Refused()
        if view and view[0] is not None:
            raise PickleError("views of storages (torch before 0.4) are not supported")
        return Storage(str(key), _STORAGE_TYPES[storage_type.name], int(elements))

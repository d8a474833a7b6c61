"""The pickles inside `.pth` files, read as data: nothing in them is ever imported or called.

A pickle is a program for a small stack machine. This one knows only the instructions that torch.save
writes, and builds plain dicts, lists, numbers and `StoredTensor`s. Whatever else a file asks for is
collected by name and refused. Sources: CPython Lib/pickletools.py; torch/serialization.py, torch/_utils.py.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping
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


# What one pickle may have: bounds against files made to exhaust whoever opens them. The 405B's pickles have
# 0.4 MB, names of under 100 characters, and tensors of two dimensions.
LONGEST_PICKLE = 16 << 20  # bytes
_LONGEST_ARGUMENT = 1 << 20  # bytes that one instruction carries with it
_LONGEST_NAME = 200  # characters of `module name`
_MOST_DIMENSIONS = 64  # torch's own limit
_MOST_ARGUMENTS = 16
_MOST_REFUSALS = 50  # names in one message

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
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise PickleError("damaged pickle: a tensor without storage, shape or strides")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise PickleError(f"damaged pickle: a tensor of {len(shape)} dimensions with {len(strides)} strides")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        raise PickleError("damaged pickle: a tensor whose offset, shape or strides are no sizes")
    return StoredTensor(storage, dtype, offset, shape, strides)


def _empty_dict(*contents: object) -> dict[Any, Any]:
    # Filled by later instructions; with contents as an argument, few bytes could ask for many copies.
    if contents:
        raise PickleError("a dict filled by its constructor, which torch.save never writes")
    return {}


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
    "torch._utils _rebuild_parameter_with_state": lambda data, *_: data,
    "collections OrderedDict": _empty_dict,
}
_KNOWN = frozenset((*_FUNCTIONS, *_STORAGE_TYPES, *_DTYPES))
# Nothing nested: the hash of a tuple of tuples can take forever, or the process with it when they are deep.
_KEYS = (str, bytes, int, float, type(None), Global, Refused)

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


class _Bounded:
    """The stream as far as one honest pickle can reach; nothing is allocated for lengths it only claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = LONGEST_PICKLE

    def read(self, count: int) -> bytes:
        if count > min(_LONGEST_ARGUMENT, self._left):
            raise PickleError(f"damaged pickle: an instruction claims {count:,} bytes")
        self._left -= count
        return self._stream.read(count)

    def readline(self) -> bytes:
        line = self._stream.readline(min(_LONGEST_ARGUMENT, self._left))
        self._left -= len(line)
        return line


def unpickle(stream: IO[bytes]) -> Any:
    """The object a pickle describes, made of plain data; the stream is left right after it.

    Raises PickleError: no pickle, an instruction torch.save never writes, or names that are not
    tensors' (all of them listed). Cost: a few microseconds an instruction, memory as the pickle's size.
    """
    machine = _Machine()
    value, problem = None, None
    try:
        for opcode, argument, _ in pickletools.genops(_Bounded(stream)):  # type: ignore[arg-type]
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        (value,) = machine.stack
    except PickleError as error:
        problem = error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # A damaged stream breaks the stack machine in any of these ways; none is a fault of ours.
        problem = PickleError(f"damaged pickle: {error}")
    if machine.refused:
        raise machine.refusal() from problem
    if problem:
        raise problem
    return value


class _Machine:
    """The stack machine: `step` carries out one instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.refused: dict[str, None] = {}

    def refusal(self) -> PickleError:
        """All that was named and not allowed; such names may hold anything, also what moves a terminal's cursor."""
        names = [name.replace(" ", ".").encode("unicode_escape").decode() for name in self.refused]
        more = f" and {len(names) - _MOST_REFUSALS} more" if len(names) > _MOST_REFUSALS else ""
        return PickleError("its pickle asks for what no checkpoint needs: " + ", ".join(names[:_MOST_REFUSALS]) + more)

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
        if len(argument) > _LONGEST_NAME:
            raise PickleError(f"damaged pickle: a name of {len(argument):,} characters")
        if argument not in _KNOWN:
            self.refused[argument] = None
        self.stack.append(Global(argument))

    def do_stack_global(self, _: Any) -> None:
        module, name = self._pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("damaged pickle: a name that is no text")
        self.do_global(f"{module} {name}")

    def do_inst(self, argument: str) -> None:
        self.do_global(argument)
        raise PickleError("the pickle has an instruction no checkpoint needs: INST")

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
        self._fill([tuple(self._pop(2))])

    def do_setitems(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._fill(zip(values[::2], values[1::2], strict=True))

    def _fill(self, entries: Iterable[tuple[Any, Any]]) -> None:
        top = self._top(dict)
        for key, value in entries:
            if not isinstance(key, _KEYS):
                raise PickleError(f"damaged pickle: a {type(key).__name__} as key of a dict")
            top[key] = value

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

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple) or len(arguments) > _MOST_ARGUMENTS:
            if not isinstance(function, Refused):
                raise PickleError("damaged pickle: a call of what is no function, or with what are no arguments")
        elif function.name in _FUNCTIONS:
            values = [_DTYPES.get(a.name, a) if isinstance(a, Global) else a for a in arguments]
            if not any(isinstance(value, Refused) for value in values):
                return _FUNCTIONS[function.name](*values)
        else:
            self.refused[function.name] = None
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
        if not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise PickleError("damaged pickle: a storage without key or size")
        if view and view[0] is not None:
            raise PickleError("views of storages (torch before 0.4) are not supported")
        return Storage(key, _STORAGE_TYPES[storage_type.name], elements)

"""Pickle read as data: opcodes are looked at, and no code that a file names is imported or called.

`torch.save` writes plain containers, and tensors as calls of a few functions with a place in the file. Those calls are
recognised by name and become values of this module. A name that is not listed here is refused as soon as it is read.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

_OPCODE_LIMIT = 4_000_000  # Stable Diffusion with its optimizer's state: 300,000
_SHOWN = 80
_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in {
        "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
        "Char": "I8", "Byte": "U8", "Bool": "BOOL",
    }.items()
} | {"torch.storage.UntypedStorage": "U8"}  # fmt: skip
_DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip
# Found in real checkpoints beside the weights. Neither these nor what is made with them is given to anybody.
_LEFT_OUT = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "torch.device",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
}
_PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"  # in the oldest embeddings


@dataclass(frozen=True, slots=True)
class Named:
    """Something that the file names and this module knows."""

    name: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something harmless that is not read, by the name of its class."""

    name: str


@dataclass(slots=True, eq=False)
class Storage:
    """A run of numbers: dtype as in safetensors, key in the file, count of numbers."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor over a storage: offset, shape and strides in elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Readable(Protocol):
    """What is asked of a file."""

    def read(self, size: int, /) -> bytes:
        """Give so many bytes, fewer at the end."""

    def readline(self) -> bytes:
        """Give a line."""


def read_pickle(file: Readable) -> Any:
    """Read one pickle, and leave the file behind its end.

    Returns:
        dict, OrderedDict, list, tuple, set, bytes, str, int, float, bool, None, nested; `StoredTensor`, `LeftOut`.

    Raises:
        ModelError: It names code, or is damaged.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file))):
            if count > _OPCODE_LIMIT:
                raise ModelError(f"its pickle has more than {_OPCODE_LIMIT:,} steps")
            if opcode.name != "STOP":
                machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ModelError("its pickle is damaged", hint="download it again") from error


class _Machine:
    """The stack that opcodes work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do what an opcode says."""
        if name in _VALUES:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _IGNORED:
            raise ModelError(f"its pickle uses {name}, which torch.save does not write")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def duplicate(self, _: Any) -> None:
        self.push(self.stack[-1])

    def mark(self, _: Any) -> None:
        self._marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marked.pop()
        return items

    def put(self, index: Any) -> None:
        self._memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.push(self._memo[int(index)])

    def tuple_of(self, size: int) -> None:
        items = tuple(self.stack[len(self.stack) - size :])
        if len(items) != size:
            raise IndexError("too little on the stack")
        del self.stack[len(self.stack) - size :]
        self.push(items)

    def extend(self, items: list[Any]) -> None:
        container = self.stack[-1]
        if isinstance(container, LeftOut):
            return
        if isinstance(container, set):
            container.update(_key(item) for item in items)
        else:
            _expect(container, list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], LeftOut):
            target = _expect(self.stack[-1], dict)
            target.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self.extend([item])

    def name(self, argument: Any) -> None:
        self.push(_named(argument.replace(" ", ".", 1)))

    def stack_name(self, _: Any) -> None:
        name, module = _expect(self.stack.pop(), str), _expect(self.stack.pop(), str)
        self.push(_named(f"{module}.{name}"))

    def call(self, _: Any) -> None:
        arguments, what = _expect(self.stack.pop(), tuple), self.stack.pop()
        self.push(what if isinstance(what, LeftOut) else _CALLS[_expect(what, Named).name](*arguments))

    def build(self, _: Any) -> None:
        """Give an object its state: of those known here, only ParameterDict's says anything about weights."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Parameters):
            target.update(_expect(_expect(state, dict)["_parameters"], dict))
        elif not isinstance(target, LeftOut | OrderedDict):  # an OrderedDict's is the versions of its modules
            raise TypeError("state for something that has none")

    def persistent(self, _: Any) -> None:
        kind, what, *rest = _expect(self.stack.pop(), tuple)
        if kind == "module":  # the older format tells a class together with its source
            self.push(what)
            return
        key, _device, count, *views = rest
        if kind != "storage" or any(view is not None for view in views):
            raise ModelError("its tensors are stored in a way that torch.save gave up long ago")
        name = _expect(what, Named).name
        self.push(Storage(_STORAGES[name], _expect(key, str), _size(count)))


class _Parameters(dict[Any, Any]):
    """A ParameterDict on its way."""


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _key(value: Any) -> Any:
    # no tuples: the hash of nested ones can take for ever
    if value is not None and not isinstance(value, str | int | float | bytes | Named | LeftOut):
        raise TypeError(f"a {type(value).__name__} as a key")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"{value!r} is no size")
    return value


def _named(name: str) -> Named | LeftOut:
    if name in _LEFT_OUT:
        return LeftOut(name)
    if name not in _CALLS and name not in _STORAGES and name not in _DTYPES:
        raise ModelError(
            f"it holds code ({name[:_SHOWN]}), not weights alone",
            hint="do not open it with other programs; use the model's .safetensors file",
        )
    return Named(name)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    return _view(storage, _expect(storage, Storage).dtype, offset, shape, strides)


def _typed_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    _grad, _hooks, dtype, *_ = rest
    return _view(storage, _DTYPES[_expect(dtype, Named).name], offset, shape, strides)


def _view(storage: Any, dtype: str, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    sides, steps = (tuple(_size(n) for n in _expect(numbers, tuple)) for numbers in (shape, strides))
    if len(sides) != len(steps):
        raise ValueError("as many strides as sides")
    return StoredTensor(_expect(storage, Storage), dtype, _size(offset), sides, steps)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_key(key), value) for key, value in pairs)


def _bytes(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are written as Latin-1")
    return bytes(_expect(text, str).encode("latin1"))


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in _expect(items, list)} if items else set()


def _parameter(data: Any, *_: Any) -> StoredTensor:
    tensor: StoredTensor = _expect(data, StoredTensor)
    return tensor


def _same(value: Any) -> Any:
    return value


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _same,
    "_codecs.encode": _bytes,
    "__builtin__.set": _set,
    "builtins.set": _set,
    _PARAMETER_DICT: _Parameters,
}
_IGNORED = {"PROTO", "FRAME"}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "APPEND": _Machine.append,
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}

"""The CUDA plugin from Python: structs and functions as compute/cuda/tenax_cuda.h declares them, read from that file.

Memory goes through the plugin's own calls, so the same scripts run on a GPU and on the emulated device of the unit tests.
"""

import ctypes
import pathlib
import re

import numpy

HEADER = pathlib.Path(__file__).parents[2] / "compute" / "cuda" / "tenax_cuda.h"
SCALARS = {
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "tenax_cuda_status": ctypes.c_int32,
}


def read_header(text):
    """(constants, structs, functions): names to numbers, to ctypes.Structure, to (result, argument types)."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)
    constants = {}
    for body in re.findall(r"enum \{(.*?)\}", text, flags=re.S):
        for name, value in re.findall(r"(\w+)\s*=\s*(\d+)", body):
            constants[name] = int(value)
    structs = {}
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.S):
        fields = []
        for declaration in body.split(";"):
            if match := re.fullmatch(r"\s*(?:const )?(\w+)\s*(\**)\s*(\w+)(?:\[(\d+)\])?\s*", declaration):
                base, stars, field, count = match.groups()
                if stars:
                    fields.append((field, ctypes.c_void_p))
                elif count:
                    fields.append((field, ctypes.c_char * int(count)))
                else:
                    fields.append((field, SCALARS[base]))
        structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    functions = {}
    for result, name, arguments in re.findall(r"(?:^|\n)\s*([\w ]+\**)\s*(tenax_cuda_\w+)\(([^)]*)\);", text):
        types = []
        for argument in arguments.split(","):
            if argument.strip() in ("", "void"):
                continue
            types.append(ctypes.c_void_p if "*" in argument else SCALARS[argument.replace("const ", "").split()[0]])
        if "char*" in result.replace(" ", ""):
            returned = ctypes.c_char_p
        else:
            returned = SCALARS.get(result.replace("const", "").strip())
        functions[name] = (returned, types)
    return constants, structs, functions


CONSTANTS, STRUCTS, FUNCTIONS = read_header(HEADER.read_text(encoding="utf-8"))
F32, BF16 = CONSTANTS["TENAX_CUDA_F32"], CONSTANTS["TENAX_CUDA_BF16"]


class PluginError(RuntimeError):
    """A call that failed; `status` is its tenax_cuda_status."""

    def __init__(self, status, message):
        super().__init__(f"status {status}: {message}")
        self.status = status


def to_bfloat16(x):
    """float32 to the upper halves, rounded to nearest, ties to even."""
    bits = numpy.ascontiguousarray(x, dtype=numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def from_bfloat16(x):
    return (x.astype(numpy.uint32) << 16).view(numpy.float32)


class Plugin:
    """An opened plugin with one context on one device."""

    def __init__(self, path, device=0, reproducible=False):
        self.library = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments
        self.context = ctypes.c_void_p()
        message = ctypes.create_string_buffer(1024)
        options = STRUCTS["tenax_cuda_options"](device=device, reproducible=int(reproducible))
        status = self.library.tenax_cuda_create(ctypes.byref(options), ctypes.byref(self.context), message, len(message))
        if status != 0:
            raise PluginError(status, message.value.decode())
        self.memory = []

    def close(self):
        self.release()
        self.library.tenax_cuda_destroy(self.context)

    def call(self, name, *arguments):
        """Calls tenax_cuda_<name>(context, ...)."""
        status = getattr(self.library, "tenax_cuda_" + name)(self.context, *arguments)
        if status != 0:
            raise PluginError(status, self.library.tenax_cuda_message(self.context).decode())

    def run(self, name, struct, **fields):
        """Runs an operation whose arguments are a struct."""
        call = STRUCTS["tenax_cuda_" + struct]()
        for field, value in fields.items():
            setattr(call, field, value.address if isinstance(value, Array) else value)
        self.call(name, ctypes.byref(call))

    def adamw(self, ranges, **step):
        """One update of all ranges, a dict of fields each."""
        table = (STRUCTS["tenax_cuda_adamw_range"] * len(ranges))()
        for row, fields in zip(table, ranges):
            for field, value in fields.items():
                setattr(row, field, value.address if isinstance(value, Array) else value)
        self.call("run_adamw", ctypes.byref(STRUCTS["tenax_cuda_adamw"](**step)), table, len(ranges))

    def array(self, values, dtype=F32):
        """Device memory with `values` in it: float32, BF16, or as they are where they are no floats."""
        values = numpy.ascontiguousarray(values)
        if values.dtype.kind == "f" and values.dtype != numpy.float64:
            values = to_bfloat16(values) if dtype == BF16 else values.astype(numpy.float32)
        array = Array(self, values.nbytes, values.shape, values.dtype)
        self.call("to_device", array.address, values.ctypes.data, values.nbytes)
        return array

    def poisoned(self, shape, dtype=F32):
        """Device memory full of NaN, so that what is not written shows."""
        return self.array(numpy.full(shape, numpy.nan, numpy.float32), dtype)

    def release(self):
        """Frees every array."""
        for address in self.memory:
            self.call("free", address)
        self.memory = []


class Array:
    def __init__(self, plugin, nbytes, shape, dtype):
        self.plugin, self.shape, self.dtype = plugin, shape, dtype
        address = ctypes.c_void_p()
        plugin.call("malloc", max(nbytes, 1), ctypes.byref(address))
        self.address = address.value
        plugin.memory.append(self.address)

    def numpy(self):
        """The contents on the host; BF16 as float32."""
        values = numpy.empty(self.shape, self.dtype)
        self.plugin.call("to_host", values.ctypes.data, self.address, values.nbytes)
        return from_bfloat16(values) if self.dtype == numpy.uint16 else values

    def at(self, element):
        """Address of an element."""
        return self.address + element * self.dtype.itemsize

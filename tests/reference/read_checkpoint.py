#!/usr/bin/python3
"""Reads a checkpoint of Tenax, from docs/checkpoint-format.md alone, and prints its weights hash.

    read_checkpoint.py RUN [CHECKPOINT_ID]        the newest without an id

Output: one line a tensor, "kind TAB name TAB float32 TAB [shape] TAB hash", then "weights HASH". Every chunk is
compared with its hash on the way; anything that is not as the page says ends it with exit code 1.

Independent of the C++ reader on purpose: it decodes Cap'n Proto's wire format itself (capnproto.org/encoding.html),
takes the manifest's bytes from RocksDB's ldb, and XXH3 from the system's libxxhash.
"""

import ctypes
import subprocess
import sys

import numpy


# --- XXH3, 128 bits, seed 0; canonical form: big endian, high word first

class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_128bits.restype = Hash128
_xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh3(data):
    """16 bytes."""
    h = _xxhash.XXH3_128bits(bytes(data), len(data))
    return h.high.to_bytes(8, "big") + h.low.to_bytes(8, "big")


# --- Cap'n Proto

class Message:
    """A flat message: segment table, then segments of 8-byte words."""

    def __init__(self, data):
        count = int.from_bytes(data[0:4], "little") + 1
        sizes = [int.from_bytes(data[4 + 4 * i:8 + 4 * i], "little") for i in range(count)]
        at = (4 + 4 * count + 7) // 8 * 8
        self.segments = []
        for words in sizes:
            self.segments.append(data[at:at + 8 * words])
            at += 8 * words

    def word(self, segment, index):
        return int.from_bytes(self.segments[segment][8 * index:8 * index + 8], "little")

    def root(self):
        return self.struct_at(0, 0)

    def resolve(self, segment, index):
        """(segment, word of what is pointed to, pointer word); follows far pointers."""
        pointer = self.word(segment, index)
        if pointer & 3 == 2:
            far_segment, landing = pointer >> 32, (pointer >> 3) & 0x1FFFFFFF
            if not pointer & 4:
                return self.resolve(far_segment, landing)
            second = self.word(far_segment, landing)
            return second >> 32, (second >> 3) & 0x1FFFFFFF, self.word(far_segment, landing + 1)
        offset = (pointer >> 2) & 0x3FFFFFFF
        if offset >= 1 << 29:
            offset -= 1 << 30
        return segment, index + 1 + offset, pointer

    def struct_at(self, segment, index):
        segment, start, pointer = self.resolve(segment, index)
        if pointer == 0:
            return Struct(self, 0, 0, 0, 0)
        return Struct(self, segment, start, (pointer >> 32) & 0xFFFF, pointer >> 48)

    def list_at(self, segment, index):
        """(segment, first word, element size code, count, data words, pointer words)"""
        segment, start, pointer = self.resolve(segment, index)
        if pointer == 0:
            return 0, 0, 0, 0, 0, 0
        code, count = (pointer >> 32) & 7, pointer >> 35
        if code != 7:
            return segment, start, code, count, 0, 0
        tag = self.word(segment, start)
        return segment, start + 1, 7, (tag >> 2) & 0x3FFFFFFF, (tag >> 32) & 0xFFFF, tag >> 48


class Struct:
    def __init__(self, message, segment, start, data_words, pointers):
        self.message, self.segment, self.start = message, segment, start
        self.data_words, self.pointers = data_words, pointers

    def number(self, byte, size):
        """The field at this byte of the data section; 0 where an older writer had none."""
        if byte + size > 8 * self.data_words:
            return 0
        at = 8 * self.start + byte
        return int.from_bytes(self.message.segments[self.segment][at:at + size], "little")

    def _pointer(self, index):
        return None if index >= self.pointers else self.start + self.data_words + index

    def struct(self, index):
        at = self._pointer(index)
        return Struct(self.message, 0, 0, 0, 0) if at is None else self.message.struct_at(self.segment, at)

    def data(self, index):
        at = self._pointer(index)
        if at is None:
            return b""
        segment, start, _, count, _, _ = self.message.list_at(self.segment, at)
        return self.message.segments[segment][8 * start:8 * start + count] if count else b""

    def text(self, index):
        return self.data(index)[:-1].decode()  # less the NUL

    def structs(self, index):
        at = self._pointer(index)
        if at is None:
            return []
        segment, start, _, count, data, pointers = self.message.list_at(self.segment, at)
        return [Struct(self.message, segment, start + i * (data + pointers), data, pointers) for i in range(count)]

    def int64s(self, index):
        at = self._pointer(index)
        if at is None:
            return []
        segment, start, _, count, _, _ = self.message.list_at(self.segment, at)
        raw = self.message.segments[segment][8 * start:8 * (start + count)]
        return [int.from_bytes(raw[8 * i:8 * i + 8], "little", signed=True) for i in range(count)]


# --- The format

def require(condition, what):
    if not condition:
        sys.exit(f"read_checkpoint: {what}")


def manifests(run):
    """{checkpoint_id: the manifest's bytes}"""
    out = subprocess.run(["ldb", f"--db={run}/records", "--column_family=manifests", "scan", "--hex"],
                         capture_output=True, text=True, check=True).stdout
    found = {}
    for line in out.splitlines():
        key, colon, value = line.partition(" : ")
        if colon and key.startswith("0x"):
            found[int(key[2:], 16)] = bytes.fromhex(value[2:])
    return found


def decode(raw):
    require(raw[:4] == b"TNXM", "the manifest has another magic")
    version = int.from_bytes(raw[4:8], "little")
    require(version == 2, f"the manifest has format version {version}, expected 2")
    require(xxh3(raw[24:]) == raw[8:24], "the manifest has another hash than it says")
    return Message(raw[24:]).root()


class Chunk:
    """Chunk of manifest.capnp: bytes @0 u32, hashHigh @1 u64, hashLow @2 u64, fileOffset @3 u64, file @4 u32,
    storedBytes @5 u32; the u32s fill the words in the order in which they were declared."""

    def __init__(self, s):
        self.bytes = s.number(0, 4)
        self.file = s.number(4, 4)
        self.hash = s.number(8, 8).to_bytes(8, "big") + s.number(16, 8).to_bytes(8, "big")
        self.offset = s.number(24, 8)
        self.stored = s.number(32, 4)


def read_chunk(run, names, chunk, what):
    with open(f"{run}/chunks/{names[chunk.file]}", "rb") as file:
        file.seek(chunk.offset)
        data = file.read(chunk.stored or chunk.bytes)
    if chunk.stored:
        data = subprocess.run(["zstd", "-d", "-c"], input=data, capture_output=True, check=True).stdout
    require(len(data) == chunk.bytes, f"{what}: {len(data)} bytes, expected {chunk.bytes}")
    require(xxh3(data) == chunk.hash, f"{what}: another hash than the manifest's")
    return data


def read_tensors(run, manifest):
    """{(kind, name): array}; every chunk and shard hash is checked."""
    names = [f.text(3) for f in manifest.structs(FILES)]
    tensors, filled = {}, {}
    for stored in manifest.structs(SHARDS):
        shard = stored.struct(0)
        name, kind = shard.text(0), shard.text(1)
        shape, offset, extent = shard.int64s(2), shard.int64s(3), shard.int64s(4)
        chunks = [Chunk(c) for c in stored.structs(3)]
        what = f"{kind} {name}"
        data = b"".join(read_chunk(run, names, c, what) for c in chunks)
        h = stored.struct(2)
        expected = h.number(0, 8).to_bytes(8, "big") + h.number(8, 8).to_bytes(8, "big")
        require(xxh3(b"".join(c.hash for c in chunks)) == expected, f"{what}: another shard hash")
        key = (kind, name)
        if key not in tensors:
            tensors[key] = numpy.zeros(shape, dtype="<f4")
            filled[key] = numpy.zeros(shape, dtype=bool)
        box = tuple(slice(o, o + e) for o, e in zip(offset, extent))
        tensors[key][box] = numpy.frombuffer(data, dtype="<f4").reshape(extent)
        filled[key][box] = True
    for key, mask in filled.items():
        require(mask.all(), f"{key}: no shard holds some of it")
    return tensors


# Places of Manifest's pointer fields, in the order in which the schema declares them.
POINTERS = ["runId", "parents", "skipWindows", "scheduleChanges", "configDigest", "dataDigest", "layout", "runState",
            "shards", "files", "weightsHash"]
SHARDS, FILES = POINTERS.index("shards"), POINTERS.index("files")


def main():
    require(len(sys.argv) in (2, 3), "usage: read_checkpoint.py RUN [CHECKPOINT_ID]")
    run = sys.argv[1]
    all_of_them = manifests(run)
    require(all_of_them, f"{run} has no checkpoints")
    wanted = int(sys.argv[2]) if len(sys.argv) == 3 else max(all_of_them)
    require(wanted in all_of_them, f"{run} has no checkpoint {wanted}")
    lines = []
    for (kind, name), tensor in sorted(read_tensors(run, decode(all_of_them[wanted])).items()):
        shape = ",".join(str(n) for n in tensor.shape)
        lines.append(f"{kind}\t{name}\tfloat32\t[{shape}]\t{xxh3(tensor.tobytes()).hex()}\n")
    text = "".join(lines)
    print(text + "weights " + xxh3(text.encode()).hex())


if __name__ == "__main__":
    main()

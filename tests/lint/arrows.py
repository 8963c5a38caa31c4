"""Which room may include what: the arrows of docs/architecture.md as two tables, checked against the #include lines.

Tests and benchmarks may include everything; nothing includes them.
"""

import re

from source_tree import Violation, is_code

# Room -> the other rooms it may include; its own headers are always allowed.
MAY_INCLUDE = {
    "common": set(),
    "wire": {"common"},
    "data": {"common"},
    "compute": {"common"},
    "checkpoint": {"common"},
    "scheduler": {"common"},
    "configs": {"common", "wire", "data", "compute", "checkpoint", "scheduler"},
    # One way only: processes read the run's configuration, and configs/ knows no actor (docs/decisions.md).
    "actors": {"common", "wire", "data", "compute", "checkpoint", "scheduler", "dashboard", "configs"},
    "dashboard": set(),
    "tools": {"common", "wire", "data", "compute", "checkpoint", "scheduler", "configs", "actors"},
}
FREE_FOLDERS = {"tests", "bench"}

# Library -> (pattern of its headers, folders that may include them).
LIBRARIES = {
    "CAF": (re.compile(r"^caf/"), ("actors/",)),
    "toml++": (re.compile(r"^(toml\+\+/|toml\.hpp$)"), ("configs/",)),
    "ZeroMQ": (re.compile(r"^zmq(_addon)?\.hp?p?$"), ("wire/",)),
    "Cap'n Proto": (re.compile(r"^(capnp|kj)/"), ("wire/", "checkpoint/")),
    "RocksDB": (re.compile(r"^rocksdb/"), ("checkpoint/",)),
    "Gloo": (re.compile(r"^gloo/"), ("compute/",)),
    "CUDA or NCCL": (re.compile(r"^(cuda|cublas|cudnn|curand|nccl|nvtx|nvml|cub/|thrust/)"), ("compute/cuda/",)),
}
# Code generated from a schema stays in the room of the schema.
GENERATED_SCHEMA = re.compile(r"^([a-z]+)/.*\.capnp\.h$")

INCLUDE = re.compile(r'^\s*#\s*(?:include|import)\s*(["<])([^">]+)[">]')


def check_include(path, number, quote, header):
    """The violations of one #include line of `path` (relative, with '/')."""
    room = path.split("/")[0]
    target = header.split("/")[0] if "/" in header else ""

    def violation(rule, message):
        return [Violation(path, number, rule, message)]

    if target in FREE_FOLDERS and room not in FREE_FOLDERS:
        return violation("room-arrow", f'"{header}": nothing includes {target}/')
    if room in FREE_FOLDERS:
        return []
    if target in MAY_INCLUDE:
        generated = GENERATED_SCHEMA.match(header)
        if generated and target != room:
            return violation("schema-room", f'"{header}" is generated; only {target}/ includes it')
        if target == room or target in MAY_INCLUDE[room]:
            return []
        allowed = ", ".join(sorted(MAY_INCLUDE[room])) or "no other room"
        return violation("room-arrow", f'{room}/ may not include "{header}" (allowed: {allowed})')
    for library, (pattern, folders) in LIBRARIES.items():
        if pattern.match(header) and not path.startswith(folders):
            where = " and ".join(folders)
            return violation("library-room", f"only {where} includes {library} ({header})")
    if quote == '"':
        return violation("include-path", f'"{header}" does not start at the repository root with a room\'s name')
    return []


def check(root, files):
    """Violations of all C++ and CUDA files of the rooms, tests and benchmarks."""
    violations = []
    for file in files:
        path = file.as_posix()
        room = path.split("/")[0]
        if not is_code(file) or (room not in MAY_INCLUDE and room not in FREE_FOLDERS):
            continue
        text = (root / file).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if match := INCLUDE.match(line):
                violations += check_include(path, number, *match.groups())
    return violations

"""Rules on names and plain text: what every file of the repository looks like whatever it holds."""

import re

from source_tree import Violation, is_code, is_source, is_text

MAX_LINES = 500
# Names that say nothing about what is inside; also as a part, such as string_utils.
EMPTY_NAMES = {"util", "utils", "misc", "helper", "helpers"}
# Spelt in two parts so that this file keeps the rule it states.
OPEN_TASK = re.compile(r"\bTO" r"DO\b(?!\((?:perf|soon|someday)\): \S)")

# Paths are relative to the folder of the build that first filled the compiler cache, or name another clone: good for
# a message (common/check.h), not for opening a file.
FILE_MACRO = "__FI" "LE__"

# Managed memory can hang a GPU that others use; resets, clocks, power limits, compute, MIG and persistence modes are the
# machine's, not ours. Spelt in parts, like the above.
GPU_SETTINGS = re.compile(
    r"cudaMalloc" r"Managed|cuMemAlloc" r"Managed|__man" r"aged__|cudaDevice" r"Reset|cuDevicePrimaryCtx" r"Reset|"
    r"nvmlDevice(?:Set|Reset|Clear)\w+|nvidia-" r"smi\b.*\s(?:-r|--gpu-reset|-pm|-pl|-ac|-rac|-lgc|-rgc|-lmc|-rmc|-c|-mig|"
    r"--persistence-mode|--power-limit|--applications-clocks|--lock-gpu-clocks|--compute-mode)(?:[\s=]|$)"
)

# A Markdown link or picture; what follows a '#' is not looked at.
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def check_name(path):
    for part in path.parts:
        stem = part.split(".")[0]
        if stem == "manager" or EMPTY_NAMES & set(re.split(r"[_-]", stem)):
            return [Violation(path.as_posix(), 1, "name", f"'{part}' does not say what it holds")]
    return []


def check_source(path, text):
    """Rules for whatever is compiled, run or configured."""
    violations = []
    name = path.as_posix()
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            violations.append(Violation(name, number, "tab", "tabs are not used; indent with spaces"))
        if not line.isascii():
            strange = next(c for c in line if not c.isascii())
            violations.append(Violation(name, number, "ascii", f"U+{ord(strange):04X} in a source file"))
        if FILE_MACRO in line and name != "common/check.h":
            violations.append(Violation(name, number, "file", "does not name a file one can open; use TENAX_SOURCE_DIR"))
        if GPU_SETTINGS.search(line):
            violations.append(
                Violation(name, number, "gpu-settings", "no managed memory, and a GPU's settings stay as they are")
            )
        if OPEN_TASK.search(line):
            violations.append(
                Violation(name, number, "todo", "write it as NAME(perf|soon|someday): text, or do it now")
            )
    if is_code(path) and len(lines) - 1 > MAX_LINES:
        violations.append(
            Violation(name, MAX_LINES + 1, "length", f"{len(lines) - 1} lines; at most {MAX_LINES}, split by subject")
        )
    return violations


def check_links(root, path, text):
    """Links and pictures of a page that name a file which is not there."""
    violations = []
    for number, line in enumerate(text.split("\n"), 1):
        for target in LINK.findall(line):
            if "://" not in target and not (root / path.parent / target).exists():
                violations.append(Violation(path.as_posix(), number, "link", f"'{target}' does not exist"))
    return violations


def check(root, files):
    violations = []
    for path in files:
        violations += check_name(path)
        if not is_text(path):
            continue
        data = (root / path).read_bytes()
        text = data.decode("utf-8", errors="replace")
        if is_source(path):
            violations += check_source(path, text)
        if path.suffix == ".md":
            violations += check_links(root, path, text)
        if data and not data.endswith(b"\n"):
            violations.append(Violation(path.as_posix(), text.count("\n") + 1, "newline", "no newline at the end"))
        if b"\r" in data:
            line = data[: data.index(b"\r")].count(b"\n") + 1
            violations.append(Violation(path.as_posix(), line, "newline", "carriage return; lines end in a newline only"))
    return violations

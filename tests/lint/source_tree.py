"""The files of the repository that lint looks at, and the form in which it reports."""

import dataclasses
import pathlib

# Folders that hold nothing written by hand, wherever they are.
SKIPPED_FOLDERS = {".git", "__pycache__", "runs", "node_modules"}

CODE_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
OTHER_SUFFIXES = {".capnp", ".py", ".sh", ".cmake", ".toml", ".js", ".css", ".html", ".json"}
PROSE_SUFFIXES = {".md", ".txt"}
# Shell scripts without a suffix, relative to the root.
SHELL_SCRIPTS = ("quickstart", "check", ".ci/run")


@dataclasses.dataclass(frozen=True, order=True)
class Violation:
    """One broken rule; printed as `file:line: [rule] what is wrong`."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: [{self.rule}] {self.message}"


def all_files(root):
    """Every hand-written file under `root` as a path relative to it, sorted; build folders are left out."""

    def walk(folder):
        for entry in sorted(folder.iterdir()):
            if entry.is_symlink():
                continue
            if entry.is_dir():
                is_build = folder == root and (entry.name == "build" or entry.name.startswith("build-"))
                if entry.name not in SKIPPED_FOLDERS and not is_build:
                    yield from walk(entry)
            else:
                yield entry.relative_to(root)

    return list(walk(pathlib.Path(root)))


def is_code(path):
    """C++ or CUDA."""
    return path.suffix in CODE_SUFFIXES


def is_source(path):
    """Whatever is run, compiled or configured: code, scripts, schemas, recipes, the web page."""
    return (
        is_code(path)
        or path.suffix in OTHER_SUFFIXES
        or path.name == "CMakeLists.txt"
        or path.as_posix() in SHELL_SCRIPTS
    )


def is_shell(path):
    return path.suffix == ".sh" or path.as_posix() in SHELL_SCRIPTS


def is_text(path):
    return is_source(path) or path.suffix in PROSE_SUFFIXES

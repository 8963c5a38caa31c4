"""Rules that another program checks: clang-format on C++, bash -n on shell scripts."""

import re
import shutil
import subprocess

from source_tree import Violation, is_code, is_shell

# Other versions lay out some lines differently; .clang-format is written for Debian 12's.
CLANG_FORMAT_VERSION = 14
FORMAT_ERROR = re.compile(r"^(.+?):(\d+):\d+: error: ")
BASH_ERROR = re.compile(r": line (\d+): (.*)")


class Skipped(Exception):
    """The rule cannot be checked here; the text says why."""


def find_clang_format():
    """The path of a clang-format of the right version; raises Skipped."""
    found = []
    for name in (f"clang-format-{CLANG_FORMAT_VERSION}", "clang-format"):
        if program := shutil.which(name):
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            if match := re.search(r"version (\d+)", version):
                if int(match[1]) == CLANG_FORMAT_VERSION:
                    return program
                found.append(match[1])
    reason = f"version {found[0]} is installed" if found else "it is not installed"
    raise Skipped(f"clang-format {CLANG_FORMAT_VERSION} is needed, but {reason}")


def check_format(root, files):
    program = find_clang_format()
    names = [path.as_posix() for path in files if is_code(path)]
    violations = {}
    for start in range(0, len(names), 50):
        command = [program, "--dry-run", "-Werror", "--style=file", *names[start : start + 50]]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
        errors = [match for line in result.stderr.splitlines() if (match := FORMAT_ERROR.match(line))]
        if result.returncode != 0 and not errors:
            raise RuntimeError(f"{' '.join(command[:3])} failed: {result.stderr.strip()}")
        for match in errors:  # the first difference of a file is enough
            violations.setdefault(
                match[1], Violation(match[1], int(match[2]), "format", f"run clang-format -i {match[1]}")
            )
    return list(violations.values())


def check_shell(root, files):
    violations = []
    for path in filter(is_shell, files):
        result = subprocess.run(["bash", "-n", path.as_posix()], cwd=root, capture_output=True, text=True)
        if result.returncode != 0:
            match = BASH_ERROR.search(result.stderr)
            line, message = (int(match[1]), match[2]) if match else (1, result.stderr.strip())
            violations.append(Violation(path.as_posix(), line, "shell-syntax", message))
    return violations

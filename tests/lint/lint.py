#!/usr/bin/env python3
"""Checks the repository against the rules that no compiler knows.

Usage: lint.py {arrows|text|format|shell|all} [ROOT]

Prints one line `file:line: [rule] message` for each violation. Exit status: 0 none, 1 some, 77 the check was skipped
(the reason is printed), 2 wrong usage.
"""

import pathlib
import sys

import arrows
import external_rules
import text_rules
from source_tree import all_files

CHECKS = {
    "arrows": arrows.check,
    "text": text_rules.check,
    "format": external_rules.check_format,
    "shell": external_rules.check_shell,
}
SKIP_STATUS = 77


def run(names, root):
    """Runs the named checks on the tree at `root`; returns the exit status."""
    files = all_files(root)
    violations = []
    skipped = 0
    for name in names:
        try:
            violations += CHECKS[name](root, files)
        except external_rules.Skipped as reason:
            print(f"lint {name}: skipped: {reason}")
            skipped += 1
    for violation in sorted(violations):
        print(violation)
    if violations:
        print(f"lint {' '.join(names)}: {len(violations)} violation(s)")
        return 1
    if skipped == len(names):
        return SKIP_STATUS
    print(f"lint {' '.join(names)}: {len(files)} files, no violation")
    return 0


def main(arguments):
    if not 1 <= len(arguments) <= 2 or arguments[0] not in (*CHECKS, "all"):
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(arguments[1]) if len(arguments) == 2 else pathlib.Path(__file__).parents[2]
    names = list(CHECKS) if arguments[0] == "all" else [arguments[0]]
    return run(names, root.resolve())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

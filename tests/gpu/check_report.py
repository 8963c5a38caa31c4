"""What every stage of tools/gpu_check shares: the results so far, the time that is left, starting a program."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPU_TESTS = ROOT / "tests" / "gpu"
SKIP = 77


class Report:
    """Results so far; written out whenever one is added. States: ok, below (a figure that must be reached is not),
    skipped, FAILED."""

    def __init__(self, path):
        self.path, self.items = path, []

    def add(self, stage, name, state, text, **figures):
        self.items.append({"stage": stage, "name": name, "state": state, "text": text, **figures})
        print(f"  {state:8} {name:34} {text}", flush=True)
        if self.path:
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(self.items, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.path)

    def failed(self):
        return any(item["state"] == "FAILED" for item in self.items)

    def print_table(self):
        print("\nstage     item                               state")
        for item in self.items:
            print(f"{item['stage']:9} {item['name']:34} {item['state']:8} {item['text'][:100]}")


class Clock:
    def __init__(self, budget):
        self.end = time.monotonic() + budget

    def left(self):
        return self.end - time.monotonic()


@dataclasses.dataclass
class Options:
    """Of the command line."""

    plugin: pathlib.Path
    tenax: pathlib.Path
    ranks: int = 1
    steps: int = 60  # of the engine stage's runs
    parts: tuple = ()  # of the bench stage; none: all
    settings: tuple = ()  # KEY=VALUE of the engine stage's runs; those that a run is about win


def run(command, timeout, **options):
    """(exit status, output); status None if it ran out of time."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace",
                              timeout=max(timeout, 1), **options)
        return done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        # Bytes, whatever was asked for.
        return None, b"".join(part for part in (late.stdout, late.stderr) if isinstance(part, bytes)).decode(errors="replace")


def last_line(text, length=200):
    """Of an output: its last line, which is where programs say what is wrong."""
    return (text or "out of time").strip().splitlines()[-1][:length] if (text or "out of time").strip() else "no output"


def python_start(plugin):
    """What a Python process of its own begins with."""
    return (f"import ctypes, sys\nsys.path.insert(0, {str(GPU_TESTS)!r})\n"
            f"from plugin import Plugin, PluginError\np = Plugin({str(plugin)!r})\n")


def run_python(plugin, code, timeout):
    """run() of `code` behind python_start()."""
    return run([sys.executable, "-c", python_start(plugin) + code], timeout)


def median(values):
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2

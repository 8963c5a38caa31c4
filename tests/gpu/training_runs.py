"""Runs of `tenax train` and what they left behind: losses, hashes, step times, memory; and killing their processes."""

import json
import os
import pathlib
import re
import signal
import threading

from check_report import ROOT, run


TEXT = (".md", ".h", ".cc", ".py")


def text_patterns():
    """What runs read: the sources around here. A bundle has less of them, and a pattern must match something."""
    return [f"{ROOT}/**/*{suffix}" for suffix in TEXT if next(ROOT.rglob("*" + suffix), None)]


def copied_text(folder, most_bytes=1 << 20):
    """A pattern of copies of some of them: what is edited while runs are compared changes none of these."""
    folder.mkdir()
    total = 0
    for source in (path for suffix in TEXT for path in sorted(ROOT.rglob("*" + suffix)) if path.is_file()):
        if total > most_bytes:
            break
        total += (folder / f"{total:08}.txt").write_bytes(source.read_bytes())
    return f"{folder}/*.txt"


def recipe(folder, device, steps, settings=()):
    """Arguments of `tenax` for a short run of the quickstart's model; later settings win."""
    first = [f"train.device={device}", f"train.steps={steps}", f"optimizer.warmup_steps={min(20, steps // 2)}",
             "train.eval_interval=0", "dashboard.enabled=false", "checkpoint.interval=10", "generate.tokens=0",
             f"data.text={json.dumps(text_patterns())}"]
    return ["train", ROOT / "configs" / "quickstart.toml", "--run-dir", folder,
            *(part for s in [*first, *settings] for part in ("--set", s))]


def card_recipe(card, device, stages, steps, text):
    """A run of a model card in float32, byte by byte; short samples, as a card of tests has few places."""
    return (f'[data]\ntext = {json.dumps([text])}\n[model]\ncard = "{card}"\n[layout]\npipeline_parallel = {stages}\n'
            f'[train]\nsteps = {steps}\nsequence_length = 16\nglobal_batch_size = 4\nmicrobatch_size = 1\neval_interval = 0\n'
            f'device = "{device}"\n[optimizer]\nwarmup_steps = 2\n[checkpoint]\ninterval = {steps}\n[dashboard]\nenabled = false\n'
            f'[generate]\ntokens = 0\n')


def hash_of(tenax, folder):
    status, text = run([tenax, "hash", folder], 60)
    return text.split()[0] if status == 0 and text.split() else None


def column_of(tenax, folder, name):
    """A column of the run's metrics, a number for each step."""
    status, text = run([tenax, "metrics", folder, "--csv"], 60)
    rows = [line.split(",") for line in text.splitlines()] if status == 0 else []
    if not rows or name not in rows[0]:
        return []
    at = rows[0].index(name)
    return [float(row[at]) for row in rows[1:] if len(row) > at]


def losses_of(tenax, folder):
    return column_of(tenax, folder, "loss")


def journal_of(tenax, folder):
    """The run's journal; empty where there is none."""
    status, text = run([tenax, "journal", folder, "--json"], 60)
    return [json.loads(line) for line in text.splitlines()] if status == 0 else []


def step_times(journal):
    """Step -> seconds at which its report reached the journal."""
    return {e["event"]["report"]["step"]: e["time_ns"] * 1e-9 for e in journal if e.get("kind") == "StepReported"}


def steps_per_second(times, first):
    """From the end of step `first` to the end of the last one; 0 where there are no such steps."""
    last = max(times, default=0)
    return (last - first) / (times[last] - times[first]) if first in times and last > first else 0.0


def snapshot_stalls(journal, first):
    """Seconds that training waited for each snapshot behind step `first`, as the step after it reports them."""
    reports = (e["event"]["report"] for e in journal if e.get("kind") == "StepReported")
    return [r["snapshot_seconds"] for r in reports if r["step"] > first and r.get("snapshot_seconds", 0) > 0]


def planned_bytes(output):
    """Of the rank that needs most, as `tenax train` says before the first step; None where it does not."""
    found = re.search(r"^memory +([\d.]+) MB on a rank", output, re.M)
    return float(found[1]) * 1e6 if found else None


def held_bytes(folder):
    """The most that a worker of the run has held of its GPU, by its log; None where it does not say."""
    held = [int(n) for log in pathlib.Path(folder).glob("logs/worker-*.log")
            for n in re.findall(r"held at most (\d+) bytes of device memory", log.read_text(errors="replace"))]
    return max(held, default=None)


def processes_of(folder, commands):
    """Process ids of the run in `folder` whose `tenax` command is one of `commands`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if len(words) > 1 and words[1].decode(errors="replace") in commands and str(folder).encode() in words:
            found.append(int(entry.name))
    return found


class RunKiller(threading.Thread):
    """Kills a worker of a run, or with `everything` all of its processes, once it has trained `after` steps; `killed` tells."""

    def __init__(self, tenax, folder, after=3, everything=False):
        super().__init__(daemon=True)
        self.tenax, self.folder, self.after, self.everything = tenax, folder, after, everything
        self.killed, self.over = False, threading.Event()
        self.start()

    def run(self):
        while not self.killed and not self.over.wait(0.02):
            if (self.folder / "run.json").exists() and len(losses_of(self.tenax, self.folder)) >= self.after:
                self.killed = self.kill()

    def kill(self):
        # The one that starts the others first.
        commands = ("train", "agent", "worker") if self.everything else ("worker",)
        victims = [pid for command in commands for pid in processes_of(self.folder, (command,))]
        killed = False
        for pid in victims if self.everything else victims[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed = True
            except ProcessLookupError:
                continue
        return killed

    def finish(self):
        """After the run: whether something was killed."""
        self.over.set()
        self.join()
        return self.killed

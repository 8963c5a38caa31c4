#!/usr/bin/env python3
"""Injects faults into real runs of `tenax train` and prints what each one came to, as a Markdown table.

    bench/spike_injections.py build/tenax [--only FAULT] [--layout NAME] [--keep FOLDER]

Every row is a run of a small model on a made-up text: what found the fault, after how many steps, what was done, and the
held-out loss at the end beside that of a run without the fault. About a minute and a half a layout on two idle cores.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

FAULT_STEP = 80
STEPS = 200
LAST = 10  # steps whose mean loss stands for the end

RECIPE = """[run]
name = "injections"
seed = 1
[data]
text = ["corpus/*.txt"]
[model]
width = 32
layers = 2
heads = 2
[train]
steps = %d
sequence_length = 32
global_batch_size = 8
microbatch_size = 2
eval_interval = 20
eval_samples = 16
[optimizer]
learning_rate = 1e-2
warmup_steps = 10
[checkpoint]
interval = 10
[spikes]
window = 24
warmup_samples = 40
patience = 8
cooldown_samples = 10
resume_hold = 4
recovery_samples = 3
shift_block = 12
margin_steps = 5
region_steps = 40
soften_steps = 40
max_skipped_fraction = 0.5
[dashboard]
enabled = false
[generate]
tokens = 0
""" % STEPS

LAYOUTS = {
    "dp 1": [],
    "dp 2": ["layout.data_parallel=2"],
    "dp 2, ZeRO-1": ["layout.data_parallel=2"],  # plus the key of the sharded optimizer, where there is one
}

FAULTS = {
    "none": [],
    "poisoned batch, 6 steps of random tokens": [f"faults.poison_batch={FAULT_STEP}", "faults.poison_num_batches=6"],
    "poisoned batch, 30 steps": [f"faults.poison_batch={FAULT_STEP}", "faults.poison_num_batches=30"],
    "poisoned batch, NaN for 6 steps": [f"faults.poison_batch={FAULT_STEP}", "faults.poison_num_batches=6",
                                        "faults.poison_kind=nan"],
    "exponent bit 30 of a weight on the last rank": [f"faults.weight_step={FAULT_STEP}"],
    "exponent bit 25 of a weight on the last rank": [f"faults.weight_step={FAULT_STEP}", "faults.flip_bit=25"],
    "exponent bit 30 of a gradient on the last rank": [f"faults.gradient_step={FAULT_STEP}"],
    "mantissa bit 22 of a gradient on the last rank": [f"faults.gradient_step={FAULT_STEP}", "faults.flip_bit=22"],
    "NaN from the last rank, once": [f"faults.nan_step={FAULT_STEP}"],
    "learning rate x 30 for one step": [f"faults.learning_rate_step={FAULT_STEP}"],
    "learning rate x 30 for 20 steps": [f"faults.learning_rate_step={FAULT_STEP}", "faults.learning_rate_num_steps=20"],
    "learning rate x 30 from then on": [f"faults.learning_rate_step={FAULT_STEP}",
                                        "faults.learning_rate_num_steps=100000"],
    "token file, a third overwritten with noise": [],
    "slow drift of the data over 100 steps": [f"faults.poison_batch={FAULT_STEP}", "faults.poison_num_batches=100",
                                              "faults.poison_kind=drift"],
}


def write_corpus(folder):
    """Words of which each makes a few others likely; no module of randomness, so that every machine has the same text."""
    os.makedirs(folder)
    state, word = 12345, 0
    letters = "abcdefghijklmnopqrst"
    vocabulary = []
    for w in range(61):
        text = ""
        for _ in range(2 + w % 5):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            text += letters[(state >> 40) % 20]
        vocabulary.append(text)
    lines = []
    for _ in range(16):
        words = []
        for _ in range(1500):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            word = (word * 5 + ((state >> 33) & 3)) % 61
            words.append(vocabulary[word])
        lines.append(" ".join(words))
    for i, line in enumerate(lines):
        with open(os.path.join(folder, f"{i}.txt"), "w") as out:
            out.write(line + "\n")


def run(program, *arguments):
    return subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)


def json_lines(program, *arguments):
    return [json.loads(line) for line in run(program, *arguments, "--json").stdout.splitlines() if line.startswith("{")]


def overwrite_tokens(run_dir):
    """Noise over the middle third of the training tokens: any 16 bits, few of them in the vocabulary."""
    path = os.path.join(run_dir, "data", "train.tok")
    size = os.path.getsize(path)
    with open(path, "r+b") as out:
        begin = 80 + (size - 80) // 3 // 2 * 2
        state, noise = 99, bytearray()
        for _ in range((size - 80) // 3):
            state = (state * 1103515245 + 12345) % 2**31
            noise.append((state >> 16) & 0xFF)
        out.seek(begin)
        out.write(bytes(noise))


def samples_noted(ring):
    """How many losses of samples a rank has noted so far (actors/sample_log.h)."""
    try:
        with open(ring, "rb") as file:
            return int.from_bytes(file.read(24)[16:24], "little")
    except OSError:
        return 0


def train(program, recipe, run_dir, overrides, corrupt):
    """The exit code, or the codes of the run and of its resumption with the tokens as they were."""
    settings = []
    for o in overrides:
        settings += ["--set", o]
    if not corrupt:
        return run(program, "train", recipe, "--run-dir", run_dir, *settings).returncode
    # The tokens are overwritten while the run trains; a restart would compare their digest and refuse.
    process = subprocess.Popen([program, "train", recipe, "--run-dir", run_dir, *settings], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    ring, overwritten = os.path.join(run_dir, "samples", "rank0.ring"), False
    while process.poll() is None:
        if not overwritten and samples_noted(ring) > 30 * 8:
            shutil.copy(os.path.join(run_dir, "data", "train.tok"), run_dir + ".tok")
            overwrite_tokens(run_dir)
            overwritten = True
        time.sleep(0.002)
    if not overwritten:
        print("warning: the tokens were not overwritten", file=sys.stderr)
    if process.returncode != 4:
        return process.returncode
    shutil.copy(run_dir + ".tok", os.path.join(run_dir, "data", "train.tok"))
    return f"4, then {run(program, 'train', '--resume', '--run-dir', run_dir).returncode}"


VERDICT = re.compile(r"step (\d+): (armed|outlier|spike|recovered|rollback|divergence|level_shift|abnormal_drop|loss_zero|"
                     r"non_finite|overflow|restore_mismatch): ")
HELD = re.compile(r"step (\d+): held and computed again with (the same|other) bits")


def story(program, run_dir, fault_step):
    """(what found it, the step, what was done) from the journal."""
    found, rungs = [], []
    for entry in json_lines(program, "journal", run_dir):
        for command in entry["commands"]:
            text = command.get("text", "")
            if command["type"] == "SuspectDevice":
                rungs.append(f"rank {command['rank']} suspect")
            if command["type"] == "Finish" and command["exit_code"] in (4, 6):
                rungs.append("damaged tokens found, stop, file restored" if command["exit_code"] == 4 else "stop")
            if command["type"] != "Note":
                continue
            if match := HELD.match(text):
                found.append((int(match[1]), "step guard: " + ("the same twice" if match[2] == "the same" else
                                                               "not the same twice")))
                rungs.append("computed again")
                if "the update is skipped" in text:
                    rungs.append("update skipped")
            elif (match := VERDICT.match(text)) and match[2] != "recovered":
                found.append((int(match[1]), "detector: " + match[2].replace("_", " ")))
            elif text.startswith("replicas hold different bytes"):
                found.append((int(re.search(r"after step (\d+)", text)[1]), "replicas compared at a checkpoint"))
            elif text.startswith("training waits while steps"):
                rungs.append("replayed")
            elif match := re.match(r"rollback \d+: branch \d+ leaves branch \d+ after step (\d+)", text):
                kind = "no sample skipped" if "no sample is skipped" in text else "samples skipped"
                rungs.append(f"back to {match[1]}, {kind}")
    found = [f for f in found if f[0] >= fault_step]
    words = []
    for rung in rungs:
        if words and words[-1][0] == rung:
            words[-1][1] += 1
        else:
            words.append([rung, 1])
    return found, "; ".join(w if n == 1 else f"{w} ({n} times)" for w, n in words) or "nothing"


def end_loss(program, run_dir):
    rows = json_lines(program, "metrics", run_dir)
    evals = [r["eval_loss"] for r in rows if "eval_loss" in r]
    return evals[-1] if evals and isinstance(evals[-1], float) else float("nan")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program")
    arguments.add_argument("--only", default="", help="faults whose name contains this")
    arguments.add_argument("--layout", default="", help="layouts whose name contains this")
    arguments.add_argument("--keep", default="", help="run directories go there and stay")
    a = arguments.parse_args()
    program = os.path.abspath(a.program)
    keys = run(program, "config", "keys").stdout
    zero = re.search(r"^(layout\.\w*(?:zero|shard)\w*|optimizer\.\w*(?:zero|shard)\w*)", keys, re.M)
    folder = os.path.abspath(a.keep) if a.keep else tempfile.mkdtemp(prefix="tenax-injections-")
    os.makedirs(folder, exist_ok=True)
    write_corpus(os.path.join(folder, "corpus"))
    recipe = os.path.join(folder, "run.toml")
    with open(recipe, "w") as out:
        out.write(RECIPE)
    print("| fault | layout | found by | after steps | what was done | exit | held-out loss | without the fault | same weights |")
    print("|---|---|---|---|---|---|---|---|---|")
    for layout, settings in LAYOUTS.items():
        if a.layout not in layout:
            continue
        if "ZeRO" in layout:
            if not zero:
                continue
            kind = re.search(re.escape(zero[1]) + r" = \S+  \((\w+)", keys)
            settings = settings + [zero[1] + ("=true" if kind and kind[1] == "boolean" else "=1")]
        rank = 1 if "dp 2" in layout else 0
        undisturbed, undisturbed_hash = None, None
        for fault, overrides in FAULTS.items():
            if fault != "none" and a.only not in fault:
                continue
            run_dir = os.path.join(folder, re.sub(r"\W+", "-", f"{layout} {fault}"))
            shutil.rmtree(run_dir, ignore_errors=True)
            code = train(program, recipe, run_dir, settings + overrides + [f"faults.rank={rank}"], "token file" in fault)
            loss = end_loss(program, run_dir)
            digest = run(program, "hash", run_dir).stdout.split()[:1]
            if fault == "none":
                undisturbed, undisturbed_hash = loss, digest
                continue
            found, done = story(program, run_dir, 1 if "token file" in fault else FAULT_STEP)
            by = found[0][1] if found else "not detected"
            after = "" if not found else "?" if "token file" in fault else str(found[0][0] - FAULT_STEP)
            same = "yes" if digest == undisturbed_hash else "no"
            print(f"| {fault} | {layout} | {by} | {after} | {done} | {code} | {loss:.3f} | {undisturbed:.3f} | {same} |",
                  flush=True)
    if not a.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

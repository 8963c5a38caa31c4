"""Part scaling of the bench stage of tools/gpu_check: N GPUs of this machine against one of them, and NCCL between them.

Data parallel: N times the samples a step, the same for each GPU. Tensor parallel: the samples of one GPU, where heads and
feed-forward divide. The figure is tokens a second over N times those of one.
"""

import ctypes
import json
import sys

from check_report import GPU_TESTS, SKIP, last_line, run
from check_training import TRAININGS, train_once, training_recipe

SCALED = (TRAININGS[0], TRAININGS[2])
COLLECTIVE_BYTES = 512 << 20  # the gradients of GPT-2 124M


def num_gpus(plugin):
    count, message = ctypes.c_int32(), ctypes.create_string_buffer(512)
    ctypes.CDLL(str(plugin)).tenax_cuda_device_count(ctypes.byref(count), message, ctypes.c_size_t(512))
    return count.value


def check_collectives(report, clock, options, devices, rounds=11):
    """Bus bandwidth of an all-reduce by NCCL, and of the sends and receives that runs take instead (T2)."""
    name, num_bytes = f"NCCL {len(devices)} GPUs", COLLECTIVE_BYTES
    status, text = run([sys.executable, GPU_TESTS / "nccl_bandwidth.py", options.plugin, ",".join(map(str, devices)), num_bytes, rounds],
                       min(clock.left(), 120))
    if status != 0:
        report.add("bench", name, "skipped" if status == SKIP else "FAILED", last_line(text))
        return
    for figures in map(json.loads, text.splitlines()):
        label = figures.pop("name")
        report.add("bench", f"{name}: {label}", "ok", f"{num_bytes >> 20} MiB in {1e3 * figures['seconds']:.3f} ms, bus bandwidth "
                   f"{figures['bus_bandwidth'] / 1e9:.1f} GB/s", **figures)


def layouts_of(sizes, ranks, batch):
    """(name, lines of [layout], samples a step, why not) of N GPUs."""
    _, width, heads, kv_heads, ffn = sizes
    wrong = [f"{name} {n}" for name, n in (("heads", heads), ("kv_heads", kv_heads), ("ffn", ffn)) if n % ranks]
    yield f"dp {ranks}", f"[layout]\ndata_parallel = {ranks}\n", ranks * batch, ""
    yield f"tp {ranks}", f"[layout]\ntensor_parallel = {ranks}\n", batch, f"{wrong[0]} is not a multiple of {ranks}" if wrong else ""


def check_scaling(report, clock, options, trainings=SCALED, found=None, recipe_of=training_recipe):
    """`found`: GPUs here, else they are counted."""
    ranks, stage = options.ranks, "scaling over GPUs"
    found = num_gpus(options.plugin) if found is None else found
    problem = "--ranks N says over how many" if ranks < 2 else f"{found} of {ranks} GPUs are here" if found < ranks else ""
    if not problem and not options.tenax.exists():
        problem = f"{options.tenax} is not built"
    if problem:
        report.add("bench", stage, "skipped", problem)
        return
    check_collectives(report, clock, options, range(ranks))
    for name, model, sizes, length, batch, _ in trainings:
        if clock.left() < 90:
            report.add("bench", f"{name}, {ranks} GPUs", "skipped", "no time left")
            continue
        one, why = train_once(report, clock, options, f"{name}, alone", recipe_of(model, length, batch))
        if one is None:
            report.add("bench", f"{name}, alone", "FAILED", why)
            continue
        for label, layout, samples, why in layouts_of(sizes, ranks, batch):
            row = f"{name}, {label}"
            if why or clock.left() < 45:
                report.add("bench", row, "skipped", why or "no time left")
                continue
            recipe = recipe_of(model, length, batch, layout=layout).replace(f"global_batch_size = {batch}\n", f"global_batch_size = {samples}\n")
            rate, why = train_once(report, clock, options, row, recipe)
            if rate is None:
                report.add("bench", row, "FAILED", why)
                continue
            report.add("bench", row, "ok", f"{rate:.0f} tokens/s, {rate / (ranks * one):.3f} of {ranks} x the {one:.0f} of one",
                       tokens_per_second=rate, of_one=one, scaling=rate / (ranks * one), ranks=ranks)

"""Stages ops and sanitize of tools/gpu_check: the plugin by itself, in processes of their own."""

import json
import pathlib
import shutil
import sys
import tempfile

from check_report import GPU_TESTS, SKIP, last_line, run, run_python

NCCL = """
import threading, time, numpy
one, two = ctypes.create_string_buffer(128), ctypes.create_string_buffer(128)
message = ctypes.create_string_buffer(512)
lib = p.library
for id in (one, two):
    assert lib.tenax_cuda_nccl_unique_id(id, message, 512) == 0, message.value
def poll(comm, until):
    while (status := lib.tenax_cuda_nccl_poll(comm)) == 7 and time.monotonic() < until:
        time.sleep(0.01)
    return status
alone = ctypes.c_void_p()
p.call("nccl_create", one, 0, 1, ctypes.byref(alone))
assert poll(alone, time.monotonic() + 30) == 0, lib.tenax_cuda_nccl_message(alone)
x = p.array(numpy.arange(1000, dtype=numpy.float32))
y = p.poisoned((1000,))
assert lib.tenax_cuda_nccl_all_reduce(alone, x.address, y.address, 1000) == 0
assert lib.tenax_cuda_nccl_join(alone) == 0
assert (y.numpy() == x.numpy()).all()
print("sum")
lib.tenax_cuda_nccl_destroy(alone)
half = ctypes.c_void_p()
p.call("nccl_create", two, 0, 2, ctypes.byref(half))
threading.Timer(2, lambda: lib.tenax_cuda_nccl_abort(half)).start()
print("aborted" if poll(half, time.monotonic() + 20) == 8 else "not aborted")
lib.tenax_cuda_nccl_destroy(half)
"""


def check_nccl(report, clock, options):
    name = "NCCL of one rank; abort of an absent peer"
    if clock.left() < 60:
        report.add("ops", name, "skipped", "no time left")
        return
    status, text = run_python(options.plugin, NCCL, 60)
    if "libnccl.so.2 was not found" in text:
        report.add("ops", name, "skipped", "libnccl.so.2 was not found")
        return
    good = status == 0 and text.endswith("sum\naborted\n")
    report.add("ops", name, "ok" if good else "FAILED", "as it must be" if good else f"status {status}: {text.strip()[-200:]}")


def check_operations(report, clock, options):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "ops.json"
        status, text = run([sys.executable, GPU_TESTS / "operations.py", options.plugin, "--large", "--json", out,
                            "--budget", f"{clock.left() - 20:.0f}"], clock.left())
        results = json.loads(out.read_text())["results"] if out.exists() else []
        if not results or status not in (0, 1):
            report.add("ops", "all operations", "skipped" if status == SKIP else "FAILED", last_line(text))
        for result in results:
            name = f"{result['operation']} {result['type']}"
            if "skipped" in result:
                report.add("ops", name, "skipped", result["skipped"])
            elif result["ok"]:
                report.add("ops", name, "ok", f"error {result['worst']:.1e}, bound {result['bound']:.0e}", error=result["worst"])
            else:
                report.add("ops", name, "FAILED", result.get("failure") or str(result["errors"]), error=result.get("worst"))


def check_ops(report, clock, options):
    check_nccl(report, clock, options)
    check_operations(report, clock, options)


def check_sanitize(report, clock, options):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        report.add("sanitize", "all tools", "skipped", "compute-sanitizer is not installed")
        return
    for tool in ("memcheck", "racecheck"):
        if clock.left() < 60:
            report.add("sanitize", tool, "skipped", "no time left")
            continue
        status, text = run([sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, GPU_TESTS / "operations.py",
                            options.plugin, "--budget", f"{clock.left() / 3:.0f}"], clock.left())
        errors = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        report.add("sanitize", tool, "ok" if status == 0 else "FAILED", errors[-1] if errors else f"exit status {status}")

"""Stage faults of tools/gpu_check: what a GPU does to the plugin by itself and to runs of `tenax train`, which end with the
weights of a run without a fault."""

import tempfile

from check_engine import EngineRuns
from check_report import run_python
from training_runs import journal_of

FAULTS = {
    # name: (code after `p = Plugin(...)`, what must be printed)
    "a bad store is a lost device": ("""
try:
    p.call("run_bad_store")
    p.call("synchronize")
    print("nothing")
except PluginError as e:
    print("lost" if e.status == 3 else e)
try:
    p.call("synchronize")
except PluginError as e:
    print("stays" if e.status == 3 else e)
""", "lost\nstays\n"),
    "too large an allocation is told": ("""
a = ctypes.c_void_p()
try:
    p.call("malloc", 1 << 44, ctypes.byref(a))
except PluginError as e:
    print("told" if e.status == 2 and "of device memory" in str(e) else e)
p.call("synchronize")
print("goes on")
""", "told\ngoes on\n"),
    "a hanging kernel ends by itself": ("""
p.call("run_spin", 5.0)
p.call("synchronize")
print("ended")
""", "ended\n"),
}


# The fault of a run (faults.gpu_kind), by the item's name.
RUN_FAULTS = {"a run whose GPU hangs": "hang", "a run with a bad store": "bad_store", "a run out of memory": "out_of_memory"}
TROUBLES = {"bad_store": 0, "out_of_memory": 1}  # as a worker's report of its GPU says


def happened(entries, kind):
    """Whether the journal tells of the fault: a report of it, or of a hang a step that was given up or took long."""
    if kind in TROUBLES:
        return any(e["kind"] == "DeviceReported" and e["event"]["trouble"] == TROUBLES[kind] for e in entries)
    steps = [e["event"]["report"] for e in entries if e["kind"] == "StepReported"]
    return any("the generation hangs" in e["text"] for e in entries) or any(r["step"] > 1 and r["seconds"] > 1 for r in steps)


def check_runs(report, clock, options):
    if not options.tenax.exists():
        report.add("faults", "all runs", "skipped", f"{options.tenax} is not built")
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = EngineRuns(folder, report, clock, options, stage="faults")
        if not runs.has_time("gpu") or not runs.train("gpu", "cuda"):
            return
        for name, kind in RUN_FAULTS.items():
            settings = [f"faults.gpu_step={options.steps // 2}", f"faults.gpu_kind={kind}"]
            if not runs.has_time(name, 2) or not runs.train(name, "cuda", settings):
                continue
            if happened(journal_of(options.tenax, runs.folder / name), kind):
                runs.check_hash(name)
            else:
                report.add("faults", name, "FAILED", "its journal does not tell of the fault")


def check_plugin(report, clock, options):
    for name, (code, expected) in FAULTS.items():
        if clock.left() < 40:
            report.add("faults", name, "skipped", "no time left")
            continue
        status, text = run_python(options.plugin, code, 40)
        good = status == 0 and text.endswith(expected)
        report.add("faults", name, "ok" if good else "FAILED", "as it must be" if good else f"status {status}: {text.strip()[-200:]}")


def check_faults(report, clock, options):
    check_plugin(report, clock, options)
    check_runs(report, clock, options)

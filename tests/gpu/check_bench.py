"""Stage bench of tools/gpu_check, in parts: rates of kernels beside their floors and what reproducible algorithms cost; the
others are check_training.py, check_scaling.py and check_overhead.py."""

from check_overhead import check_overhead
from check_report import Clock
from check_scaling import check_scaling
from check_training import TRAININGS, check_training, model_of

PARTS = ("kernels", "training", "scaling", "overhead", "reproducible")


def check_peaks(report, clock, options, size=8192, copied=1 << 31):
    """What this GPU does in this run: {"flop": a second, of a product, "byte": a second, of a copy}; of what was measured."""
    from kernel_classes import Kernel, StepKernels, timed
    from plugin import F32, Plugin, PluginError

    plugin, peaks = Plugin(options.plugin), {}

    def product(kernels):
        return kernels.product(size, size, size, 1, transpose_b=1)

    def copy(kernels):
        a, b = (kernels.random(copied // 4, dtype=F32) for _ in range(2))
        return Kernel(1, 2.0 * copied, lambda: plugin.call("copy", b.address, a.address, copied))

    for name, unit, make in ((f"matmul {size}^3 bf16", "flop", product), (f"copy {copied >> 20} MiB", "byte", copy)):
        if clock.left() < 20:
            report.add("bench", name, "skipped", "no time left")
            continue
        try:
            kernel = make(StepKernels(plugin, None))
            seconds = timed(plugin, kernel.call, 10)
        except PluginError as failure:
            report.add("bench", name, "FAILED", str(failure))
            continue
        peaks[unit] = kernel.work / seconds
        report.add("bench", name, "ok", f"{seconds * 1e3:.3f} ms, {peaks[unit] / 1e12:.2f} T{unit}/s", seconds=seconds, rate=peaks[unit],
                   unit=unit)
        plugin.release()
    plugin.close()
    return peaks


def check_classes(report, clock, options, name, model, peaks, step_seconds=None):
    """A row for each class of a model's kernels: its time in a step and its share of the floor; last their sum."""
    from kernel_classes import BY_FLOPS, CLASSES, time_class
    from plugin import Plugin, PluginError

    plugin, sums = Plugin(options.plugin), {"seconds": 0.0, "floor_seconds": 0.0}
    for label in CLASSES:
        row, unit = f"{name}: {label}", "flop" if label in BY_FLOPS else "byte"
        if clock.left() < 15 or unit not in peaks:
            report.add("bench", row, "skipped", "no time left" if unit in peaks else "its floor was not measured")
            sums = None
            continue
        try:
            seconds, work = time_class(plugin, model, label)
        except PluginError as failure:
            report.add("bench", row, "FAILED", str(failure))
            sums = None
            continue
        floor = work / peaks[unit]
        report.add("bench", row, "ok", f"{1e3 * seconds:8.3f} ms a step, floor {1e3 * floor:8.3f}: {100 * floor / seconds:3.0f} %, "
                   f"{work / seconds / 1e12:.2f} T{unit}/s", seconds=seconds, floor_seconds=floor, share=floor / seconds, rate=work / seconds,
                   unit=unit)
        if sums:
            sums = {"seconds": sums["seconds"] + seconds, "floor_seconds": sums["floor_seconds"] + floor}
    plugin.close()
    if sums:
        words = f"{1e3 * sums['seconds']:8.3f} ms a step, floor {1e3 * sums['floor_seconds']:8.3f}: " \
                f"{100 * sums['floor_seconds'] / sums['seconds']:3.0f} %"
        if step_seconds:
            sums["step_seconds"] = step_seconds
            words += f"; of the step's {1e3 * step_seconds:.1f} ms {100 * sums['seconds'] / step_seconds:.0f} %"
        report.add("bench", f"{name}: all kernels", "ok", words, **sums)


def check_reproducible(report, clock, options, model=None):
    """What products without split sums and attention without atomics cost, alone and in all kernels of a step; GPT-2 124M."""
    from kernel_classes import ATTENTION, CLASSES, PRODUCTS, time_class
    from plugin import Plugin, PluginError

    model = model or model_of(TRAININGS[0])

    def seconds_of(label, reproducible):
        plugin = Plugin(options.plugin, reproducible=reproducible)
        try:
            return time_class(plugin, model, label)[0]
        finally:
            plugin.close()

    any_order = fixed = 0.0
    for label in CLASSES:
        has_choice = label in (PRODUCTS, ATTENTION)
        if clock.left() < 30:
            report.add("bench", "reproducible step", "skipped", "no time left")
            return
        try:
            free = seconds_of(label, False)
            ours = seconds_of(label, True) if has_choice else free
        except PluginError as failure:
            report.add("bench", "reproducible step", "FAILED", f"{label}: {failure}")
            return
        any_order, fixed = any_order + free, fixed + ours
        if has_choice:
            report.add("bench", f"reproducible {label}", "ok", f"{ours / free:.3f} x the time of any order", ratio=ours / free)
    report.add("bench", "reproducible step", "ok", f"all its kernels {fixed / any_order:.3f} x the time of any order: {1e3 * fixed:.2f} of "
               f"{1e3 * any_order:.2f} ms; runs have no other choice", ratio=fixed / any_order, seconds=fixed, any_order_seconds=any_order)


def check_models(report, clock, options, peaks, trainings):
    """Of each model the training steps, and beside them its kernels."""
    parts = options.parts or PARTS
    for training in trainings:
        step = check_training(report, clock, options, peaks.get("flop"), (training,)) if "training" in parts else None
        if "kernels" in parts and peaks:
            check_classes(report, clock, options, training[0], model_of(training), peaks, step)


def check_bench(report, clock, options):
    """The parts asked for. With all of them the overhead gets a third of the time, and larger models what is left."""
    parts = options.parts or PARTS
    peaks = {}
    try:
        import numpy  # noqa: F401
    except ImportError as missing:
        report.add("bench", "kernels", "skipped", str(missing))
        parts = [part for part in parts if part not in ("kernels", "reproducible")]
    if "kernels" in parts:
        peaks = check_peaks(report, clock, options)
    check_models(report, clock, options, peaks, TRAININGS[:1])
    if "scaling" in parts and (options.ranks > 1 or options.parts):
        check_scaling(report, clock, options)
    if "reproducible" in parts:
        check_reproducible(report, clock, options)
    if "overhead" in parts:
        check_overhead(report, clock if list(parts) == ["overhead"] else Clock(min(clock.left(), 170)), options)
    check_models(report, clock, options, peaks, TRAININGS[1:])

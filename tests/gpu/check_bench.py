"""Stage bench of tools/gpu_check, in parts: kernels and what reproducible algorithms cost; the others are check_training.py
and check_overhead.py."""

import time

from check_overhead import check_overhead
from check_report import Clock
from check_training import TRAININGS, check_training

PARTS = ("kernels", "training", "overhead", "reproducible")


def timed(plugin, call, repeats):
    """Median seconds of a call, the queue drained before and after."""
    call()
    plugin.call("synchronize")
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        plugin.call("synchronize")
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def attention_of_124m(plugin, random, batch):
    """Fields of a call of attention, forward already run. `random(rows, columns)` is BF16 on the device."""
    from plugin import BF16, F32

    length, heads, d = 1024, 12, 64
    ld, ld_out = 3 * heads * d, heads * d
    qkv, dqkv = random(batch * length, ld), plugin.poisoned((batch * length, ld), BF16)
    out, dout = plugin.poisoned((batch * length, ld_out), BF16), random(batch * length, ld_out)
    fields = dict(type=BF16, batch=batch, length=length, heads=heads, kv_heads=heads, head_dim=d, ld=ld, ld_out=ld_out, scale=d**-0.5, q=qkv,
                  k=qkv.at(ld_out), v=qkv.at(2 * ld_out), out=out, log_sum=plugin.poisoned((batch, heads, length), F32), dout=dout, dq=dqkv,
                  dk=dqkv.at(ld_out), dv=dqkv.at(2 * ld_out))
    plugin.run("run_attention", "attention", **fields)
    return fields


class Kernels:
    """Each method makes a kernel's inputs: (work of a call, its unit, the call)."""

    def __init__(self, plugin):
        import numpy

        self.plugin, self.rng = plugin, numpy.random.default_rng()

    def random(self, *shape, dtype=None):
        import numpy

        from plugin import BF16

        return self.plugin.array(self.rng.standard_normal(shape, dtype=numpy.float32), BF16 if dtype is None else dtype)

    def products(self):
        from plugin import BF16

        n = 8192
        a, b, d = self.random(n, n), self.random(n, n), self.plugin.poisoned((n, n), BF16)
        return 2.0 * n**3, "flop", lambda: self.plugin.run("run_matmul", "matmul", type=BF16, out_type=BF16, transpose_b=1, m=n, n=n, k=n,
                                                           lda=n, ldb=n, ldd=n, a=a, b=b, d=d)

    def attention(self, backward):
        batch, length, heads, d = 16, 1024, 12, 64
        fields = attention_of_124m(self.plugin, self.random, batch)
        flop = 2.0 * batch * heads * length**2 * d * (5 if backward else 2) / 2  # half is masked
        return flop, "flop", lambda: self.plugin.run("run_attention_backward" if backward else "run_attention", "attention", **fields)

    def norm(self):
        from plugin import BF16, F32

        rows, n = 65536, 768
        x, y = self.random(rows, n), self.plugin.poisoned((rows, n), BF16)
        weight, mean, rstd = (self.plugin.poisoned((k,), F32) for k in (n, rows, rows))
        return 2.0 * rows * n * 2, "byte", lambda: self.plugin.run("run_norm", "norm", type=BF16, epsilon=1e-5, rows=rows, n=n, group=1,
                                                                   x_outer=n, y_outer=n, x=x, weight=weight, mean=mean, rstd=rstd, y=y)

    def adamw(self):
        from plugin import BF16, F32

        count = 1 << 27
        w, g, m, v = (self.random(count, dtype=F32) for _ in range(4))
        copy = self.plugin.poisoned((count,), BF16)
        row = {"count": count, "values": w, "gradient": g, "m": m, "v": v, "copy": copy, "decays": 1}
        return 30.0 * count, "byte", lambda: self.plugin.adamw([row], gradient_scale=1, beta1=0.9, beta2=0.95, epsilon=1e-8, step_size=1e-4,
                                                               inverse_sqrt_bias2=1, decay=1e-5)

    def copies(self):
        from plugin import F32

        count = 1 << 29
        a, b = self.plugin.poisoned((count,), F32), self.plugin.poisoned((count,), F32)
        return 8.0 * count, "byte", lambda: self.plugin.call("copy", b.address, a.address, 4 * count)


def check_kernels(report, clock, options):
    """Rates of single kernels; returns that of the 8192^3 product, or None."""
    from plugin import Plugin

    plugin = Plugin(options.plugin)
    kernels, peak = Kernels(plugin), None
    for name, make in (("matmul 8192^3 bf16", kernels.products), ("copy 2 GiB", kernels.copies),
                       ("attention forward 124M", lambda: kernels.attention(False)),
                       ("attention backward 124M", lambda: kernels.attention(True)), ("norm 65536 x 768", kernels.norm),
                       ("adamw 134M", kernels.adamw)):
        if clock.left() < 20:
            report.add("bench", name, "skipped", "no time left")
            continue
        work, unit, call = make()
        seconds = timed(plugin, call, 20)
        rate = work / seconds
        report.add("bench", name, "ok", f"{seconds * 1e3:.3f} ms, {rate / 1e12:.2f} T{unit}/s", seconds=seconds, rate=rate, unit=unit)
        if make == kernels.products:
            peak = rate
        plugin.release()
    plugin.close()
    return peak


def check_reproducible(report, clock, options):
    """What products without split sums and attention without atomics cost, on shapes of GPT-2 124M."""
    from plugin import BF16, F32, Plugin

    def seconds_of(reproducible, attention):
        plugin = Plugin(options.plugin, reproducible=reproducible)
        random = Kernels(plugin).random
        if attention:
            fields = attention_of_124m(plugin, random, 4)
            seconds = timed(plugin, lambda: plugin.run("run_attention_backward", "attention", **fields), 20)
        else:
            tokens, out, n = 65536, 3072, 768
            dy, x, dw = random(tokens, out), random(tokens, n), plugin.poisoned((out, n), F32)
            seconds = timed(plugin, lambda: plugin.run("run_matmul", "matmul", type=BF16, out_type=F32, transpose_a=1, m=out, n=n, k=tokens,
                                                       lda=out, ldb=n, ldd=n, a=dy, b=x, d=dw), 20)
        plugin.close()
        return seconds

    for name, attention in (("weight gradient", False), ("attention backward", True)):
        if clock.left() < 20:
            report.add("bench", f"reproducible {name}", "skipped", "no time left")
            continue
        any_order, fixed = seconds_of(False, attention), seconds_of(True, attention)
        report.add("bench", f"reproducible {name}", "ok", f"{fixed / any_order:.2f} x the time of any order", ratio=fixed / any_order)


def check_bench(report, clock, options):
    """The parts asked for. With all of them the overhead gets a third of the time, and larger models what is left."""
    parts = options.parts or PARTS
    try:
        import numpy  # noqa: F401
    except ImportError as missing:
        report.add("bench", "kernels", "skipped", str(missing))
        parts = [part for part in parts if part in ("training", "overhead")]
    peak = check_kernels(report, clock, options) if "kernels" in parts else None
    if "training" in parts:
        check_training(report, clock, options, peak, TRAININGS[:1])
    if "reproducible" in parts:
        check_reproducible(report, clock, options)
    if "overhead" in parts:
        check_overhead(report, clock if list(parts) == ["overhead"] else Clock(min(clock.left(), 170)), options)
    if "training" in parts:
        check_training(report, clock, options, peak, TRAININGS[1:])

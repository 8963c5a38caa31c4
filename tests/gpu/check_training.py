"""Part training of the bench stage of tools/gpu_check: whole runs on one GPU, their MFU beside PyTorch's steps of the same
shapes, and the device memory they held beside the plan."""

import json
import pathlib
import sys
import tempfile
import threading

from check_report import GPU_TESTS, last_line, run
from training_runs import column_of, held_bytes, planned_bytes, text_patterns

# Name, lines of [model], (layers, width, heads, kv_heads, ffn) of it, sequence, microbatch, MFU that it must reach.
TRAININGS = (
    ("GPT-2 124M", 'card = "gpt2-124m"', (12, 768, 12, 12, 3072), 1024, 64, 0.40),
    ("GPT-2 774M", 'card = "gpt2-774m"', (36, 1280, 20, 20, 5120), 1024, 16, 0.45),
    ("GPT-2 1.5B", 'card = "gpt2-1.5b"', (48, 1600, 25, 25, 6400), 1024, 8, 0.48),
    ("LLaMA-1B", 'layers = 22\nwidth = 2048\nheads = 32\nkv_heads = 4\nffn_width = 5632\nnorm = "rms_norm"\npositions = "rope"\n'
     'activation = "swiglu"\nbiases = false\ntied_output = false', (22, 2048, 32, 4, 5632), 2048, 8, 0.46),
)
VOCABULARY = 50304  # rows of the output, GPT-2's padded
H100_FLOPS = 989e12  # dense BF16, of the H200 too
MEMORY_MARGIN = 1.05  # of what was planned


def matmul_parameters(llama, layers, width, heads, kv_heads, ffn):
    """Parameters of matrix products, the output head's too."""
    attention = 2 * width * width + 2 * width * kv_heads * (width // heads)
    return layers * (attention + (3 if llama else 2) * width * ffn) + VOCABULARY * width


def model_of(training):
    """Of an entry of TRAININGS, for kernel_classes.py."""
    from kernel_classes import Model

    name, _, sizes, length, batch, _ = training
    return Model(name.startswith("LLaMA"), *sizes, VOCABULARY, length, batch)


def training_recipe(model, length, batch, steps=24, interval=24, device="cuda", layout=""):
    """A run in BF16, of one worker without lines of [layout]; `interval`: steps between checkpoints, 0 none but the last."""
    return (f'[data]\ntext = {json.dumps(text_patterns())}\n[model]\n{model}\npadded_vocabulary_size = {VOCABULARY}\n{layout}'
            f'[train]\nsteps = {steps}\nsequence_length = {length}\nglobal_batch_size = {batch}\nmicrobatch_size = {batch}\n'
            f'eval_interval = 0\ndevice = "{device}"\nprecision = "bf16"\n[optimizer]\nwarmup_steps = 1\n'
            f'[checkpoint]\ninterval = {interval}\n[dashboard]\nenabled = false\n[generate]\ntokens = 0\n')


class DeviceUse(threading.Thread):
    """The most device memory in use beyond what was when it began, whoever uses it: libraries and CUDA's contexts too."""

    def __init__(self, plugin_path):
        super().__init__(daemon=True)
        from plugin import Plugin

        self.plugin, self.over = Plugin(plugin_path), threading.Event()
        self.before = self.most = self.used()
        self.start()

    def used(self):
        import ctypes

        free, total = ctypes.c_uint64(), ctypes.c_uint64()
        self.plugin.call("memory_info", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value

    def run(self):
        while not self.over.wait(0.02):
            self.most = max(self.most, self.used())

    def finish(self):
        self.over.set()
        self.join()
        self.plugin.close()
        return self.most - self.before


def check_memory(report, name, planned, held, in_use):
    """What a worker held of the device against the plan printed before the first step; `in_use` by everybody, or None."""
    if planned is None or held is None:
        report.add("bench", name, "FAILED", "the run printed no plan" if planned is None else "the worker's log names no bytes held")
        return
    figures = dict(planned_bytes=planned, held_bytes=held, ratio=held / planned)
    words = f"held {held / 1e9:.3f} GB, {held / planned:.3f} of the plan (must at most {MEMORY_MARGIN})"
    if in_use is not None:
        figures["in_use_bytes"] = in_use
        words += f"; {(in_use - held) / 1e9:.2f} GB more for contexts and libraries"
    report.add("bench", name, "ok" if held <= MEMORY_MARGIN * planned else "FAILED", words, **figures)


def train_once(report, clock, options, name, recipe_text):
    """Median tokens a second of the second half of a run, or None and why; its memory is reported."""
    use = None
    try:
        use = DeviceUse(options.plugin)
    except (ImportError, OSError, RuntimeError):
        pass  # the figure is only told
    with tempfile.TemporaryDirectory() as folder:
        file, run_dir = pathlib.Path(folder) / "bench.toml", pathlib.Path(folder) / "run"
        file.write_text(recipe_text, encoding="utf-8")
        status, text = run([options.tenax, "train", file, "--run-dir", run_dir], clock.left())
        in_use = use.finish() if use else None
        if status != 0:
            return None, last_line(text)
        check_memory(report, f"memory {name}", planned_bytes(text), held_bytes(run_dir), in_use)
        rates = column_of(options.tenax, run_dir, "tokens_per_second")
    rates = sorted(rates[len(rates) // 2:])
    return (rates[len(rates) // 2], "") if rates else (None, "the run has no metrics")


def torch_rates(clock, llama, sizes, length, batch, rate):
    """(tokens a second by mode, words) of PyTorch's steps of the same shapes."""
    figures, words = {}, ""
    for mode in ("eager", "compile"):
        status, text = run([sys.executable, GPU_TESTS / "torch_steps.py", "llama" if llama else "gpt2", *sizes, VOCABULARY, length, batch,
                            mode, "cuda", 16], max(10, clock.left()))
        if status == 0:
            figures[mode] = 1e3 * batch * length / float(text.split()[-1])
            words += f", {rate / figures[mode]:.2f} x PyTorch {mode}"
        else:
            words += f", PyTorch {mode}: {last_line(text, 60)}"
    return figures, words


def check_training(report, clock, options, peak, trainings=TRAININGS):
    """`peak`: flops a second of the product measured in this run, or None. Returns the last model's seconds a step, or None."""
    if not options.tenax.exists():
        report.add("bench", "training steps", "skipped", f"{options.tenax} is not built")
        return None
    for name, model, sizes, length, batch, must in trainings:
        step = None
        if clock.left() < 90:
            report.add("bench", name, "skipped", "no time left")
            report.add("bench", f"memory {name}", "skipped", "no time left")
            continue
        rate, problem = train_once(report, clock, options, name, training_recipe(model, length, batch))
        if rate is None:
            report.add("bench", name, "FAILED", problem)
            continue
        step = batch * length / rate
        llama = name.startswith("LLaMA")
        layers, width = sizes[:2]
        flops = (6 * matmul_parameters(llama, *sizes) + 12 * layers * length * width) * rate
        figures = dict(tokens_per_second=rate, mfu=flops / H100_FLOPS)
        words = f"{rate:.0f} tokens/s, MFU {100 * figures['mfu']:.1f} % (must {100 * must:.0f})"
        if peak:
            figures["share_of_product"] = flops / peak
            words += f", {100 * flops / peak:.0f} % of the 8192^3 product"
        of_torch, torch_words = torch_rates(clock, llama, sizes, length, batch, rate)
        report.add("bench", name, "ok" if figures["mfu"] >= must else "below", words + torch_words, **figures, **of_torch)
    return step

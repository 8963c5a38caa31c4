"""Stage engine of tools/gpu_check: short runs of `tenax train` on the GPU, against the CPU and against each other."""

import concurrent.futures
import json
import pathlib
import tempfile
import time

from check_report import ROOT, last_line, run
from training_runs import RunKiller, card_recipe, copied_text, hash_of, losses_of, recipe

FIRST_STEPS = 20  # within 1e-4; later steps are held against two orders of the CPU's sums
IN_PARTS = ["layout.data_parallel=1", "layout.tensor_parallel=2", 'data.packing="documents"', "train.dropout_embedding=0.1",
            "train.dropout_attention=0.1", "train.dropout_residual=0.1", 'train.recompute="selective"']
# Four workers, over the staged collectives where they share a GPU: the weights of one (T2). Of each: killed or not (T1).
LAYOUTS = (("2 x 2", ["layout.data_parallel=2", "layout.pipeline_parallel=2"], False),
           ("2 x 2, a worker killed", ["layout.data_parallel=2", "layout.pipeline_parallel=2"], True),
           ("1 x 2, two virtual stages", ["layout.data_parallel=1", "layout.pipeline_parallel=2", "layout.virtual_stages=2"], False),
           ("4 x 1 with ZeRO", ["layout.data_parallel=4", "layout.pipeline_parallel=1", "layout.zero=1"], False),
           ("2 x 2, two virtual stages, recomputed", ["layout.data_parallel=2", "layout.pipeline_parallel=2", "layout.virtual_stages=2",
                                                      'train.recompute="full"'], False),
           ("1 x 4", ["layout.data_parallel=1", "layout.pipeline_parallel=4"], False))
CARD_STEPS = 8
# Of each card: device and number of stages. Two stages have the weights of one (T2).
CARD_RUNS = {"cpu": ("cpu", 1), "gpu": ("cuda", 1), "gpu, two stages": ("cuda", 2)}


def tiny_cards():
    return sorted(path.stem for path in (ROOT / "configs" / "models").glob("*-tiny*.toml"))


def largest_difference(losses, expected, begin=0, end=None):
    """Of losses relative to `expected`, over steps begin+1 to end; 1 where the curves differ in length or are empty."""
    if not expected or len(losses) != len(expected):
        return 1.0
    return max((abs(a - b) / abs(b) for a, b in list(zip(losses, expected))[begin:end]), default=0.0)


class EngineRuns:
    """A stage's runs by name, in one temporary folder."""

    def __init__(self, folder, report, clock, options, stage="engine"):
        self.folder, self.report, self.clock, self.options, self.stage = pathlib.Path(folder), report, clock, options, stage
        self.text = copied_text(self.folder / "text")
        self.first = [f"data.text={json.dumps([self.text])}", *options.settings, f"layout.data_parallel={options.ranks}",
                      "layout.pipeline_parallel=1"]
        self.longest = 0.0  # seconds of a run so far

    def train(self, name, device, settings=(), kill=None):
        """Whether the run ended well; what went wrong is reported. kill: "worker", or "run" (all of it, then resumed)."""
        path, tenax = self.folder / name, self.options.tenax
        command = [tenax, *recipe(path, device, self.options.steps, [*self.first, *settings])]
        begin = time.monotonic()
        killer = RunKiller(tenax, path, max(2, self.options.steps // 5), everything=kill == "run") if kill else None
        status, text = run(command, self.clock.left())
        if killer and not killer.finish():
            why = "it ended before anything could be killed" if status == 0 else f"nothing was killed: {last_line(text)}"
            self.report.add(self.stage, name, "FAILED", why)
            return False
        if kill == "run":
            status, text = run([tenax, "train", "--resume", "--run-dir", path], self.clock.left())
        if status != 0:
            self.report.add(self.stage, name, "FAILED", last_line(text))
        self.longest = max(self.longest, time.monotonic() - begin)
        return status == 0

    def check_card(self, card):
        """A card's runs beside each other: the GPU's losses against the CPU's, two stages against one."""
        folder, begin = self.folder / card, time.monotonic()
        folder.mkdir()
        commands = {}
        for name, (device, stages) in CARD_RUNS.items():
            file = folder / f"{name}.toml"
            file.write_text(card_recipe(card, device, stages, CARD_STEPS, self.text), encoding="utf-8")
            commands[name] = [self.options.tenax, "train", file, "--run-dir", folder / name]
        with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
            ended = dict(zip(commands, pool.map(lambda command: run(command, self.clock.left()), commands.values())))
        self.longest = max(self.longest, time.monotonic() - begin)
        for name, (status, text) in ended.items():
            if status != 0:
                self.report.add(self.stage, f"{card}: {name}", "FAILED", last_line(text))
                return
        self.check_curve(f"{card} against the CPU", f"{card}/gpu", f"{card}/cpu")
        self.check_hash(f"{card}/gpu, two stages", f"{card}/gpu")

    def losses(self, name):
        return losses_of(self.options.tenax, self.folder / name)

    def check_curve(self, item, on_gpu, on_cpu):
        gpu, cpu = self.losses(on_gpu), self.losses(on_cpu)
        worst = largest_difference(gpu, cpu, end=FIRST_STEPS)
        self.report.add(self.stage, item, "ok" if worst < 1e-4 else "FAILED",
                        f"largest relative difference {worst:.1e} over {min(len(cpu), FIRST_STEPS)} steps", difference=worst)

    def check_late_curve(self):
        """Behind the first steps rounding grows; another order of the CPU's own sums says how fast."""
        gpu, cpu, other = (self.losses(name) for name in ("gpu", "cpu", "cpu, another order"))
        worst = largest_difference(gpu, cpu, FIRST_STEPS)
        gap = max(1e-4, largest_difference(other, cpu, FIRST_STEPS))
        good = worst <= 2 * gap and len(other) == len(cpu)
        self.report.add(self.stage, "float32 curve behind them", "ok" if good else "FAILED",
                        f"largest relative difference {worst:.1e}, of two orders on the CPU {gap:.1e}", difference=worst, orders=gap)

    def check_hash(self, name, expected="gpu"):
        """That run `name` has the weights and moments of run `expected`."""
        found = hash_of(self.options.tenax, self.folder / name)
        equal = found is not None and found == hash_of(self.options.tenax, self.folder / expected)
        self.report.add(self.stage, f"{name}: equal hash", "ok" if equal else "FAILED", "weights, m and v")

    def has_time(self, name, runs=1):
        """For as many runs as long as the longest so far."""
        if self.clock.left() >= max(20, 1.3 * runs * self.longest):
            return True
        self.report.add(self.stage, name, "skipped", "no time left")
        return False


def check_engine(report, clock, options):
    if not options.tenax.exists():
        report.add("engine", "all runs", "skipped", f"{options.tenax} is not built")
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = EngineRuns(folder, report, clock, options)
        if not runs.train("gpu", "cuda"):
            return
        if runs.has_time("cpu") and runs.train("cpu", "cpu"):
            runs.check_curve("float32 curve against the CPU", "gpu", "cpu")
        if runs.has_time("killed", 2) and runs.train("killed", "cuda", kill="run"):
            runs.check_hash("killed")
        for name, settings, kill in LAYOUTS[:2]:
            if runs.has_time(name, 2 if kill else 1) and runs.train(name, "cuda", settings, kill="worker" if kill else None):
                runs.check_hash(name)
        for card in tiny_cards():
            if runs.has_time(f"{card} against the CPU"):
                runs.check_card(card)
        for name, settings, _ in LAYOUTS[2:]:
            if runs.has_time(name) and runs.train(name, "cuda", settings):
                runs.check_hash(name)
        # Two ranks that share the matrices, dropout, packed documents and selective recomputation.
        if runs.has_time("in parts", 2) and runs.train("gpu in parts", "cuda", IN_PARTS) and runs.train("cpu in parts", "cpu", IN_PARTS):
            runs.check_curve("in parts: float32 curve against the CPU", "gpu in parts", "cpu in parts")
        if runs.has_time("again") and runs.train("again", "cuda"):
            runs.check_hash("again")
        # A microbatch of half the size: the same samples, their gradients added in another order.
        if options.steps > FIRST_STEPS and runs.has_time("float32 curve behind them") and \
                runs.train("cpu, another order", "cpu", ["train.microbatch_size=2"]):
            runs.check_late_curve()

"""Stage engine of tools/gpu_check: short runs of `tenax train` on the GPU, against the CPU and against each other."""

import pathlib
import tempfile

from check_report import last_line, run
from training_runs import RunKiller, hash_of, losses_of, recipe

FIRST_STEPS = 20  # within 1e-4; later steps are held against two orders of the CPU's sums
IN_PARTS = ["layout.data_parallel=1", "layout.tensor_parallel=2", 'data.packing="documents"', "train.dropout_embedding=0.1",
            "train.dropout_attention=0.1", "train.dropout_residual=0.1", 'train.recompute="selective"']
# Four workers, over the staged collectives where they share a GPU: the weights of one (T2). Of each: killed or not (T1).
LAYOUTS = (("2 x 2", ["layout.data_parallel=2", "layout.pipeline_parallel=2"], False),
           ("2 x 2, a worker killed", ["layout.data_parallel=2", "layout.pipeline_parallel=2"], True),
           ("4 x 1 with ZeRO", ["layout.data_parallel=4", "layout.pipeline_parallel=1", "layout.zero=1"], False),
           ("1 x 4", ["layout.data_parallel=1", "layout.pipeline_parallel=4"], False))


def largest_difference(losses, expected, begin=0, end=None):
    """Of losses relative to `expected`, over steps begin+1 to end; 1 where the curves differ in length or are empty."""
    if not expected or len(losses) != len(expected):
        return 1.0
    return max((abs(a - b) / abs(b) for a, b in list(zip(losses, expected))[begin:end]), default=0.0)


class EngineRuns:
    """A stage's runs by name, in one temporary folder."""

    def __init__(self, folder, report, clock, options, stage="engine"):
        self.folder, self.report, self.clock, self.options, self.stage = pathlib.Path(folder), report, clock, options, stage
        self.layout = [f"layout.data_parallel={options.ranks}", "layout.pipeline_parallel=1"]

    def train(self, name, device, settings=(), kill=None):
        """Whether the run ended well; what went wrong is reported. kill: "worker", or "run" (all of it, then resumed)."""
        path, tenax = self.folder / name, self.options.tenax
        command = [tenax, *recipe(path, device, self.options.steps, [*self.options.settings, *self.layout, *settings])]
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
        return status == 0

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

    def check_hash(self, name):
        """That run `name` has the weights and moments of run "gpu"."""
        found = hash_of(self.options.tenax, self.folder / name)
        equal = found is not None and found == hash_of(self.options.tenax, self.folder / "gpu")
        self.report.add(self.stage, f"{name}: equal hash", "ok" if equal else "FAILED", "weights, m and v")

    def has_time(self, name, seconds):
        if self.clock.left() >= seconds:
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
        if runs.has_time("cpu", 60) and runs.train("cpu", "cpu"):
            runs.check_curve("float32 curve against the CPU", "gpu", "cpu")
        for name, kill in (("again", None), ("killed", "run")):
            if runs.has_time(name, 60) and runs.train(name, "cuda", kill=kill):
                runs.check_hash(name)
        for name, settings, kill in LAYOUTS:
            if runs.has_time(name, 60) and runs.train(name, "cuda", settings, kill="worker" if kill else None):
                runs.check_hash(name)
        # Two ranks that share the matrices, dropout, packed documents and selective recomputation.
        if runs.has_time("in parts", 90) and runs.train("gpu in parts", "cuda", IN_PARTS) and runs.train("cpu in parts", "cpu", IN_PARTS):
            runs.check_curve("in parts: float32 curve against the CPU", "gpu in parts", "cpu in parts")
        # A microbatch of half the size: the same samples, their gradients added in another order.
        if options.steps > FIRST_STEPS and runs.has_time("float32 curve behind them", 60) and \
                runs.train("cpu, another order", "cpu", ["train.microbatch_size=2"]):
            runs.check_late_curve()

"""Part overhead of the bench stage of tools/gpu_check: the same training by the bare loop of one process, under the
supervisor, and with snapshots, in turns.

Steps are counted from the end of step FIRST, when algorithms are chosen and clocks have risen, to the end of the last: two
snapshots in STEPS - FIRST steps. The bare loop is bench/supervision_bench, which takes the algorithms that the supervised
run chose.
"""

import os
import pathlib
import shutil
import tempfile
import time

from check_report import ROOT, last_line, median, run
from check_training import TRAININGS, training_recipe
from training_runs import journal_of, snapshot_stalls, step_times, steps_per_second

FIRST, STEPS, INTERVAL, ROUNDS = 10, 110, 50, 5
MUST = 0.99
SUPERVISED = "supervised / bare"
SNAPSHOTS = f"snapshot every {INTERVAL} steps / none"


def find_bare(tenax):
    """The program with the bare loop, beside the build's `tenax` or in a bundle; None where there is none."""
    candidates = (tenax.parent / "bench" / "supervision_bench", ROOT / "bin" / "supervision_bench")
    return next((c for c in candidates if c.exists()), None)


class Turns:
    """Runs of one recipe in a folder of their own; each returns steps a second. RuntimeError with what a run said last."""

    def __init__(self, folder, clock, options, recipe_of, first=FIRST):
        self.folder, self.clock, self.options, self.recipe_of, self.first = pathlib.Path(folder), clock, options, recipe_of, first
        self.bare_program = find_bare(options.tenax)
        self.stalls = []

    def run(self, command, **more):
        status, text = run(command, self.clock.left(), **more)
        if status != 0:
            raise RuntimeError(last_line(text))
        return text

    def supervised(self, interval=0):
        """Of a run of `tenax train`; with an interval its stalls are kept, without one the run, for bare()."""
        run_dir, recipe = self.folder / ("saving" if interval else "plain"), self.folder / "recipe.toml"
        shutil.rmtree(run_dir, ignore_errors=True)
        recipe.write_text(self.recipe_of(interval), encoding="utf-8")
        self.run([self.options.tenax, "train", recipe, "--run-dir", run_dir])
        journal = journal_of(self.options.tenax, run_dir)
        times = step_times(journal)
        if interval:
            self.stalls += snapshot_stalls(journal, self.first)
            shutil.rmtree(run_dir, ignore_errors=True)
        rate = steps_per_second(times, self.first)
        if rate <= 0:
            raise RuntimeError(f"its journal has no steps after step {self.first}")
        return rate

    def bare(self):
        """Of the newest supervised run's configuration, without supervisor and agent."""
        libraries = os.pathsep.join(filter(None, (str(ROOT / "lib"), os.environ.get("LD_LIBRARY_PATH"))))
        text = self.run([self.bare_program, "--bare", self.folder / "plain", self.first],
                        env={**os.environ, "LD_LIBRARY_PATH": libraries})
        return float(text.split()[0])

    def round(self, index, interval):
        """Steps a second by kind. The order turns, so that what rises or falls with time is nobody's."""
        rates = {}
        if index % 2:
            rates["saving"] = self.supervised(interval)
        rates["plain"] = self.supervised()
        if self.bare_program:
            rates["bare"] = self.bare()
        if not index % 2:
            rates["saving"] = self.supervised(interval)
        return rates


def gpt2_124m(interval):
    _, model, _, length, batch, _ = TRAININGS[0]
    return training_recipe(model, length, batch, steps=STEPS, interval=interval)


def add_ratio(report, name, ratios, words="", **figures):
    ratio = median(ratios)
    report.add("bench", name, "ok" if ratio >= MUST else "below",
               f"{ratio:.4f} ({min(ratios):.4f}-{max(ratios):.4f}, {len(ratios)} rounds; must {MUST}){words}", ratio=ratio, ratios=ratios,
               **figures)


def check_overhead(report, clock, options, recipe_of=gpt2_124m, interval=INTERVAL, first=FIRST, rounds=ROUNDS, least=60):
    """Median ratios of as many rounds as there is time for. `least`: seconds without which none is begun."""
    both = (SUPERVISED, SNAPSHOTS)
    missing = None if options.tenax.exists() else f"{options.tenax} is not built"
    if missing is None and clock.left() < least:
        missing = "no time left"
    if missing:
        for name in both:
            report.add("bench", name, "skipped", missing)
        return
    done, problem, longest = [], None, 0.0
    with tempfile.TemporaryDirectory() as folder:
        turns = Turns(folder, clock, options, recipe_of, first)
        while len(done) < rounds and clock.left() > 1.2 * longest:
            begin = time.monotonic()
            try:
                done.append(turns.round(len(done), interval))
            except RuntimeError as failure:
                problem = str(failure)
                break
            longest = max(longest, time.monotonic() - begin)
    if not done:
        late = clock.left() <= 0
        for name in both:
            report.add("bench", name, "skipped" if late else "FAILED", f"not a whole round: {problem}")
        return
    if turns.bare_program:
        add_ratio(report, SUPERVISED, [r["plain"] / r["bare"] for r in done], f", {median([r['plain'] for r in done]):.2f} steps/s")
    else:
        report.add("bench", SUPERVISED, "skipped", "bench/supervision_bench, which has the bare loop, is not built")
    stall = median(turns.stalls) if turns.stalls else None
    add_ratio(report, SNAPSHOTS, [r["saving"] / r["plain"] for r in done],
              "" if stall is None else f"; training waits {1e6 * stall:.0f} us for one", **({} if stall is None else {"stall_seconds": stall}))

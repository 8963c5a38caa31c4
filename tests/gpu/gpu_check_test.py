#!/usr/bin/env python3
"""Tests of tools/gpu_check without a GPU: what it reads from runs, and its stages over short runs.

Usage: gpu_check_test.py [Reading] [Runs]

Runs needs TENAX_PROGRAM (the program) and TENAX_CUDA_PLUGIN (the plugin over the emulated device); 77: they or numpy are
missing.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import types
import unittest

try:
    import numpy  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import check_bench
import check_engine
import check_faults
import check_overhead
import check_training
from check_report import Clock, Options, Report, last_line, median, run
from training_runs import (RunKiller, held_bytes, journal_of, losses_of, planned_bytes, processes_of, snapshot_stalls,
                           step_times, steps_per_second)

# An emulated device is slow: a small model, few and short samples.
SMALL = ("train.sequence_length=8", "train.global_batch_size=4", "train.microbatch_size=1", "model.width=32", "model.heads=2",
         "checkpoint.interval=2")


def report_of(check, *arguments, path=None, **options):
    """The items by name that check(report, ...) adds."""
    report = Report(path)
    with contextlib.redirect_stdout(io.StringIO()):
        check(report, *arguments, **options)
    return {item["name"]: item for item in report.items}


class Reading(unittest.TestCase):
    def test_steps_are_counted_from_the_end_of_one_to_the_end_of_the_last(self):
        times = {1: 100.0, 2: 107.0, 3: 107.5, 4: 108.0}
        self.assertEqual(steps_per_second(times, 2), 2.0)
        self.assertEqual(steps_per_second(times, 4), 0.0)
        self.assertEqual(steps_per_second({}, 2), 0.0)

    def test_a_stall_is_what_the_step_behind_a_snapshot_reports(self):
        def step(number, **more):
            return {"kind": "StepReported", "event": {"report": {"step": number, **more}}}

        journal = [step(6, snapshot_seconds=9.0), {"kind": "TimerFired"}, step(10), step(11, snapshot_seconds=0.25)]
        self.assertEqual(snapshot_stalls(journal, 6), [0.25])
        self.assertEqual(snapshot_stalls([], 6), [])

    def test_the_plan_is_read_where_the_program_prints_it(self):
        self.assertEqual(planned_bytes("run       x\nmemory    53.8 MB on a rank of stage 0 (weights 3.4)\n"), 53.8e6)
        self.assertIsNone(planned_bytes("tenax: no memory\n"))

    def test_of_several_workers_the_one_that_held_most_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            logs = pathlib.Path(folder) / "logs"
            logs.mkdir()
            self.assertIsNone(held_bytes(folder))
            (logs / "worker-0.0.log").write_text("info GPU 0 (X): held at most 700 bytes of device memory\n")
            (logs / "worker-0.1.log").write_text("GPU 0 (X): held at most 90 bytes of device memory\n"
                                                 "GPU 0 (X): held at most 800 bytes of device memory\n")
            self.assertEqual(held_bytes(folder), 800)

    def test_memory_may_be_a_twentieth_above_the_plan(self):
        def state(held):
            return report_of(check_training.check_memory, "m", 1e9, held, None)["m"]["state"]

        self.assertEqual([state(h) for h in (9e8, 1.05e9, 1.051e9, None)], ["ok", "ok", "FAILED", "FAILED"])
        told = report_of(check_training.check_memory, "m", 1e9, 9e8, 1.4e9)["m"]
        self.assertIn("0.50 GB more for contexts and libraries", told["text"])

    def test_a_ratio_is_the_median_and_below_its_goal_said_to_be(self):
        item = report_of(check_overhead.add_ratio, "r", [0.97, 1.0, 0.991])["r"]
        self.assertEqual((item["state"], item["ratio"]), ("ok", 0.991))
        self.assertEqual(report_of(check_overhead.add_ratio, "r", [0.97, 1.0, 0.989])["r"]["state"], "below")
        self.assertEqual(median([3, 1, 2, 10]), 2.5)

    def test_curves_of_other_lengths_are_not_compared(self):
        self.assertEqual(check_engine.largest_difference([1.0, 2.0], [1.0, 2.0]), 0.0)
        self.assertEqual(check_engine.largest_difference([1.0, 2.2, 9.0], [1.0, 2.0, 3.0], 1, 2), (2.2 - 2.0) / 2.0)
        self.assertEqual(check_engine.largest_difference([1.0], [1.0, 2.0]), 1.0)
        self.assertEqual(check_engine.largest_difference([], []), 1.0)

    def test_a_fault_is_in_the_journal_or_did_not_happen(self):
        def step(number, seconds):
            return {"kind": "StepReported", "text": "", "event": {"report": {"step": number, "seconds": seconds}}}

        quick = [step(1, 9.0), step(2, 0.1)]  # the first one chooses algorithms
        report = {"kind": "DeviceReported", "text": "", "event": {"trouble": 1}}
        self.assertEqual([check_faults.happened([*quick, report], kind) for kind in ("hang", "bad_store", "out_of_memory")],
                         [False, False, True])
        self.assertTrue(check_faults.happened([*quick, step(3, 20.1)], "hang"))
        self.assertTrue(check_faults.happened([{"kind": "TimerFired", "text": "no step was reported: the generation hangs"}], "hang"))

    def test_what_does_not_fit_is_named(self):
        options = Options(pathlib.Path("/nowhere"), pathlib.Path("/bin/true"))
        skipped = report_of(check_overhead.check_overhead, Clock(5), options)
        self.assertEqual([item["state"] for item in skipped.values()], ["skipped"] * 2)
        skipped = report_of(check_training.check_training, Clock(5), options, None)
        self.assertEqual({item["state"] for item in skipped.values()}, {"skipped"})
        self.assertEqual(len(skipped), 2 * len(check_training.TRAININGS))
        options.tenax = pathlib.Path("/nowhere")
        for check in (check_engine.check_engine, check_overhead.check_overhead):
            self.assertIn("is not built", list(report_of(check, Clock(5), options).values())[0]["text"])

    def test_a_bench_stage_in_parts_runs_only_these(self):
        called = []
        stand_ins = {name: (lambda *_, name=name: called.append(name)) for name in
                     ("check_kernels", "check_training", "check_overhead", "check_reproducible")}
        before = {name: getattr(check_bench, name) for name in stand_ins}
        try:
            vars(check_bench).update(stand_ins)
            for parts in (("overhead",), ()):
                check_bench.check_bench(None, Clock(5), types.SimpleNamespace(parts=parts))
        finally:
            vars(check_bench).update(before)
        self.assertEqual(called, ["check_overhead", "check_kernels", "check_training", "check_reproducible", "check_overhead", "check_training"])

    def test_results_are_written_as_soon_as_they_are_there(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            report_of(check_overhead.add_ratio, "r", [1.0], path=path)
            self.assertEqual(json.loads(path.read_text())[0]["name"], "r")

    def test_of_an_output_the_last_line_says_what_is_wrong(self):
        self.assertEqual(last_line("a\nb\n"), "b")
        self.assertEqual((last_line(None), last_line("\n")), ("out of time", "no output"))


class Runs(unittest.TestCase):
    def setUp(self):
        tenax, plugin = os.environ.get("TENAX_PROGRAM"), os.environ.get("TENAX_CUDA_PLUGIN")
        if not tenax or not plugin:
            print("skipped: TENAX_PROGRAM and TENAX_CUDA_PLUGIN do not name the program and the emulated device", flush=True)
            os._exit(77)
        self.options = Options(pathlib.Path(plugin), pathlib.Path(tenax), steps=6, settings=SMALL)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def recipe(self, device, steps):
        def of(interval):
            return check_training.training_recipe("width = 16\nlayers = 1\nheads = 1", 8, 2, steps, interval, device).replace(
                "padded_vocabulary_size = 50304\n", "")

        return of

    def test_the_engine_stage_passes(self):
        items = report_of(check_engine.check_engine, Clock(280), self.options)
        self.assertEqual({item["state"] for item in items.values()}, {"ok"}, items)
        self.assertEqual(len(items), 4 + len(check_engine.LAYOUTS))

    def test_the_faults_stage_passes(self):
        self.options.settings += ("faults.gpu_hang_seconds=2.0",)
        items = report_of(check_faults.check_faults, Clock(280), self.options)
        self.assertEqual({item["state"] for item in items.values()}, {"ok"}, items)
        self.assertEqual(len(items), len(check_faults.FAULTS) + len(check_faults.RUN_FAULTS))

    def test_a_run_that_ends_too_early_to_be_killed_fails(self):
        runs = check_engine.EngineRuns(self.folder, Report(None), Clock(60), self.options)
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertFalse(runs.train("wrong", "cpu", ["train.precision=fp99"], kill="worker"))
        self.assertIn("nothing was killed", runs.report.items[0]["text"])
        killer = RunKiller(self.options.tenax, self.folder / "nowhere")
        self.assertFalse(killer.finish())

    def test_late_steps_are_held_against_two_orders_of_the_cpu(self):
        self.options.steps = 24
        runs = check_engine.EngineRuns(self.folder, Report(None), Clock(120), self.options)
        with contextlib.redirect_stdout(io.StringIO()):
            for name, settings in (("gpu", []), ("cpu", []), ("cpu, another order", ["train.microbatch_size=2"])):
                self.assertTrue(runs.train(name, "cpu", settings), runs.report.items)
            runs.check_late_curve()
        self.assertEqual(runs.report.items[0]["state"], "ok")
        self.assertGreater(check_engine.largest_difference(runs.losses("cpu, another order"), runs.losses("cpu")), 0)
        self.assertEqual(len(step_times(journal_of(self.options.tenax, self.folder / "cpu"))), 24)
        self.assertEqual(processes_of(self.folder / "cpu", ("train", "agent", "worker")), [])

    def test_overhead_is_measured_in_turns(self):
        items = report_of(check_overhead.check_overhead, Clock(200), self.options, self.recipe("cpu", 24), 8, 4, 2)
        self.assertEqual(set(items), {check_overhead.SUPERVISED, check_overhead.SNAPSHOTS})
        snapshots = items[check_overhead.SNAPSHOTS]
        self.assertIn(snapshots["state"], ("ok", "below"), snapshots)
        self.assertEqual(len(snapshots["ratios"]), 2)
        self.assertIn("stall_seconds", snapshots)
        if check_overhead.find_bare(self.options.tenax):
            self.assertGreater(items[check_overhead.SUPERVISED].get("ratio", 0), 0, items)
        else:
            self.assertEqual(items[check_overhead.SUPERVISED]["state"], "skipped")

    def test_overhead_of_a_run_that_fails_is_said_to(self):
        items = report_of(check_overhead.check_overhead, Clock(200), self.options, lambda _: '[data]\ntext = ["/nowhere/*"]\n')
        self.assertEqual({item["state"] for item in items.values()}, {"FAILED"})
        self.assertIn("matches no file", items[check_overhead.SNAPSHOTS]["text"])

    def test_memory_of_a_run_is_held_against_its_plan(self):
        report = Report(None)
        with contextlib.redirect_stdout(io.StringIO()):
            rate, problem = check_training.train_once(report, Clock(100), self.options, "tiny", self.recipe("cuda", 3)(0))
        self.assertGreater(rate or 0, 0, problem)
        self.assertEqual([item["name"] for item in report.items], ["memory tiny"])
        self.assertEqual(report.items[0]["state"], "ok", report.items)
        self.assertGreater(report.items[0]["held_bytes"], 0)

    def test_losses_of_a_directory_without_a_run_are_none(self):
        self.assertEqual(losses_of(self.options.tenax, self.folder), [])
        self.assertNotEqual(run([self.options.tenax, "hash", self.folder], 20)[0], 0)


if __name__ == "__main__":
    unittest.main()

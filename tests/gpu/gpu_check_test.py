#!/usr/bin/env python3
"""Tests of tools/gpu_check without a GPU: what it reads from runs, and its stages over short runs.

Usage: gpu_check_test.py [Reading] [Runs]

Runs needs TENAX_PROGRAM (the program) and TENAX_CUDA_PLUGIN (the plugin over the emulated device); 77: they or numpy are
missing.
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import sys
import tempfile
import types
import unittest
import unittest.mock

try:
    import numpy  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import check_bench
import check_engine
import check_faults
import check_overhead
import check_scaling
import check_training
import kernel_classes
from check_report import ROOT, Clock, Options, Report, last_line, median, run
from plugin import PluginError
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


def gpu_check():
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(ROOT / "tools" / "gpu_check"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    return module


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
        called, answers = [], {"check_peaks": {"flop": 1.0}, "check_training": 2.0}
        stand_ins = {name: (lambda *_, name=name: called.append(name) or answers.get(name)) for name in
                     ("check_peaks", "check_classes", "check_training", "check_scaling", "check_overhead", "check_reproducible")}
        before = {name: getattr(check_bench, name) for name in stand_ins}

        def of(*parts, ranks=1):
            called.clear()
            check_bench.check_bench(None, Clock(5), types.SimpleNamespace(parts=parts, ranks=ranks))
            return [name.removeprefix("check_") for name in called]

        others = len(check_training.TRAININGS) - 1
        try:
            vars(check_bench).update(stand_ins)
            self.assertEqual(of("overhead"), ["overhead"])
            self.assertEqual(of("training"), ["training"] * (1 + others))
            self.assertEqual(of("kernels"), ["peaks"] + ["classes"] * (1 + others))
            self.assertEqual(of("scaling"), ["scaling"])
            whole = ["peaks", "training", "classes", "reproducible", "overhead"] + ["training", "classes"] * others
            self.assertEqual(of(), whole)
            self.assertEqual(of(ranks=2), whole[:3] + ["scaling"] + whole[3:])
        finally:
            vars(check_bench).update(before)

    def test_operations_and_engine_share_a_budget(self):
        program = gpu_check()
        arguments = types.SimpleNamespace(budget=None, stage=["bench", "ops", "engine"])
        quick = Clock(program.QUICK_BUDGET)
        self.assertAlmostEqual(program.clock_of("bench", arguments, quick).left(), program.BUDGET, delta=5)
        self.assertAlmostEqual(program.clock_of("ops", arguments, quick).left(), program.QUICK_BUDGET / 2, delta=5)
        self.assertIs(program.clock_of("engine", arguments, quick), quick)
        self.assertLessEqual(program.QUICK_BUDGET, 240)

    def test_parameters_of_a_model_are_counted(self):
        model = check_training.model_of(check_training.TRAININGS[0])
        self.assertEqual(model.num_parameters(), check_training.matmul_parameters(False, 12, 768, 12, 12, 3072) + 1024 * 768)
        self.assertEqual(model.head_rows, 5248)  # as compute/cuda_stage_memory.cc cuts it
        name, _, sizes, *_ = check_training.TRAININGS[3]
        llama = check_training.model_of(check_training.TRAININGS[3])
        self.assertTrue(name.startswith("LLaMA") and llama.llama)
        self.assertEqual(llama.num_parameters(), check_training.matmul_parameters(True, *sizes) + 50304 * 2048)

    def test_scaling_says_why_it_is_skipped(self):
        options = Options(pathlib.Path("/nowhere"), pathlib.Path("/bin/true"), ranks=4)
        skipped = report_of(check_scaling.check_scaling, Clock(5), options, found=1)
        self.assertIn("1 of 4 GPUs", skipped["scaling over GPUs"]["text"])
        options.ranks = 1
        self.assertIn("--ranks N", report_of(check_scaling.check_scaling, Clock(5), options, found=1)["scaling over GPUs"]["text"])
        self.assertEqual([why for *_, why in check_scaling.layouts_of((48, 1600, 25, 25, 6400), 2, 8)], ["", "heads 25 is not a multiple of 2"])
        self.assertEqual([samples for _, _, samples, _ in check_scaling.layouts_of((12, 768, 12, 12, 3072), 4, 64)], [256, 64])

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
            return self.small_recipe("width = 16\nlayers = 1\nheads = 1", 8, 2, steps, interval, device)

        return of

    @staticmethod
    def small_recipe(*arguments, **more):
        return check_training.training_recipe(*arguments, **more).replace("padded_vocabulary_size = 50304\n", "")

    def test_the_engine_stage_passes(self):
        self.assertEqual(len(check_engine.tiny_cards()), 9)
        with unittest.mock.patch.object(check_engine, "tiny_cards", lambda: ["bloom-tiny", "llama-tiny"]):
            items = report_of(check_engine.check_engine, Clock(500), self.options)
        self.assertEqual({item["state"] for item in items.values()}, {"ok"}, items)
        self.assertEqual(len(items), 4 + len(check_engine.LAYOUTS) + 2 * 2)

    def test_every_class_of_kernels_is_held_against_its_floor(self):
        peaks = report_of(check_bench.check_peaks, Clock(60), self.options, 32, 1 << 12)
        self.assertEqual([item["unit"] for item in peaks.values()], ["flop", "byte"])
        for llama in (False, True):
            model = kernel_classes.Model(llama, 1, 16, 2, 1 if llama else 2, 32, 40, 8, 2)
            items = report_of(check_bench.check_classes, Clock(60), self.options, "m", model, {"flop": 1e9, "byte": 1e9}, 1.0)
            self.assertEqual({item["state"] for item in items.values()}, {"ok"}, items)
            sums = items.pop("m: all kernels")
            self.assertEqual(list(items), [f"m: {label}" for label in kernel_classes.CLASSES])
            self.assertAlmostEqual(sum(item["floor_seconds"] for item in items.values()), sums["floor_seconds"])
            # Six flops a parameter and token, as MFU counts them; the embedding is no product, the tied one counts.
            matrices = model.num_parameters() - (40 if llama else 8) * 16
            self.assertAlmostEqual(items["m: products"]["floor_seconds"], 6 * matrices * 16 / 1e9)
        unmeasured = report_of(check_bench.check_classes, Clock(60), self.options, "m", model, {})
        self.assertEqual({item["state"] for item in unmeasured.values()}, {"skipped"})

    def test_a_class_that_fails_is_told_and_the_others_go_on(self):
        def timing(plugin, model, label):
            if label == kernel_classes.ATTENTION:
                raise PluginError(5, "no engine")
            return 1.0, 1e6

        with unittest.mock.patch.object(kernel_classes, "time_class", timing):
            items = report_of(check_bench.check_classes, Clock(60), self.options, "m", None, {"flop": 1e9, "byte": 1e9})
            step = report_of(check_bench.check_reproducible, Clock(60), self.options, "of GPT-2")
        self.assertEqual([label for label in kernel_classes.CLASSES if items[f"m: {label}"]["state"] == "FAILED"], [kernel_classes.ATTENTION])
        self.assertNotIn("m: all kernels", items)
        self.assertIn("no engine", step["reproducible step"]["text"])

    def test_the_cost_of_reproducible_kernels_is_told_for_a_step(self):
        items = report_of(check_bench.check_reproducible, Clock(60), self.options, kernel_classes.Model(False, 1, 16, 2, 2, 32, 40, 8, 2))
        self.assertEqual(list(items), ["reproducible products", "reproducible attention", "reproducible step"])
        self.assertGreater(items["reproducible step"]["ratio"], 0)

    def test_several_gpus_are_held_against_one(self):
        self.options.ranks = 2

        def of(*arguments, layout="", **more):
            return self.small_recipe(*arguments, steps=6, device="cpu", layout=layout, **more)

        # The stub of NCCL has ranks that are threads of one process.
        tiny = (("tiny", "width = 16\nlayers = 1\nheads = 2", (1, 16, 2, 2, 64), 8, 2, 0),)
        with unittest.mock.patch.object(check_scaling, "COLLECTIVE_BYTES", 1 << 14):
            items = report_of(check_scaling.check_scaling, Clock(120), self.options, tiny, found=2, recipe_of=of)
        for row in ("NCCL 2 GPUs: all_reduce", "NCCL 2 GPUs: exchange", "tiny, dp 2", "tiny, tp 2"):
            self.assertEqual(items[row]["state"], "ok", items)
        self.assertGreater(items["tiny, dp 2"]["scaling"], 0)
        self.assertGreater(items["NCCL 2 GPUs: exchange"]["bus_bandwidth"], 0)

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

#!/usr/bin/env python3
"""Shows that each lint rule finds its violation, at the right line, and lets its neighbours pass."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import arrows
import external_rules
import text_rules
from source_tree import all_files

LINT = pathlib.Path(__file__).with_name("lint.py")


class LintCase(unittest.TestCase):
    """A repository in a temporary folder; `found` lists what a check reports as (path, line, rule)."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))

    def found(self, check):
        return [(v.path, v.line, v.rule) for v in check(self.root, all_files(self.root))]


class ArrowsTest(LintCase):
    def allows(self, path, include):
        self.assertEqual(arrows.check_include(path, 7, include[0], include[1:-1]), [], (path, include))

    def refuses(self, path, include, rule):
        violations = arrows.check_include(path, 7, include[0], include[1:-1])
        self.assertEqual([v.rule for v in violations], [rule], (path, include))
        self.assertTrue(str(violations[0]).startswith(f"{path}:7: [{rule}] "))

    def test_middle_rooms_include_only_common_and_themselves(self):
        rooms = ("wire", "data", "compute", "checkpoint", "scheduler")
        for room in rooms:
            self.allows(f"{room}/a.cc", '"common/result.h"')
            self.allows(f"{room}/a.cc", f'"{room}/a.h"')
            self.allows("actors/a.cc", f'"{room}/a.h"')
            self.refuses("common/a.h", f'"{room}/a.h"', "room-arrow")
            for other in (*rooms, "actors", "configs", "tools"):
                if other != room:
                    self.refuses(f"{room}/sub/a.h", f'"{other}/a.h"', "room-arrow")

    def test_nothing_includes_the_programs_the_tests_or_the_benchmarks(self):
        for target in ("tools/train.h", "tests/fixture.h", "bench/timer.h"):
            self.refuses("actors/a.cc", f'"{target}"', "room-arrow")
        self.refuses("tools/a.cc", '"tests/fixture.h"', "room-arrow")
        self.allows("tests/unit/actors/a_test.cc", '"tests/fixture.h"')
        self.allows("tools/main.cc", '"configs/run_config.h"')

    def test_actors_read_the_configuration_and_it_knows_no_actor(self):
        self.allows("actors/supervisor.cc", '"configs/run_config.h"')
        self.refuses("configs/a.cc", '"actors/supervisor.h"', "room-arrow")
        self.refuses("configs/a.cc", '"actors/supervisor_options.h"', "room-arrow")

    def test_each_library_stays_in_its_rooms(self):
        folders = ("common", "data", "scheduler", "tools", "actors", "configs", "wire", "checkpoint")
        folders += ("compute", "compute/cpu", "compute/cuda")
        homes = {
            "<caf/all.hpp>": {"actors"},
            "<toml++/toml.h>": {"configs"},
            "<zmq.hpp>": {"wire"},
            "<zmq_addon.hpp>": {"wire"},
            "<zmq.h>": {"wire"},
            "<kj/array.h>": {"wire", "checkpoint"},
            "<capnp/message.h>": {"wire", "checkpoint"},
            "<rocksdb/db.h>": {"checkpoint"},
            "<gloo/context.h>": {"compute", "compute/cpu", "compute/cuda"},
            "<cuda_runtime.h>": {"compute/cuda"},
            "<nccl.h>": {"compute/cuda"},
            "<vector>": set(folders),
        }
        for include, allowed in homes.items():
            self.allows("tests/unit/x/a_test.cc", include)
            for folder in folders:
                if folder in allowed:
                    self.allows(f"{folder}/a.cc", include)
                else:
                    self.refuses(f"{folder}/a.cc", include, "library-room")

    def test_generated_schema_stays_in_its_room(self):
        self.allows("checkpoint/manifest.cc", '"checkpoint/manifest.capnp.h"')
        self.refuses("actors/a.cc", '"wire/protocol.capnp.h"', "schema-room")

    def test_quoted_includes_start_at_the_root(self):
        self.refuses("wire/a.cc", '"message.h"', "include-path")
        self.refuses("wire/a.cc", '"../common/result.h"', "include-path")

    def test_reads_lines_of_files(self):
        self.write("wire/a.h", '#pragma once\n\n#  include "data/sampler.h"\n// #include "data/b.h"\n')
        self.write("build/wire/a.h", '#include "data/sampler.h"\n')
        self.assertEqual(self.found(arrows.check), [("wire/a.h", 3, "room-arrow")])


class TextTest(LintCase):
    def test_finds_names_that_say_nothing(self):
        for path in ("common/utils.h", "data/string_util.cc", "wire/misc/a.h", "tools/helpers.sh", "actors/manager.h"):
            self.write(path, "")
        self.write("actors/process_manager.h", "")
        self.write("data/utility_function.h", "")
        self.assertEqual(
            [v[0] for v in self.found(text_rules.check)],
            ["actors/manager.h", "common/utils.h", "data/string_util.cc", "tools/helpers.sh", "wire/misc/a.h"],
        )

    def test_finds_managed_memory_and_settings_of_gpus(self):
        lines = [
            "cudaMalloc" "Managed(&p, n);",
            "cudaDevice" "Reset();",
            "nvmlDeviceSet" "PersistenceMode(d, 1);",
            "// nvidia-" "smi -i 0 -pm 1",
            "// nvidia-" "smi --gpu-reset",
        ]
        allowed = ["cudaMalloc(&p, n);", "nvmlDeviceGetTemperature(d, 0, &t);", "// nvidia-" "smi -q -d ECC"]
        self.write("compute/cuda/a.cu", "\n".join(lines + allowed) + "\n")
        self.assertEqual(
            self.found(text_rules.check), [("compute/cuda/a.cu", i, "gpu-settings") for i in range(1, len(lines) + 1)]
        )

    def test_finds_tabs_strange_letters_and_missing_newlines(self):
        self.write("data/a.cc", "int a;\n\tint b;\n")
        self.write("data/b.py", "# caf\u00e9\n")
        self.write("data/c.h", "int a;\nint b;")
        self.write("data/d.sh", b"true\r\n")
        self.write("docs/e.md", "caf\u00e9\tand a table\n")
        self.write("data/f.bin", b"\t\xff")
        self.assertEqual(
            self.found(text_rules.check),
            [
                ("data/a.cc", 2, "tab"),
                ("data/b.py", 1, "ascii"),
                ("data/c.h", 2, "newline"),
                ("data/d.sh", 1, "newline"),
            ],
        )

    def test_open_tasks_need_a_class_and_a_text(self):
        word = "TO" + "DO"
        lines = [f"// {word}: a", f"// {word}(perf): b", f"// {word}(me): c", f"// {word}(soon):", f"int {word}S;"]
        self.write("data/a.h", "\n".join(lines) + "\n")
        self.assertEqual([v[1] for v in self.found(text_rules.check)], [1, 3, 4])

    def test_file_macro_is_for_failed_checks_only(self):
        macro = "__FI" + "LE__"
        self.write("common/check.h", f"// {macro}\n")
        self.write("tests/unit/data/a_test.cc", f"int a;\nopen({macro});\n")
        self.assertEqual(self.found(text_rules.check), [("tests/unit/data/a_test.cc", 2, "file")])

    def test_sources_end_at_500_lines(self):
        self.write("data/a.cc", "int a;\n" * 500)
        self.write("data/b.cc", "int a;\n" * 501)
        self.write("docs/c.md", "text\n" * 501)
        self.assertEqual(self.found(text_rules.check), [("data/b.cc", 501, "length")])


    def test_links_of_pages_lead_to_files(self):
        self.write("docs/a.md", "[b](b.md#part) [home](../README.md)\n![c](images/c.svg) [w](https://example.org/x)\n")
        self.write("docs/b.md", "[here](#part)\n")
        self.write("README.md", "[a](docs/a.md), [d](docs/d.md)\n")
        self.assertEqual(self.found(text_rules.check), [("README.md", 1, "link"), ("docs/a.md", 2, "link")])


class ExternalTest(LintCase):
    def test_finds_shell_syntax_errors(self):
        self.write("tools/a.sh", "if true; then\n  true\nfi\n")
        self.write("check", "true\nif true; done\n")
        self.assertEqual(self.found(external_rules.check_shell), [("check", 2, "shell-syntax")])

    def test_finds_unformatted_code(self):
        try:
            external_rules.find_clang_format()
        except external_rules.Skipped as reason:
            self.skipTest(str(reason))
        self.write(".clang-format", "BasedOnStyle: Google\nColumnLimit: 100\n")
        self.write("data/a.cc", "int a;\nint  b;\n\n\n\nint c;\n")
        self.write("data/b.cc", "int a;\n")
        self.assertEqual(self.found(external_rules.check_format), [("data/a.cc", 2, "format")])


class CommandTest(LintCase):
    def test_exit_status_tells_whether_a_rule_is_broken(self):
        def run(*arguments):
            return subprocess.run([sys.executable, LINT, *arguments], capture_output=True, text=True)

        self.write("data/a.h", "int a;\n")
        self.assertEqual(run("arrows", self.root).returncode, 0)
        self.write("data/b.h", '#include "wire/a.h"\n')
        result = run("arrows", self.root)
        self.assertEqual(result.returncode, 1)
        self.assertIn("data/b.h:1: [room-arrow] ", result.stdout)
        self.assertEqual(run("nothing").returncode, 2)


if __name__ == "__main__":
    unittest.main()

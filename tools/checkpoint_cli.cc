#include "tools/checkpoint_cli.h"

#include <memory>

#include "tools/checkpoint_commands.h"
#include "tools/checkpoint_export.h"
#include "tools/checkpoint_import.h"

namespace tenax::tools {

namespace {

void add_show(CLI::App& checkpoint, int& exit_code) {
  const auto show = std::make_shared<ShowArguments>();
  CLI::App* app = checkpoint.add_subcommand("show", "What a checkpoint is made of");
  app->add_option("RUN", show->run_dir, "the run's directory")->required();
  app->add_option("--step", show->step, "of this step (default: the newest)");
  app->add_flag("--tensors", show->tensors, "list its tensors");
  app->add_flag("--json", show->json, "print JSON");
  app->callback([show, &exit_code] { exit_code = run_checkpoint_show(*show); });
}

void add_diff(CLI::App& checkpoint, int& exit_code) {
  const auto diff = std::make_shared<DiffArguments>();
  CLI::App* app = checkpoint.add_subcommand(
      "diff", "Compare two checkpoints, tensor by tensor; exit code 0: equal, 1: different");
  app->add_option("A", diff->first, "RUN:STEP, or RUN for its newest")->required();
  app->add_option("B", diff->second, "likewise, or a STEP of the same run")->required();
  app->add_flag("--all", diff->all, "list equal tensors too");
  app->add_flag("--json", diff->json, "print a JSON line a tensor");
  app->callback([diff, &exit_code] { exit_code = run_checkpoint_diff(*diff); });
}

void add_prune(CLI::App& checkpoint, int& exit_code) {
  const auto prune = std::make_shared<PruneArguments>();
  CLI::App* app = checkpoint.add_subcommand(
      "prune", "Delete old checkpoints of a run that is not running; verified ones stay");
  app->add_option("RUN", prune->run_dir, "the run's directory")->required();
  app->add_option("--keep-last", prune->keep_last, "the newest so many (default: as configured)")
      ->check(CLI::Range(1, 1 << 20));
  app->add_flag("--dry-run", prune->dry_run, "say what would be deleted");
  app->add_flag("--json", prune->json, "print a JSON line a checkpoint");
  app->callback([prune, &exit_code] { exit_code = run_checkpoint_prune(*prune); });
}

void add_export(CLI::App& checkpoint, int& exit_code) {
  const auto to = std::make_shared<ExportArguments>();
  CLI::App* app = checkpoint.add_subcommand(
      "export", "Write the weights as safetensors under the names of Hugging Face's transformers");
  app->add_option("RUN", to->run_dir, "the run's directory")->required();
  app->add_option("--step", to->step, "of this step (default: the newest)");
  app->add_option("--format", to->format, "safetensors");
  app->add_option("--out", to->out, "folder for the files")->required();
  app->add_option("--dtype", to->dtype, "f32, bf16 or f16");
  app->add_option("--max-shard-size", to->max_shard_size, "of one file: 2GB, 512MiB");
  app->add_flag("--json", to->json, "print JSON");
  app->callback([to, &exit_code] { exit_code = run_checkpoint_export(*to); });
}

void add_import(CLI::App& checkpoint, int& exit_code) {
  const auto from = std::make_shared<ImportArguments>();
  CLI::App* app = checkpoint.add_subcommand(
      "import", "Make a run that begins with the weights of safetensors files");
  app->add_option("--from", from->from, "a .safetensors file, or the folder of a model")
      ->required();
  app->add_option("--config", from->config, "the run recipe (configs/*.toml)")->required();
  app->add_option("--set", from->overrides, "change a key: --set train.steps=400")->take_all();
  app->add_option("--run-dir", from->run_dir, "where the run will live")->required();
  app->add_flag("--json", from->json, "print JSON");
  app->callback([from, &exit_code] { exit_code = run_checkpoint_import(*from); });
}

}  // namespace

void add_checkpoint_commands(CLI::App& checkpoint, int& exit_code) {
  add_show(checkpoint, exit_code);
  add_diff(checkpoint, exit_code);
  add_prune(checkpoint, exit_code);
  add_export(checkpoint, exit_code);
  add_import(checkpoint, exit_code);
}

}  // namespace tenax::tools

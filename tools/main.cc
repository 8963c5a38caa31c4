// tenax: pretrains transformer language models on machines that fail. One program; each subcommand
// builds its parts and calls them.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "actors/agent.h"
#include "actors/worker.h"
#include "scheduler/exit_code.h"
#include "tools/checkpoint_cli.h"
#include "tools/detect_command.h"
#include "tools/doctor_command.h"
#include "tools/eval_command.h"
#include "tools/inspect_commands.h"
#include "tools/journal_check.h"
#include "tools/model_command.h"
#include "tools/replay_command.h"
#include "tools/rollback_command.h"
#include "tools/spikes_command.h"
#include "tools/status_command.h"
#include "tools/tokenize_command.h"
#include "tools/trace_command.h"
#include "tools/train_command.h"
#include "tools/worker_commands.h"

namespace {

using tenax::tools::InspectArguments;

/// A subcommand of `app` whose first argument is a run directory.
CLI::App* run_command(CLI::App& app, const std::string& name, const std::string& help,
                      InspectArguments& arguments) {
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("RUN", arguments.run_dir, "the run's directory")->required();
  return command;
}

constexpr const char* kExitCodes =
    "Exit codes: 0 done, 1 internal error, 2 usage, 3 wrong configuration or input, 4 run "
    "directory\n"
    "or store, 5 gave up after faults, 6 diverged, 7 stopped by the user, 75 preempted (run "
    "again),\n"
    "130 left at once. More in docs/exit-codes.md.";

/// Ends the help of `command` with examples and the exit codes.
void show_examples(CLI::App* command, const std::string& examples) {
  command->footer("Examples:\n" + examples + "\n" + kExitCodes);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tenax;
  CLI::App app("Tenax pretrains transformer language models on machines that fail.", "tenax");
  app.require_subcommand(1);
  app.footer(std::string("Begin with: tenax train configs/quickstart.toml\n"
                         "Each command has --help; docs/cli.md shows what they print.\n\n") +
             kExitCodes);
  int exit_code = 0;

  tools::TrainArguments train;
  CLI::App* train_app = app.add_subcommand("train", "Train a model, or go on with a run");
  train_app->add_option("CONFIG", train.config, "the run recipe (configs/*.toml)")
      ->type_name("FILE");
  train_app
      ->add_option("--set", train.overrides,
                   "change a key of the recipe; may be repeated (keys: tenax config keys)")
      ->type_name("KEY=VALUE")
      ->take_all();
  train_app
      ->add_option("--run-dir", train.run_dir,
                   "where the run lives (default: runs/NAME, runs/NAME-2, ...)")
      ->type_name("DIR");
  train_app->add_flag("--resume", train.resume,
                      "go on with the run in --run-dir; begin it if there is none");
  train_app->add_flag("--other-arithmetic", train.other_arithmetic,
                      "go on where the processor computes other last bits than the run began with");
  show_examples(
      train_app,
      "  tenax train configs/quickstart.toml\n"
      "  tenax train configs/quickstart.toml --run-dir RUN --set train.steps=60\n"
      "  tenax train --resume --run-dir RUN --set train.steps=600\n\n"
      "Ctrl-C finishes the step, saves a checkpoint and exits 7; twice leaves at once (130).\n"
      "SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 do as the first Ctrl-C but exit 75.\n");
  train_app->callback([&] {
    if (train.config.empty() && !train.resume) throw CLI::RequiredError("CONFIG");
    exit_code = tools::run_train(train);
  });

  InspectArguments inspect;
  const auto json_flag = [&](CLI::App* command) {
    command->add_flag("--json", inspect.json, "print JSON");
  };
  CLI::App* status = run_command(app, "status", "What a run is doing, or how it ended", inspect);
  json_flag(status);
  show_examples(status,
                "  tenax status RUN\n"
                "  tenax status RUN --json | jq .progress     while the run lives\n");
  status->callback([&] { exit_code = tools::run_status(inspect); });

  CLI::App* stop =
      run_command(app, "stop", "Ask a run to finish its step, checkpoint and leave", inspect);
  stop->add_flag("--now", inspect.now, "kill it at once; the last committed checkpoint stays");
  show_examples(stop, "  tenax stop RUN\n");
  stop->callback([&] { exit_code = tools::run_stop(inspect); });

  tools::DrainArguments drain;
  CLI::App* drain_app = app.add_subcommand(
      "drain", "Take an agent's workers out of a run at a step boundary and end it");
  drain_app->add_option("RUN", drain.run_dir, "the run's directory")->required();
  drain_app->add_option("AGENT", drain.agent, "its number (tenax status)")->required();
  show_examples(drain_app, "  tenax drain RUN 1\n");
  drain_app->callback([&] { exit_code = tools::run_drain(drain); });

  tools::ScaleArguments scale;
  CLI::App* scale_app =
      app.add_subcommand("scale", "Change a run's number of workers or its layout");
  scale_app->add_option("RUN", scale.run_dir, "the run's directory")->required();
  scale_app->add_option("--workers", scale.workers, "so many workers, in whole replicas")
      ->check(CLI::PositiveNumber);
  scale_app->add_option("--dp", scale.dp, "data-parallel replicas")->check(CLI::PositiveNumber);
  scale_app->add_option("--pp", scale.pp, "pipeline stages")->check(CLI::PositiveNumber);
  show_examples(scale_app,
                "  tenax scale RUN --workers 6\n"
                "  tenax scale RUN --dp 4 --pp 1\n");
  scale_app->callback([&] { exit_code = tools::run_scale(scale); });

  tools::RollbackArguments rollback;
  CLI::App* rollback_app = app.add_subcommand(
      "rollback", "Send a run back to a step; its samples after it may be left out");
  rollback_app->add_option("RUN", rollback.run_dir, "the run's directory")->required();
  rollback_app->add_option("--to", rollback.to, "the last step that stays")
      ->required()
      ->type_name("STEP");
  rollback_app
      ->add_option("--skip", rollback.skip,
                   "never train the samples of these steps again (both inclusive, after --to)")
      ->type_name("FIRST:LAST");
  rollback_app->add_option("--lr-factor", rollback.lr_factor,
                           "multiply the learning rate for --lr-steps steps");
  rollback_app->add_option("--lr-steps", rollback.lr_steps, "from --to on");
  rollback_app->add_flag("--dry-run", rollback.dry_run, "only say what would be done");
  rollback_app->add_flag("--json", rollback.json, "print JSON");
  show_examples(
      rollback_app,
      "  tenax rollback RUN --to 900 --skip 950:1010 --dry-run\n"
      "  tenax rollback RUN --to 900 --skip 950:1010\n"
      "  tenax rollback RUN --to 900 --lr-factor 0.5 --lr-steps 500\n\n"
      "On a live run its supervisor decides; a stopped run goes on from there when it is\n"
      "resumed. Steps are those of the branch the run is on (tenax metrics).\n");
  rollback_app->callback([&] { exit_code = tools::run_rollback(rollback); });

  tools::ReplayArguments replay;
  CLI::App* replay_app = app.add_subcommand(
      "replay", "Compute steps of a run again and compare them with its journal; 1 if they differ");
  replay_app->add_option("RUN", replay.run_dir, "the run's directory")->required();
  replay_app->add_option("--to", replay.to, "the last step (default: the newest)");
  replay_app->add_option("--from", replay.from,
                         "begin with the checkpoint of this step, 0: the initial weights "
                         "(default: the newest before --to)");
  replay_app->add_flag("--json", replay.json, "print JSON");
  replay_app->add_option("--checkpoint", replay.checkpoint_id)->group("");
  replay_app->add_option("--id", replay.id)->group("");
  replay_app->add_option("--out", replay.out)->group("");
  replay_app->add_option("--parent-pid", replay.parent_pid)->group("");
  show_examples(replay_app, "  tenax replay RUN --from 100 --to 110\n");
  replay_app->callback([&] { exit_code = tools::run_replay(replay); });

  tools::SpikesArguments spikes;
  CLI::App* spikes_app = app.add_subcommand(
      "spikes", "What detector and guard said, and the samples behind rollbacks as text");
  spikes_app->add_option("RUN", spikes.run_dir, "the run's directory")->required();
  spikes_app->add_flag("--show", spikes.show, "the kept samples with the highest losses, as text");
  spikes_app->add_option("--top", spikes.top, "so many of each file (default 5)");
  spikes_app->add_option("--file", spikes.file, "only this one, such as branch0-step30");
  spikes_app->add_flag("--json", spikes.json, "print JSON lines");
  show_examples(spikes_app, "  tenax spikes RUN\n  tenax spikes RUN --show --top 3\n");
  spikes_app->callback([&] { exit_code = tools::run_spikes(spikes, std::cout); });

  CLI::App* journal =
      run_command(app, "journal", "What happened to a run and what was decided", inspect);
  json_flag(journal);
  journal->add_flag("--all", inspect.all,
                    "also steps and routine messages (--json has them always)");
  show_examples(journal,
                "  tenax journal RUN\n"
                "  tenax journal RUN --json | jq -r 'select(.severity == \"warning\") | .text'\n");
  bool journal_check = false;
  journal->add_flag("--check", journal_check,
                    "decide every event again and compare; 1 if a decision differs");
  journal->callback([&] {
    exit_code = journal_check ? tools::run_journal_check(inspect.run_dir, inspect.json)
                              : tools::run_journal(inspect);
  });

  CLI::App* metrics =
      run_command(app, "metrics", "Loss, gradient norm and speed of every counted step", inspect);
  json_flag(metrics);
  metrics->add_flag("--csv", inspect.csv, "print CSV");
  show_examples(metrics, "  tenax metrics RUN --csv > curve.csv\n");
  metrics->callback([&] { exit_code = tools::run_metrics(inspect); });

  tools::TraceArguments trace_arguments;
  CLI::App* trace = app.add_subcommand(
      "trace", "What every rank did in a step, for chrome://tracing or ui.perfetto.dev");
  trace->add_option("RUN", trace_arguments.run_dir, "run directory")->required();
  trace->add_option("--step", trace_arguments.step,
                    "of this step (default: the newest that all ranks have)");
  trace->add_option("--output", trace_arguments.output, "write there (default: standard output)")
      ->type_name("FILE");
  show_examples(trace, "  tenax trace RUN --step 100 --output step100.json\n");
  trace->callback([&] { exit_code = tools::run_trace(trace_arguments, std::cout, std::cerr); });

  CLI::App* hash = run_command(
      app, "hash", "One hash over all tensors of a checkpoint, whatever the layout", inspect);
  hash->add_option("--step", inspect.step, "of this step (default: the newest)");
  json_flag(hash);
  show_examples(hash,
                "  tenax hash RUN\n"
                "  tenax hash RUN --step 100 --json\n");
  hash->callback([&] { exit_code = tools::run_hash(inspect); });

  CLI::App* checkpoint = app.add_subcommand("checkpoint", "Look at a run's checkpoints");
  checkpoint->require_subcommand(1);
  tools::add_checkpoint_commands(*checkpoint, exit_code);
  CLI::App* list = run_command(*checkpoint, "list", "The committed checkpoints", inspect);
  json_flag(list);
  list->callback([&] { exit_code = tools::run_checkpoint_list(inspect); });
  CLI::App* verify = run_command(*checkpoint, "verify",
                                 "Compare checkpoints with their manifests; 4 if damaged", inspect);
  verify->add_option("--step", inspect.step, "only this step");
  verify->add_flag("--full", inspect.full, "read every byte and compare its hash");
  json_flag(verify);
  show_examples(verify, "  tenax checkpoint verify RUN --full\n");
  verify->callback([&] { exit_code = tools::run_checkpoint_verify(inspect); });

  tools::GenerateArguments generate;
  CLI::App* generate_app = app.add_subcommand("generate", "Text from a run's checkpoint");
  generate_app->add_option("RUN", generate.run_dir, "the run's directory")->required();
  generate_app->add_option("--prompt", generate.options.prompt, "what the text begins with");
  generate_app->add_option("--tokens", generate.options.tokens, "how many tokens");
  generate_app->add_option("--temperature", generate.options.temperature,
                           "0 takes the likeliest token always");
  generate_app->add_option("--seed", generate.options.seed, "of the sampling");
  generate_app->add_option("--step", generate.options.step,
                           "of the checkpoint (default: the newest)");
  show_examples(generate_app,
                "  tenax generate RUN --prompt '// ' --tokens 100 --temperature 0.5\n");
  generate_app->callback([&] { exit_code = tools::run_generate(generate); });

  tools::EvalArguments eval;
  CLI::App* eval_app = app.add_subcommand("eval", "Held-out loss of a run's checkpoint");
  eval_app->add_option("RUN", eval.run_dir, "the run's directory")->required();
  eval_app->add_option("--step", eval.step, "of the checkpoint (default: the newest)");
  eval_app->add_option("--text", eval.text, "these documents instead of the held-out text");
  eval_app->add_flag("--json", eval.json, "print JSON");
  eval_app->callback([&] { exit_code = tools::run_eval(eval, std::cout, std::cerr); });

  tools::TokenizeArguments tokenize;
  CLI::App* tokenize_app = app.add_subcommand("tokenize", "Documents to token files with digests");
  tokenize_app->add_option("TEXT", tokenize.text, "file patterns; ** crosses folders")->required();
  tokenize_app->add_option("--out", tokenize.out, "folder for the token files")->required();
  const std::map<std::string, configs::TokenizerKind> tokenizers = {
      {"bytes", configs::TokenizerKind::kBytes},
      {"bpe", configs::TokenizerKind::kBpe},
      {"gpt2", configs::TokenizerKind::kGpt2}};
  tokenize_app->add_option("--tokenizer", tokenize.tokenizer.kind, "bytes, bpe (trained) or gpt2")
      ->transform(CLI::CheckedTransformer(tokenizers));
  tokenize_app->add_option("--vocabulary", tokenize.tokenizer.vocabulary_size,
                           "tokens of a BPE trained on the documents");
  tokenize_app->add_option("--gpt2-dir", tokenize.tokenizer.gpt2_dir,
                           "folder with GPT-2's encoder.json and vocab.bpe");
  tokenize_app->add_option("--heldout", tokenize.heldout_fraction, "share of held-out tokens");
  tokenize_app->add_option("--seed", tokenize.seed, "decides which text is held out");
  tokenize_app->add_flag("--json", tokenize.json, "print JSON");
  tokenize_app->callback([&] { exit_code = tools::run_tokenize(tokenize, std::cout, std::cerr); });

  tools::DetectArguments detect;
  bool detect_json = false;
  CLI::App* detect_app =
      app.add_subcommand("detect", "Run the loss-spike detector over a logged curve");
  detect_app
      ->add_option("CURVE", detect.curve,
                   "CSV (step,loss[,grad_norm]), TensorBoard CSV or W&B JSON lines")
      ->required();
  detect_app->add_option("--set", detect.settings, "change a threshold: --set patience=10")
      ->take_all();
  detect_app->add_option("--ramp", detect.ramps, "first:last steps of an announced ramp")
      ->take_all();
  detect_app
      ->add_option("--change", detect.changes,
                   "step after which the data or the weights were changed on purpose")
      ->take_all();
  detect_app->add_option("--config", detect.config, "start from the [spikes] of a run recipe");
  detect_app->add_option("--step-column", detect.columns.step, "name of the column or JSON key");
  detect_app->add_option("--loss-column", detect.columns.loss, "likewise");
  detect_app->add_option("--grad-norm-column", detect.columns.grad_norm, "likewise");
  detect_app->add_flag("--json", detect_json, "one JSON line a verdict");
  detect_app->add_option("--plot", detect.plot, "write the curve with its verdicts as SVG");
  show_examples(
      detect_app,
      "  tenax detect curve.csv --set patience=10 --plot curve.svg\n"
      "  tenax metrics RUN --csv > curve.csv; tenax detect curve.csv --config RUN/config.toml\n");
  detect_app->callback([&] {
    if (detect_json) detect.output = tools::DetectOutput::kJsonLines;
    exit_code = tools::run_detect(detect, std::cout, std::cerr);
  });

  CLI::App* config = app.add_subcommand("config", "About run recipes");
  config->require_subcommand(1);
  bool keys_markdown = false;
  CLI::App* keys = config->add_subcommand("keys", "Every key with its type, default and meaning");
  keys->add_flag("--markdown", keys_markdown, "as the tables of docs/config.md");
  keys->callback([&] { exit_code = tools::run_config_keys(keys_markdown); });

  tools::DoctorArguments doctor;
  CLI::App* doctor_app =
      app.add_subcommand("doctor", "What this machine has of what a run may need");
  doctor_app->add_option("--run-dir", doctor.run_dir, "where runs will live: are its locks good?")
      ->type_name("DIR");
  doctor_app->add_flag("--json", doctor.json, "print JSON");
  show_examples(doctor_app, "  tenax doctor\n  tenax doctor --run-dir /shared/runs --json\n");
  doctor_app->callback([&] { exit_code = tools::run_doctor(doctor, std::cout); });

  CLI::App* model = app.add_subcommand("model", "About the model cards (configs/models)");
  model->require_subcommand(1);
  tools::ModelArguments shown_model;
  const auto model_json = [&](CLI::App* command) {
    command->add_flag("--json", shown_model.json, "print JSON");
  };
  CLI::App* model_list = model->add_subcommand("list", "Their names and sizes");
  model_json(model_list);
  model_list->callback(
      [&] { exit_code = tools::run_model_list(shown_model.json, std::cout, std::cerr); });
  CLI::App* model_show = model->add_subcommand(
      "show", "A card with the origin of each figure, its parameters, and the memory of a rank");
  model_show->add_option("NAME", shown_model.name, "a card's name, or a path to one")->required();
  model_json(model_show);
  model_show->add_option("--dp", shown_model.layout.dp, "data-parallel replicas");
  model_show->add_option("--tp", shown_model.layout.tp, "ranks that share each matrix");
  model_show->add_option("--pp", shown_model.layout.pp, "pipeline stages");
  model_show->add_option("--virtual-stages", shown_model.layout.virtual_stages,
                         "chunks of layers that each pipeline rank holds");
  model_show->add_option("--zero", shown_model.layout.zero,
                         "ZeRO stage: 1 shards the optimizer state over the replicas");
  model_show->add_option("--microbatch", shown_model.layout.microbatch_size,
                         "samples that go through a stage at once");
  model_show->add_option("--sequence", shown_model.layout.sequence_length,
                         "tokens of a sample (default: the model's longest)");
  model_show->add_option("--microbatches", shown_model.layout.num_microbatches,
                         "of a replica in a step (default: as many as stages)");
  std::string planned_device = "cpu";
  model_show
      ->add_option("--device", planned_device,
                   "cpu or cuda: the engine whose memory is planned (default: cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  std::string planned_precision = "fp32";
  model_show->add_option("--precision", planned_precision, "fp32 (default) or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  model_show->callback([&] {
    shown_model.layout.on_gpu = planned_device == "cuda";
    shown_model.layout.settings.precision =
        planned_precision == "bf16" ? compute::Precision::kBf16 : compute::Precision::kFp32;
    exit_code = tools::run_model_show(shown_model, std::cout, std::cerr);
  });

  bool version_json = false;
  CLI::App* version = app.add_subcommand("version", "Version and what it was built with");
  version->add_flag("--json", version_json, "print JSON");
  version->callback([&] { exit_code = tools::run_version(version_json); });

  tools::JoinArguments join;
  actors::AgentOptions agent;
  CLI::App* agent_app = app.add_subcommand("agent", "A further agent joins a running job");
  CLI::Option* join_option =
      agent_app
          ->add_option("--join", join.run,
                       "the run's directory, or its supervisor's address: tcp://HOST:PORT")
          ->type_name("RUN");
  agent_app->add_option("--workers", join.workers, "how many it runs")->check(CLI::Range(1, 1024));
  agent_app
      ->add_option("--run-dir", agent.run_dir,
                   "with an address: the run's directory as this host sees it")
      ->type_name("DIR");
  // Started by the supervisor, for which the rest is.
  agent_app->add_option("--agent", agent.agent)->group("")->excludes(join_option);
  agent_app->add_option("--incarnation", agent.incarnation)->group("")->excludes(join_option);
  show_examples(agent_app,
                "  tenax agent --join RUN --workers 2\n"
                "  tenax agent --join tcp://10.0.0.1:41000 --run-dir RUN\n");
  agent_app->callback([&] {
    if (join_option->count() == 0 && agent.incarnation == 0) throw CLI::RequiredError("--join");
    join.run_dir = agent.run_dir;
    exit_code = join_option->count() > 0 ? tools::run_join(join) : actors::run_agent(agent);
  });

  // Started by agents; not for people.
  actors::WorkerOptions worker;
  CLI::App* worker_app = app.add_subcommand("worker", "")->group("");
  worker_app->add_option("--run-dir", worker.run_dir)->required();
  worker_app->add_option("--agent-endpoint", worker.agent_endpoint)->required();
  worker_app->add_option("--agent", worker.agent)->required();
  worker_app->add_option("--agent-incarnation", worker.agent_incarnation)->required();
  worker_app->add_option("--slot", worker.slot)->required();
  worker_app->add_option("--incarnation", worker.incarnation)->required();
  worker_app->add_option("--parent-pid", worker.parent_pid)->required();
  worker_app->callback([&] { exit_code = actors::run_worker(worker); });

  const auto is_named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_named).empty()) {
    std::cerr << "tenax: there is no command '" << argv[1] << "'; tenax --help lists them\n";
    return scheduler::kExitUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : scheduler::kExitUsage;
  }
  return exit_code;
}

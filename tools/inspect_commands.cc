#include "tools/inspect_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "actors/journal_reader.h"
#include "actors/run_directory.h"
#include "checkpoint/reader.h"
#include "checkpoint/store_reader.h"
#include "checkpoint/tensor_hash.h"
#include "compute/flops.h"
#include "configs/run_config.h"
#include "data/token_file.h"
#include "scheduler/exit_code.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"
#include "scheduler/run_metrics.h"
#include "tools/journal_line.h"
#include "tools/run_checkpoints.h"
#include "tools/supervisor_client.h"
#include "tools/terminal_text.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

using actors::for_each_entry;
using actors::RunDirectory;
using checkpoint::StoreReader;

constexpr std::size_t kTimeInSeconds = 19;  // characters of a time without its milliseconds

int fail(const Error& error) {
  fmt::print(stderr, "tenax: {}\n", error.message);
  switch (error.code) {
    case ErrorCode::kNotFound:
    case ErrorCode::kInvalidArgument:
      return scheduler::kExitConfig;
    default:
      return scheduler::kExitStore;
  }
}

Result<std::unique_ptr<StoreReader>> open_run(const InspectArguments& arguments) {
  TENAX_RETURN_IF_ERROR([&]() -> Status {
    TENAX_TRY([[maybe_unused]] const auto identity, RunDirectory(arguments.run_dir).identity());
    return {};
  }());
  return StoreReader::open_read_only(arguments.run_dir.string());
}

std::string number(double v) {
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "Infinity" : "-Infinity";
  return fmt::format("{}", v);
}

json json_number(double v) { return std::isfinite(v) ? json(v) : json(number(v)); }

/// What a run's speed is measured by; zeros where it is not known.
struct SpeedScale {
  double flops_per_token = 0;
  compute::PeakFlops peak;
};

SpeedScale speed_scale(const RunDirectory& directory) {
  SpeedScale scale;
  if (const auto identity = directory.identity()) scale.peak = identity->peak;
  const auto config = configs::load_run_config(directory.config(), {});
  const auto tokens = data::TokenFile::open(directory.train_tokens());
  if (!config || !tokens) return scale;
  scale.flops_per_token =
      compute::flops_per_token(configs::model_options(*config, tokens->info().vocabulary_size),
                               static_cast<int>(config->train.sequence_length));
  return scale;
}

double tokens_per_second(const StepReport& r) {
  return r.seconds > 0 ? static_cast<double>(r.tokens) / r.seconds : 0;
}

/// What a dead worker logged last, and what a rank that left its generation was transferring.
std::vector<std::string> evidence_of(const scheduler::JournalEntry& entry) {
  std::vector<std::string> lines;
  if (const auto* exited = std::get_if<scheduler::WorkerExited>(&entry.event)) {
    std::istringstream log(exited->log_tail);
    for (std::string line; std::getline(log, line);) lines.push_back(line);
  } else if (const auto* stopped = std::get_if<scheduler::RankStopped>(&entry.event)) {
    for (const FlightNote& n : stopped->flight) {
      lines.push_back(fmt::format(
          "#{} {}{}{} {} bytes: {}, {:.3f} s", n.sequence, n.operation,
          n.peer >= 0 ? fmt::format(" {} rank {}", n.operation == "send" ? "to" : "from", n.peer)
                      : "",
          n.within.empty() ? "" : " in " + n.within, n.bytes, n.state, n.seconds));
    }
  }
  return lines;
}

}  // namespace

int run_stop(const InspectArguments& arguments) {
  const RunDirectory directory(arguments.run_dir);
  if (const auto identity = directory.identity(); !identity) return fail(identity.error());
  const Status status = post_stop(directory, arguments.now ? "now" : "graceful");
  if (!status) return fail(status.error());
  fmt::print("asked the run to {}\n",
             arguments.now ? "leave at once" : "finish its step, checkpoint and leave");
  return 0;
}

int run_journal(const InspectArguments& arguments) {
  const auto store = open_run(arguments);
  if (!store) return fail(store.error());
  const Status status =
      for_each_entry(**store, [&](const scheduler::JournalEntry& e, const std::string& text) {
        if (arguments.json) {
          fmt::print("{}\n", text);
        } else if (arguments.all || scheduler::is_told(e)) {
          fmt::print("{}\n", journal_line(e, scheduler::describe(e), terminal_width(stdout)));
          for (const std::string& line : evidence_of(e)) fmt::print("    | {}\n", line);
        }
      });
  return status ? 0 : fail(status.error());
}

int run_metrics(const InspectArguments& arguments) {
  const auto store = open_run(arguments);
  if (!store) return fail(store.error());
  scheduler::RunMetrics metrics;
  std::vector<int> num_workers;  // that trained each report
  int world_size = 0;
  const Status status =
      for_each_entry(**store, [&](const scheduler::JournalEntry& e, const std::string&) {
        metrics.add(e);
        num_workers.resize(metrics.reports().size(), world_size);
        for (const scheduler::Command& c : e.commands) {
          if (const auto* start = std::get_if<scheduler::StartGeneration>(&c))
            world_size = start->plan.degrees.world_size();
        }
      });
  if (!status) return fail(status.error());
  if (arguments.csv) {
    fmt::print(
        "step,loss,grad_norm,tokens_per_second,branch,eval_loss,tflops,mfu,snapshot_seconds\n");
  } else if (!arguments.json) {
    fmt::print("{:>8}  {:>8}  {:>9}  {:>8}  {:>6}  {:>9}  {:>8}  {:>5}\n", "step", "loss",
               "grad_norm", "tokens/s", "branch", "eval_loss", "TFLOP/s", "MFU");
  }
  const SpeedScale scale = speed_scale(RunDirectory(arguments.run_dir));
  for (std::size_t i = 0; i < metrics.reports().size(); ++i) {
    const StepReport& r = metrics.reports()[i];
    const double flops = tokens_per_second(r) * scale.flops_per_token;
    const double peak = scale.peak.of(num_workers[i]);
    const double mfu = peak > 0 ? flops / peak : 0;
    if (arguments.json) {
      json j = {{"step", r.step},
                {"loss", json_number(r.loss)},
                {"grad_norm", json_number(r.grad_norm)},
                {"tokens_per_second", tokens_per_second(r)},
                {"tflops", flops * 1e-12},
                {"mfu", mfu},
                {"branch", r.branch},
                {"learning_rate", r.learning_rate},
                {"position_begin", r.position_begin},
                {"position_end", r.position_end}};
      if (r.has_eval) j["eval_loss"] = json_number(r.eval_loss);
      if (r.snapshot_seconds > 0) j["snapshot_seconds"] = r.snapshot_seconds;
      fmt::print("{}\n", j.dump());
      continue;
    }
    if (arguments.csv) {
      fmt::print("{},{},{},{:.1f},{},{},{:.4f},{:.3f},{:.6f}\n", r.step, number(r.loss),
                 number(r.grad_norm), tokens_per_second(r), r.branch,
                 r.has_eval ? number(r.eval_loss) : std::string(), flops * 1e-12, mfu,
                 r.snapshot_seconds);
      continue;
    }
    fmt::print("{:>8}  {:>8.4f}  {:>9.4f}  {:>8.0f}  {:>6}  {:>9}  {:>8.4f}  {:>3.0f} %\n", r.step,
               r.loss, r.grad_norm, tokens_per_second(r), r.branch,
               r.has_eval ? fmt::format("{:.4f}", r.eval_loss) : std::string("-"), flops * 1e-12,
               100 * mfu);
  }
  return 0;
}

int run_hash(const InspectArguments& arguments) {
  const auto store = open_run(arguments);
  if (!store) return fail(store.error());
  auto manifest = find_checkpoint(**store, arguments.step);
  if (!manifest) return fail(manifest.error());
  const std::int64_t step = manifest->step;
  const checkpoint::CheckpointReader reader(**store, *std::move(manifest));
  const auto hash = checkpoint::hash_checkpoint(reader);
  if (!hash) return fail(hash.error());
  if (arguments.json) {
    fmt::print("{}\n", json{{"step", step}, {"hash", hash->hex()}}.dump());
  } else {
    fmt::print("{}  step {}\n", hash->hex(), step);
  }
  return 0;
}

int run_checkpoint_list(const InspectArguments& arguments) {
  const auto store = open_run(arguments);
  if (!store) return fail(store.error());
  const auto manifests = list_checkpoints(**store);
  if (!manifests) return fail(manifests.error());
  for (const checkpoint::Manifest& m : *manifests) {
    const std::uint64_t bytes = checkpoint::total_bytes(m);
    if (arguments.json) {
      const json j = {{"id", m.checkpoint_id},
                      {"branch", m.branch},
                      {"step", m.step},
                      {"bytes", bytes},
                      {"layout", m.layout},
                      {"created", format_time(m.created)},
                      {"shards", m.shards.size()},
                      {"position", m.sample_position}};
      fmt::print("{}\n", j.dump());
    } else {
      fmt::print("step {:>6}  branch {}  {:.1f} MB  {} shards  {}  {}\n", m.step, m.branch,
                 static_cast<double>(bytes) * 1e-6, m.shards.size(), m.layout,
                 format_time(m.created).substr(0, kTimeInSeconds));
    }
  }
  return 0;
}

int run_checkpoint_verify(const InspectArguments& arguments) {
  const auto store = open_run(arguments);
  if (!store) return fail(store.error());
  const auto manifests = list_checkpoints(**store);
  if (!manifests) return fail(manifests.error());
  const auto depth =
      arguments.full ? checkpoint::VerifyDepth::kFull : checkpoint::VerifyDepth::kFast;
  int bad = 0;
  int seen = 0;
  for (const checkpoint::Manifest& m : *manifests) {
    if (arguments.step >= 0 && m.step != arguments.step) continue;
    ++seen;
    const auto report = (*store)->verify(m.checkpoint_id, depth);
    if (!report) return fail(report.error());
    bad += report->ok() ? 0 : 1;
    if (arguments.json) {
      fmt::print(
          "{}\n",
          json{{"step", m.step}, {"ok", report->ok()}, {"problems", report->problems}}.dump());
      continue;
    }
    fmt::print("step {:>6}  {}\n", m.step,
               report->ok()
                   ? (arguments.full ? "every byte is right" : "complete (sizes and metadata)")
                   : "DAMAGED");
    for (const std::string& p : report->problems) fmt::print("    {}\n", p);
  }
  if (seen == 0) return fail(make_error(ErrorCode::kNotFound, "there is no such checkpoint"));
  return bad == 0 ? 0 : scheduler::kExitStore;
}

int run_generate(const GenerateArguments& arguments) {
  const RunDirectory directory(arguments.run_dir);
  if (const auto identity = directory.identity(); !identity) return fail(identity.error());
  const auto config = configs::load_run_config(directory.config(), {});
  if (!config) return fail(config.error());
  const auto text = generate_text(directory, *config, arguments.options);
  if (!text) return fail(text.error());
  fmt::print("{}\n", *text);
  return 0;
}

int run_config_keys(bool markdown) {
  if (markdown) {
    fmt::print(
        "# Keys of a run recipe\n\n"
        "Made by `tenax config keys --markdown`; a test compares. A recipe is TOML with a table "
        "for "
        "each section;\n`configs/quickstart.toml` is one. What it leaves out has the default. "
        "`--set KEY=VALUE` changes a key for one start.\nA run that goes on by `--resume` accepts "
        "changes of the keys marked \"may change\" and refuses others.\n\n{}",
        configs::keys_as_markdown());
    return 0;
  }
  for (const configs::KeyInfo& k : configs::list_keys()) {
    fmt::print("{} = {}  ({}{}{})\n    {}\n", k.key, k.value, k.type,
               k.range.empty() ? "" : ", " + k.range,
               k.changeable == configs::Changeable::kYes ? ", changeable on --resume" : "", k.doc);
  }
  return 0;
}

int run_version(bool as_json) {
  const json j = {
      {"version", TENAX_VERSION}, {"compiler", __VERSION__}, {"build", TENAX_BUILD_TYPE}};
  if (as_json) {
    fmt::print("{}\n", j.dump());
  } else {
    fmt::print("tenax {} ({} build, g++ {})\n", TENAX_VERSION, TENAX_BUILD_TYPE, __VERSION__);
  }
  return 0;
}

}  // namespace tenax::tools

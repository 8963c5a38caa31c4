#include "tools/spikes_command.h"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <vector>

#include "actors/journal_reader.h"
#include "actors/run_directory.h"
#include "actors/sample_log.h"
#include "actors/step_data.h"
#include "checkpoint/store_reader.h"
#include "configs/run_config.h"
#include "scheduler/run_json.h"
#include "tools/command_errors.h"
#include "tools/journal_line.h"
#include "tools/prepare_data.h"
#include "tools/terminal_text.h"

namespace tenax::tools {

namespace {

using actors::SampleLoss;

constexpr std::size_t kShownCharacters = 400;

/// What an entry tells of a spike: verdicts on a step, an order to go back, a replay's result;
/// empty if nothing.
std::string told_of_a_spike(const scheduler::JournalEntry& entry) {
  const bool about_steps = std::holds_alternative<scheduler::StepReported>(entry.event) ||
                           std::holds_alternative<scheduler::RollbackRequested>(entry.event) ||
                           std::holds_alternative<scheduler::ReplayEnded>(entry.event);
  std::string text;
  for (const scheduler::Command& c : entry.commands) {
    const auto* note = std::get_if<scheduler::Note>(&c);
    // A step's report may also be what a checkpoint waited for.
    if (!about_steps || note == nullptr || note->text.starts_with("checkpoint ")) continue;
    text += (text.empty() ? "" : "; ") + note->text;
  }
  return text;
}

Status print_verdicts(const SpikesArguments& arguments, std::ostream& out) {
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(arguments.run_dir.string()));
  const std::size_t width = &out == &std::cout ? terminal_width(stdout) : 0;
  return actors::for_each_entry(
      *store, [&](const scheduler::JournalEntry& entry, const std::string& bytes) {
        const std::string text = told_of_a_spike(entry);
        if (text.empty()) return;
        if (arguments.json) {
          fmt::print(out, "{}\n", bytes);
        } else {
          fmt::print(out, "{}\n", journal_line(entry, text, width));
        }
      });
}

std::vector<std::filesystem::path> kept_files(const SpikesArguments& arguments) {
  std::vector<std::filesystem::path> files;
  std::error_code ec;
  for (const auto& entry :
       std::filesystem::directory_iterator(actors::RunDirectory(arguments.run_dir).spikes(), ec)) {
    if (entry.path().extension() != ".json") continue;
    if (!arguments.file.empty() && entry.path().stem() != arguments.file) continue;
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// Highest loss first, a loss that is no number before all.
void sort_by_loss(std::vector<SampleLoss>& samples) {
  std::stable_sort(samples.begin(), samples.end(), [](const SampleLoss& a, const SampleLoss& b) {
    if (std::isnan(a.loss) || std::isnan(b.loss)) return std::isnan(a.loss) && !std::isnan(b.loss);
    return a.loss > b.loss;
  });
}

/// Bytes of the UTF-8 character that begins at text[i]; 0 if none does.
std::size_t character_at(const std::string& text, std::size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  const std::size_t bytes = lead < 0x80                   ? 1
                            : lead >= 0xc2 && lead < 0xe0 ? 2
                            : lead >= 0xe0 && lead < 0xf0 ? 3
                            : lead >= 0xf0 && lead < 0xf5 ? 4
                                                          : 0;
  if (bytes == 0 || i + bytes > text.size()) return 0;
  for (std::size_t k = 1; k < bytes; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return 0;
  }
  return bytes;
}

/// One line of text: line ends and bytes that cannot be shown as escapes.
std::string printable(const std::string& text) {
  std::string line;
  for (std::size_t i = 0; i < text.size();) {
    if (line.size() >= kShownCharacters) return line + "...";
    const std::size_t bytes = character_at(text, i);
    const auto byte = static_cast<unsigned char>(text[i]);
    if (text[i] == '\n') {
      line += "\\n";
    } else if (bytes == 0 || byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += text.substr(i, bytes);
    }
    i += std::max<std::size_t>(bytes, 1);
  }
  return line;
}

class SampleTexts {
 public:
  static Result<SampleTexts> open(const std::filesystem::path& run_dir) {
    const actors::RunDirectory directory(run_dir);
    SampleTexts texts;
    TENAX_TRY(const configs::RunConfig config, configs::load_run_config(directory.config(), {}));
    TENAX_TRY(texts.tokenizer_, open_tokenizer(config, directory));
    TENAX_TRY(texts.data_,
              actors::StepData::open(config, directory.corpora(config.data.num_corpora())));
    return texts;
  }

  std::int64_t first_token(std::int64_t position) const { return data_->sample_begin(position); }
  std::string text(std::int64_t position) const {
    return tokenizer_->decode(data_->sample_tokens(position));
  }

 private:
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<actors::StepData> data_;
};

nlohmann::json json_number(double v) {
  return std::isfinite(v) ? nlohmann::json(v) : nlohmann::json(fmt::format("{}", v));
}

Status print_samples(const SpikesArguments& arguments, const std::filesystem::path& file,
                     const SampleTexts& texts, std::ostream& out) {
  TENAX_TRY(auto samples, actors::read_kept_samples(file));
  const std::size_t total = samples.size();
  sort_by_loss(samples);
  samples.resize(
      std::min(total, static_cast<std::size_t>(std::max<std::int64_t>(0, arguments.top))));
  if (!arguments.json)
    fmt::print(out, "{}: the {} worst of {} samples\n", file.stem().string(), samples.size(),
               total);
  for (const SampleLoss& s : samples) {
    if (arguments.json) {
      fmt::print(out, "{}\n",
                 nlohmann::json{{"file", file.stem().string()},
                                {"branch", s.branch},
                                {"step", s.step},
                                {"position", s.position},
                                {"first_token", texts.first_token(s.position)},
                                {"loss", json_number(s.loss)},
                                {"text", texts.text(s.position)}}
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
      continue;
    }
    fmt::print(out, "  step {}  sample {}  (token {} of the training text)  loss {:.4f}\n    {}\n",
               s.step, s.position, texts.first_token(s.position), s.loss,
               printable(texts.text(s.position)));
  }
  return {};
}

Status spikes(const SpikesArguments& arguments, std::ostream& out) {
  TENAX_TRY([[maybe_unused]] const auto identity,
            actors::RunDirectory(arguments.run_dir).identity());
  if (!arguments.show) TENAX_RETURN_IF_ERROR(print_verdicts(arguments, out));
  const std::vector<std::filesystem::path> files = kept_files(arguments);
  if (!arguments.file.empty() && files.empty()) {
    return make_error(ErrorCode::kNotFound,
                      fmt::format("no samples were kept under the name {}", arguments.file));
  }
  if (!arguments.show) {
    for (const auto& file : files) {
      if (!arguments.json)
        fmt::print(out, "samples kept: {} (tenax spikes RUN --show --file {})\n", file.string(),
                   file.stem().string());
    }
    return {};
  }
  if (files.empty()) {
    return make_error(ErrorCode::kNotFound,
                      "no samples were kept: nothing was rolled back for a spike yet");
  }
  TENAX_TRY(const SampleTexts texts, SampleTexts::open(arguments.run_dir));
  for (const auto& file : files) TENAX_RETURN_IF_ERROR(print_samples(arguments, file, texts, out));
  return {};
}

}  // namespace

int run_spikes(const SpikesArguments& arguments, std::ostream& out) {
  const Status status = spikes(arguments, out);
  return status ? 0 : report_error(status.error());
}

}  // namespace tenax::tools

#include "tools/curve_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "common/read_all.h"

namespace tenax::tools {
namespace {

using nlohmann::json;
using scheduler::MetricPoint;

// In order of preference.
constexpr std::array<std::string_view, 6> kStepNames = {"step",      "_step", "global_step",
                                                        "iteration", "iter",  "train/global_step"};
constexpr std::array<std::string_view, 8> kLossNames = {"loss",          "train/loss", "train_loss",
                                                        "training_loss", "lm loss",    "lm_loss",
                                                        "train/lm_loss", "value"};
constexpr std::array<std::string_view, 6> kGradNormNames = {
    "grad_norm", "train/grad_norm", "grad norm", "gradient_norm", "grad-norm", "train/grad-norm"};

Error bad_line(std::int64_t line, std::string_view what) {
  return make_error(ErrorCode::kInvalidArgument, fmt::format("line {}: {}", line, what));
}

std::string_view trimmed(std::string_view text) {
  const auto outer = [](char c) { return std::isspace(static_cast<unsigned char>(c)) || c == '"'; };
  while (!text.empty() && outer(text.front())) text.remove_prefix(1);
  while (!text.empty() && outer(text.back())) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

struct Number {
  enum class Kind { kAbsent, kValue, kWrong } kind = Kind::kAbsent;
  double value = 0;
};

Number parse_number(std::string_view text) {
  text = trimmed(text);
  const std::string word = lower(text);
  if (word.empty() || word == "null" || word == "none" || word == "na" || word == "n/a") return {};
  if (text.front() == '+') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size()) return {Number::Kind::kWrong, 0};
  if (error == std::errc::result_out_of_range) {
    // Either too large for a double or too small; only the first has an exponent without a minus.
    const bool tiny = word.find("e-") != std::string::npos;
    const double extreme = tiny ? 0 : std::numeric_limits<double>::infinity();
    return {Number::Kind::kValue, text.front() == '-' ? -extreme : extreme};
  }
  if (error != std::errc{}) return {Number::Kind::kWrong, 0};
  return {Number::Kind::kValue, value};
}

Result<MetricPoint> make_point(std::int64_t line, Number step, Number loss, Number grad_norm) {
  constexpr double kMaxStep = 9e15;
  if (step.kind != Number::Kind::kValue || !(std::abs(step.value) < kMaxStep))
    return bad_line(line, "the step is not a number");
  if (loss.kind == Number::Kind::kWrong) return bad_line(line, "the loss is not a number");
  if (grad_norm.kind == Number::Kind::kWrong)
    return bad_line(line, "the gradient norm is not a number");
  MetricPoint point;
  point.step = static_cast<std::int64_t>(step.value);
  point.missing = loss.kind == Number::Kind::kAbsent;
  point.loss = loss.value;
  if (grad_norm.kind == Number::Kind::kValue) point.grad_norm = grad_norm.value;
  return point;
}

/// Fields of one CSV line; commas within double quotes do not separate.
std::vector<std::string_view> split_fields(std::string_view line) {
  std::vector<std::string_view> fields;
  bool quoted = false;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') quoted = !quoted;
    if (line[i] != ',' || quoted) continue;
    fields.push_back(line.substr(begin, i - begin));
    begin = i + 1;
  }
  fields.push_back(line.substr(begin));
  return fields;
}

/// Weights & Biases exports head a column "run name - metric".
std::string column_name(std::string_view field) {
  std::string name = lower(trimmed(field));
  if (const std::size_t dash = name.rfind(" - "); dash != std::string::npos)
    name.erase(0, dash + 3);
  return name;
}

std::optional<std::size_t> find_column(const std::vector<std::string_view>& header,
                                       const std::string& wanted,
                                       std::span<const std::string_view> known) {
  const auto index_of = [&](std::string_view name) -> std::optional<std::size_t> {
    for (std::size_t i = 0; i < header.size(); ++i)
      if (column_name(header[i]) == name || lower(trimmed(header[i])) == name) return i;
    return std::nullopt;
  };
  if (!wanted.empty()) return index_of(lower(wanted));
  for (const std::string_view name : known)
    if (const auto index = index_of(name)) return index;
  return std::nullopt;
}

struct CsvLayout {
  std::size_t step = 0;
  std::size_t loss = 1;
  std::optional<std::size_t> grad_norm;
  bool has_header = true;
};

Result<CsvLayout> csv_layout(std::int64_t line, const std::vector<std::string_view>& first,
                             const CurveColumns& columns) {
  CsvLayout layout;
  const bool numeric = std::all_of(first.begin(), first.end(), [](std::string_view field) {
    return parse_number(field).kind != Number::Kind::kWrong;
  });
  if (numeric && first.size() >= 2) {
    layout.has_header = false;
    if (first.size() >= 3) layout.grad_norm = 2;
    return layout;
  }
  const auto step = find_column(first, columns.step, kStepNames);
  const auto loss = find_column(first, columns.loss, kLossNames);
  if (!step || !loss)
    return bad_line(line, fmt::format("no column for the {}; the columns are: {}",
                                      step ? "loss" : "step", fmt::join(first, ",")));
  layout.step = *step;
  layout.loss = *loss;
  layout.grad_norm = find_column(first, columns.grad_norm, kGradNormNames);
  if (!columns.grad_norm.empty() && !layout.grad_norm)
    return bad_line(line, fmt::format("no column \"{}\"", columns.grad_norm));
  return layout;
}

/// Python writes NaN and Infinity bare, which JSON does not know: puts them in quotes.
std::string quote_bare_non_finite(std::string_view line) {
  std::string out;
  bool in_string = false;
  for (std::size_t i = 0; i < line.size();) {
    if (line[i] == '"' && (i == 0 || line[i - 1] != '\\')) in_string = !in_string;
    std::string_view word;
    if (!in_string)
      for (const std::string_view name : {"NaN", "-Infinity", "Infinity"})
        if (line.substr(i).starts_with(name)) {
          word = name;
          break;
        }
    if (word.empty()) {
      out += line[i++];
      continue;
    }
    out += '"';
    out += word;
    out += '"';
    i += word.size();
  }
  return out;
}

Number json_number(const json& value) {
  if (value.is_null()) return {};
  if (value.is_number()) return {Number::Kind::kValue, value.get<double>()};
  if (value.is_string()) return parse_number(value.get_ref<const std::string&>());
  return {Number::Kind::kWrong, 0};
}

const json* find_key(const json& object, const std::string& wanted,
                     std::span<const std::string_view> known) {
  if (!wanted.empty()) {
    const auto found = object.find(wanted);
    return found == object.end() ? nullptr : &*found;
  }
  for (const std::string_view name : known)
    if (const auto found = object.find(std::string(name)); found != object.end()) return &*found;
  return nullptr;
}

Result<std::optional<MetricPoint>> parse_json_line(std::int64_t number, std::string_view line,
                                                   const CurveColumns& columns) {
  json object = json::parse(line, nullptr, false);
  if (object.is_discarded()) object = json::parse(quote_bare_non_finite(line), nullptr, false);
  if (!object.is_object()) return bad_line(number, "not a JSON object");
  const json* step = find_key(object, columns.step, kStepNames);
  const json* loss = find_key(object, columns.loss, kLossNames);
  if (step == nullptr || loss == nullptr) return std::optional<MetricPoint>();
  const json* grad_norm = find_key(object, columns.grad_norm, kGradNormNames);
  TENAX_TRY(MetricPoint point,
            make_point(number, json_number(*step), json_number(*loss),
                       grad_norm == nullptr ? Number{} : json_number(*grad_norm)));
  return std::optional<MetricPoint>(point);
}

}  // namespace

Result<std::vector<MetricPoint>> parse_curve(std::string_view text, const CurveColumns& columns) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<MetricPoint> points;
  std::optional<CsvLayout> layout;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (trimmed(line).empty() || line.starts_with('#')) continue;
    if (!layout && trimmed(line).front() == '{') {
      TENAX_TRY(const std::optional<MetricPoint> point, parse_json_line(number, line, columns));
      if (point) points.push_back(*point);
      continue;
    }
    const std::vector<std::string_view> fields = split_fields(line);
    if (!layout) {
      TENAX_TRY(layout, csv_layout(number, fields, columns));
      if (layout->has_header) continue;
    }
    const auto field = [&](std::size_t index) {
      return index < fields.size() ? parse_number(fields[index]) : Number{};
    };
    TENAX_TRY(const MetricPoint point,
              make_point(number, field(layout->step), field(layout->loss),
                         layout->grad_norm ? field(*layout->grad_norm) : Number{}));
    points.push_back(point);
  }
  if (points.empty())
    return make_error(ErrorCode::kInvalidArgument, "no line has both a step and a loss");
  return points;
}

Result<std::vector<MetricPoint>> read_curve(const std::filesystem::path& path,
                                            const CurveColumns& columns) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return make_error(ErrorCode::kNotFound, fmt::format("cannot open {}", path.string()));
  const std::string text = read_all(file);
  if (file.bad()) return make_error(ErrorCode::kIo, fmt::format("cannot read {}", path.string()));
  auto points = parse_curve(text, columns);
  if (!points) return points.error().within(path.string());
  return points;
}

}  // namespace tenax::tools

#include "data/batch_ramp.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>

namespace tenax::data {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 40;

/// Takes a positive number and the spaces around it from the front of `text`.
std::optional<std::int64_t> take_number(std::string_view& text) {
  const auto skip_spaces = [&] {
    while (text.starts_with(' ')) text.remove_prefix(1);
  };
  skip_spaces();
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value < 1 || value > kMost) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  skip_spaces();
  return value;
}

}  // namespace

Result<std::vector<BatchSizeChange>> batch_ramp(const std::vector<std::string>& parts,
                                                std::int64_t final_size) {
  std::vector<BatchSizeChange> ramp;
  std::int64_t first_step = 1;
  for (const std::string& part : parts) {
    std::string_view rest = part;
    const auto steps = take_number(rest);
    const bool has_sign = rest.starts_with('x');
    if (has_sign) rest.remove_prefix(1);
    const auto size = take_number(rest);
    if (!steps || !has_sign || !size || !rest.empty()) {
      return make_error(
          ErrorCode::kInvalidArgument,
          fmt::format("\"{}\" is no part of a batch ramp: expected steps and samples, "
                      "as \"50 x 4\"",
                      part));
    }
    ramp.push_back({first_step, *size});
    first_step += *steps;
  }
  ramp.push_back({first_step, final_size});
  return ramp;
}

}  // namespace tenax::data

#include "configs/duration_text.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace tenax::configs {

namespace {

struct Unit {
  std::string_view name;
  std::int64_t nanoseconds;
};
// Largest first, as format_duration() needs it.
constexpr std::array<Unit, 6> kUnits{{{"h", 3'600'000'000'000},
                                      {"min", 60'000'000'000},
                                      {"s", 1'000'000'000},
                                      {"ms", 1'000'000},
                                      {"us", 1'000},
                                      {"ns", 1}}};
constexpr double kHundredYears = 100 * 366 * 86400e9;

}  // namespace

std::optional<Duration> parse_duration(std::string_view text) {
  const std::size_t split = text.find_first_not_of("0123456789.");
  if (split == 0 || split == std::string_view::npos) return std::nullopt;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + split, number);
  if (error != std::errc() || end != text.data() + split) return std::nullopt;
  for (const Unit& unit : kUnits) {
    if (text.substr(split) != unit.name) continue;
    const double nanoseconds = number * static_cast<double>(unit.nanoseconds);
    if (nanoseconds > kHundredYears) return std::nullopt;
    return Duration(static_cast<std::int64_t>(std::llround(nanoseconds)));
  }
  return std::nullopt;
}

std::string format_duration(Duration d) {
  if (d == Duration::zero()) return "0s";
  for (const Unit& unit : kUnits) {
    if (d.count() % unit.nanoseconds == 0) {
      return fmt::format("{}{}", d.count() / unit.nanoseconds, unit.name);
    }
  }
  return {};  // not reached: every count is a multiple of 1 ns
}

}  // namespace tenax::configs

#include "configs/nearest.h"

#include <algorithm>
#include <vector>

namespace tenax::configs {

namespace {

std::size_t tolerated(std::size_t length) { return std::max<std::size_t>(1, length / 3); }

std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min(
          {d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> words) {
  std::optional<std::string> nearest;
  std::size_t least = tolerated(word.size()) + 1;
  for (const std::string& candidate : words) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::optional<std::string> nearest_key(std::string_view key, std::span<const std::string> keys) {
  const std::string_view last = last_part(key);
  std::optional<std::string> nearest;
  std::size_t least = key.size() + last.size();
  for (const std::string& candidate : keys) {
    const std::size_t whole = edit_distance(key, candidate);
    const std::size_t end = edit_distance(last, last_part(candidate));
    if (whole <= tolerated(last.size()) && whole < least) {
      least = whole;
      nearest = candidate;
    } else if (end <= tolerated(last.size()) && end + 1 < least) {
      least = end + 1;  // one for the wrong section: among equals the right section wins
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace tenax::configs

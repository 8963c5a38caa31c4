#include "scheduler/hang_culprit.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

namespace tenax::scheduler {

namespace {

/// The oldest transfer that a rank waits for: what holds it up. Others that have begun, such as
/// those of gradients while a backward is computed, do not.
const FlightNote* wait_of(const std::vector<FlightNote>& notes) {
  const FlightNote* oldest = nullptr;
  for (const FlightNote& n : notes) {
    if (n.state != "waiting" || n.peer < 0) continue;
    if (oldest == nullptr || n.sequence < oldest->sequence) oldest = &n;
  }
  return oldest;
}

}  // namespace

std::optional<Culprit> find_culprit(const std::map<int, std::vector<FlightNote>>& flights,
                                    const std::vector<int>& silent) {
  std::map<int, const FlightNote*> waits;
  for (const auto& [rank, notes] : flights) {
    if (const FlightNote* wait = wait_of(notes)) waits[rank] = wait;
  }
  std::map<int, int> ends;  // waits that end at a rank
  for (const auto& [rank, wait] : waits) {
    std::set<int> seen = {rank};
    int at = wait->peer;
    while (waits.contains(at) && seen.insert(at).second) at = waits.at(at)->peer;
    if (!waits.contains(at)) ++ends[at];  // else they wait in a circle: nobody's fault to see here
  }
  if (ends.empty()) return std::nullopt;
  const auto is_silent = [&](int rank) {
    return std::find(silent.begin(), silent.end(), rank) != silent.end();
  };
  const auto worst = std::max_element(ends.begin(), ends.end(), [&](const auto& a, const auto& b) {
    return std::tuple(is_silent(a.first), a.second) < std::tuple(is_silent(b.first), b.second);
  });
  Culprit culprit;
  culprit.rank = worst->first;
  culprit.evidence = fmt::format("rank {} did not arrive", culprit.rank);
  std::string separator = ": ";
  for (const auto& [rank, wait] : waits) {
    culprit.evidence += fmt::format(
        "{}rank {} waits for rank {}{} (transfer {}, {} bytes)", separator, rank, wait->peer,
        wait->within.empty() ? "" : " in " + wait->within, wait->sequence, wait->bytes);
    separator = ", ";
  }
  if (is_silent(culprit.rank))
    culprit.evidence += fmt::format("; rank {} does not answer", culprit.rank);
  return culprit;
}

}  // namespace tenax::scheduler

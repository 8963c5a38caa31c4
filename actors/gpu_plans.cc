#include "actors/gpu_plans.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <utility>
#include <vector>

#include "actors/run_directory.h"

namespace tenax::actors {

namespace {

using Lines = std::map<std::string, std::string>;

/// Adds the lines of a text whose shapes are not known yet.
void add_lines(std::istream& text, Lines& lines) {
  for (std::string line; std::getline(text, line);) {
    const std::size_t equals = line.find(" = ");
    if (equals != std::string::npos) lines.emplace(line.substr(0, equals), line.substr(equals + 3));
  }
}

std::string text_of(const Lines& lines) {
  std::string text;
  for (const auto& [shape, algorithm] : lines) text += shape + " = " + algorithm + "\n";
  return text;
}

}  // namespace

std::string gpu_plans_of(const std::filesystem::path& folder, const std::string& arithmetic,
                         const std::string& worker) {
  std::vector<std::filesystem::path> files;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ec))
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  const std::string own = worker + ".txt";
  std::ranges::sort(files, {}, [&](const std::filesystem::path& path) {
    return std::pair(path.filename() != own, path.filename().string());
  });
  Lines lines;
  for (const std::filesystem::path& file : files) {
    const auto text = read_file(file);
    if (!text) continue;  // being replaced, or another's: what is not known is chosen anew
    std::istringstream in(*text);
    std::string first;
    if (std::getline(in, first) && first == arithmetic) add_lines(in, lines);
  }
  return text_of(lines);
}

const std::string& GpuPlans::take() {
  taken_ = gpu_plans_of(folder_, arithmetic_, worker_);
  known_.clear();
  std::istringstream in(taken_);
  add_lines(in, known_);
  return taken_;
}

Status GpuPlans::keep(const std::string& in_use) {
  if (in_use == kept_) return {};
  std::istringstream in(in_use);
  Lines lines;
  add_lines(in, lines);
  for (const auto& [shape, algorithm] : lines) {
    const auto known = known_.find(shape);
    if (known != known_.end() && known->second != algorithm) {
      return make_error(
          ErrorCode::kUnsupported,
          fmt::format("the GPU does not take the run's algorithm for {}: {} was chosen, it uses "
                      "{}; bits would differ from here on. Without the folder {} the run chooses "
                      "anew",
                      shape, known->second, algorithm, folder_.string()));
    }
  }
  known_.insert(lines.begin(), lines.end());
  std::error_code ec;
  std::filesystem::create_directories(folder_, ec);
  TENAX_RETURN_IF_ERROR(
      write_file(folder_ / (worker_ + ".txt"), arithmetic_ + "\n" + text_of(known_), 0644));
  kept_ = in_use;
  return {};
}

}  // namespace tenax::actors

#include "data/glob.h"

#include <set>
#include <string>
#include <system_error>

#include "data/durable_file.h"

namespace tenax::data {

namespace {

namespace fs = std::filesystem;

bool has_wildcard(std::string_view component) {
  return component.find_first_of("*?") != std::string_view::npos;
}

bool is_left_out(std::string_view folder) {
  return folder.starts_with('.') || folder.starts_with("build") || folder == "runs" ||
         folder == "node_modules";
}

class Expansion {
 public:
  explicit Expansion(std::vector<std::string> components) : components_(std::move(components)) {}

  Status descend(const fs::path& folder, std::size_t at) {
    const std::string& component = components_[at];
    const bool is_last = at + 1 == components_.size();
    if (!has_wildcard(component)) {
      const fs::path next = folder / component;
      std::error_code ignored;
      if (!is_last) {
        return fs::is_directory(next, ignored) ? descend(next, at + 1) : Status();
      }
      if (fs::is_regular_file(next, ignored) || fs::is_symlink(next, ignored)) add(next);
      return {};
    }
    if (component == "**" && !is_last) TENAX_RETURN_IF_ERROR(descend(folder, at + 1));

    std::error_code error;
    fs::directory_iterator entries(folder, error);
    for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
      const std::string name = entries->path().filename().string();
      std::error_code ignored;
      const bool is_folder = entries->is_directory(ignored);
      if (is_folder && (entries->is_symlink(ignored) || is_left_out(name))) continue;
      if (component == "**") {
        if (is_folder) {
          TENAX_RETURN_IF_ERROR(descend(entries->path(), at));
        } else if (is_last) {
          add(entries->path());
        }
      } else if (matches_name(component, name)) {
        if (is_folder && !is_last) TENAX_RETURN_IF_ERROR(descend(entries->path(), at + 1));
        if (!is_folder && is_last) add(entries->path());
      }
    }
    // A folder that vanished since it was listed holds nothing.
    if (error && error != std::errc::no_such_file_or_directory) {
      return file_error("reading folder", folder, error.value());
    }
    return {};
  }

  std::vector<fs::path> take() { return {found_.begin(), found_.end()}; }

 private:
  void add(const fs::path& file) { found_.insert(file.lexically_normal()); }

  std::vector<std::string> components_;
  std::set<fs::path> found_;
};

}  // namespace

bool matches_name(std::string_view pattern, std::string_view name) {
  std::size_t p = 0;
  std::size_t n = 0;
  // Where to go on when the characters after the last star do not fit.
  std::size_t star = std::string_view::npos;
  std::size_t star_name = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_name = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++star_name;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

Result<std::vector<fs::path>> expand_pattern(const fs::path& base_dir, std::string_view pattern) {
  const fs::path path(pattern);
  std::vector<std::string> components;
  for (const fs::path& part : path.relative_path()) {
    if (!part.empty() && part != ".") components.push_back(part.string());
  }
  if (components.empty()) return std::vector<fs::path>();
  Expansion expansion(std::move(components));
  TENAX_RETURN_IF_ERROR(expansion.descend(path.is_absolute() ? path.root_path() : base_dir, 0));
  return expansion.take();
}

}  // namespace tenax::data

#include "data/corpus.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <optional>

#include "data/durable_file.h"
#include "data/glob.h"

namespace tenax::data {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLookedAtBytes = 65536;

enum class Kind { kText, kBinary, kEmpty };

Result<Kind> kind_of(const fs::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return file_error("opening document", file, errno);
  std::string start(kLookedAtBytes, '\0');
  const ssize_t n = ::read(fd, start.data(), start.size());
  const int error_number = errno;
  ::close(fd);
  if (n < 0) return file_error("reading document", file, error_number);
  if (n == 0) return Kind::kEmpty;
  start.resize(static_cast<std::size_t>(n));
  return start.find('\0') == std::string::npos ? Kind::kText : Kind::kBinary;
}

class Problems {
 public:
  void add(ErrorCode code, const std::string& line) {
    if (!first_) first_ = code;
    text_ += (text_.empty() ? "" : "\n") + line;
  }
  Status status() const {
    if (first_) return make_error(*first_, text_);
    return {};
  }

 private:
  std::optional<ErrorCode> first_;
  std::string text_;
};

}  // namespace

Result<DocumentList> collect_documents(const fs::path& base_dir,
                                       const std::vector<std::string>& patterns) {
  DocumentList list;
  Problems problems;
  // Keyed by what is the same wherever the base folder lies.
  std::map<std::string, std::optional<Kind>> kinds;
  for (const std::string& pattern : patterns) {
    const auto files = expand_pattern(base_dir, pattern);
    if (!files) {
      problems.add(files.error().code,
                   fmt::format("pattern '{}': {}", pattern, files.error().message));
      continue;
    }
    bool has_text = false;
    bool has_unreadable = false;
    for (const fs::path& file : *files) {
      const std::string name =
          file.lexically_relative(base_dir.lexically_normal()).generic_string();
      const std::string key = name.empty() ? file.generic_string() : name;
      auto [at, is_new] = kinds.try_emplace(key);
      if (is_new) {
        const auto kind = kind_of(file);
        if (kind) {
          at->second = *kind;
        } else {
          problems.add(kind.error().code, kind.error().message);
        }
      }
      has_text |= at->second == Kind::kText;
      has_unreadable |= !at->second.has_value();
    }
    if (has_text || has_unreadable) continue;
    const std::string why =
        files->empty()
            ? "matches no file"
            : fmt::format("matches no text, only {} binary or empty files", files->size());
    problems.add(ErrorCode::kNotFound,
                 fmt::format("pattern '{}' {} (from folder {})", pattern, why, base_dir.string()));
  }
  TENAX_RETURN_IF_ERROR(problems.status());

  for (const auto& [key, kind] : kinds) {
    const fs::path file = (base_dir / key).lexically_normal();
    if (kind == Kind::kText) {
      list.files.push_back(file);
    } else {
      list.notices.push_back(fmt::format("left out {}: {}", file.string(),
                                         kind == Kind::kEmpty ? "it is empty" : "it is not text"));
    }
  }
  return list;
}

}  // namespace tenax::data

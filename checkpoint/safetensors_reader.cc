#include "checkpoint/safetensors_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "checkpoint/files.h"
#include "checkpoint/float_formats.h"
#include "common/read_all.h"

using nlohmann::json;

namespace tenax::checkpoint {

namespace {

constexpr std::size_t kPieceBytes = 1 << 20;

Status read_exactly(int fd, const std::string& path, std::uint64_t offset,
                    std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return from_errno("read", path, errno);
    if (n == 0) {
      return make_error(ErrorCode::kDataLoss, fmt::format("{}: expected {} bytes at {}, got {}",
                                                          path, out.size(), offset, done));
    }
    done += static_cast<std::size_t>(n);
  }
  return {};
}

/// File names by tensor, from model.safetensors.index.json.
Result<std::map<std::string, std::string>> read_index(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return from_errno("read", path.string(), errno);
  const std::string text = read_all(in);
  if (in.bad()) return from_errno("read", path.string(), errno);
  const json index = json::parse(text, nullptr, false);
  const auto bad = [&](std::string_view what) {
    return make_error(ErrorCode::kDataLoss, fmt::format("{}: {}", path.string(), what));
  };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return bad("has no weight_map");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string()) return bad(fmt::format("tensor '{}' has no file name", tensor));
    const auto name = file.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos || name[0] == '.') {
      return bad(fmt::format("tensor '{}': '{}' is not a file of the folder", tensor, name));
    }
    files[tensor] = name;
  }
  return files;
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return from_errno("open", path, errno);
  SafetensorsFile file(fd, path);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return from_errno("examine", path, errno);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const auto bad = [&](std::string_view what) {
    return make_error(ErrorCode::kDataLoss, fmt::format("{}: {}", path, what));
  };
  std::uint64_t length = 0;
  if (size < sizeof length) {
    return bad(fmt::format("has {} bytes, too few for a safetensors file", size));
  }
  TENAX_RETURN_IF_ERROR(read_exactly(fd, path, 0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > kMaxSafetensorsHeader) {
    return bad(fmt::format("its header is said to have {} bytes, at most {} are allowed", length,
                           kMaxSafetensorsHeader));
  }
  if (length > size - sizeof length) {
    return bad(
        fmt::format("its header is said to have {} bytes, the whole file has {}", length, size));
  }
  std::string text(length, '\0');
  TENAX_RETURN_IF_ERROR(
      read_exactly(fd, path, sizeof length, std::as_writable_bytes(std::span(text))));
  file.data_begin_ = sizeof length + length;
  auto header = parse_safetensors_header(text, size - file.data_begin_);
  if (!header) return header.error().within(path);
  file.header_ = *std::move(header);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) ::close(fd_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      header_(std::move(other.header_)),
      data_begin_(other.data_begin_) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(header_, other.header_);
  std::swap(data_begin_, other.data_begin_);
  return *this;
}

Status SafetensorsFile::read(const SafetensorsEntry& entry, std::int64_t first,
                             std::span<float> out) const {
  const auto format = float_format(entry.dtype);
  if (!format) {
    return make_error(ErrorCode::kUnsupported,
                      fmt::format("{}: tensor '{}' has dtype {}; weights are F32, BF16, F16 or F64",
                                  path_, entry.name, entry.dtype));
  }
  const auto wanted = static_cast<std::int64_t>(out.size());
  if (first < 0 || first > entry.num_elements() || wanted > entry.num_elements() - first) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("{}: tensor '{}' has {} elements; cannot read {} from element {}",
                                  path_, entry.name, entry.num_elements(), wanted, first));
  }
  const std::size_t element = bytes_of(*format);
  std::vector<std::byte> piece(std::min(kPieceBytes, out.size() * element));
  std::uint64_t at = data_begin_ + entry.begin + static_cast<std::uint64_t>(first) * element;
  while (!out.empty()) {
    const std::size_t count = std::min(out.size(), kPieceBytes / element);
    const auto bytes = std::span(piece).first(count * element);
    TENAX_RETURN_IF_ERROR(read_exactly(fd_, path_, at, bytes));
    decode_floats(bytes, *format, out.first(count));
    at += bytes.size();
    out = out.subspan(count);
  }
  return {};
}

Status SafetensorsModel::add_file(SafetensorsFile file) {
  const auto& entries = file.header().entries;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto [at, added] = places_.insert({entries[i].name, {files_.size(), i}});
    if (!added) {
      return make_error(ErrorCode::kDataLoss,
                        fmt::format("tensor '{}' is both in {} and in {}", entries[i].name,
                                    files_[at->second.file].path(), file.path()));
    }
  }
  files_.push_back(std::move(file));
  return {};
}

Result<SafetensorsModel> SafetensorsModel::open(const std::string& path) {
  namespace fs = std::filesystem;
  SafetensorsModel model;
  std::error_code ec;
  const fs::path folder = path;
  if (!fs::is_directory(folder, ec) || fs::exists(folder / kFileName, ec)) {
    const bool is_folder = fs::is_directory(folder, ec);
    TENAX_TRY(auto file, SafetensorsFile::open(is_folder ? (folder / kFileName).string() : path));
    TENAX_RETURN_IF_ERROR(model.add_file(std::move(file)));
    return model;
  }
  if (!fs::exists(folder / kIndexName, ec)) {
    return make_error(ErrorCode::kNotFound,
                      fmt::format("{} has neither {} nor {}", path, kFileName, kIndexName));
  }
  TENAX_TRY(const auto index, read_index(folder / kIndexName));
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  for (const std::string& name : names) {
    TENAX_TRY(auto file, SafetensorsFile::open((folder / name).string()));
    TENAX_RETURN_IF_ERROR(model.add_file(std::move(file)));
  }
  for (const auto& [tensor, file] : index) {
    const auto at = model.places_.find(tensor);
    if (at != model.places_.end() &&
        model.files_[at->second.file].path() == (folder / file).string()) {
      continue;
    }
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} names tensor '{}' in {}, which does not have it",
                                  (folder / kIndexName).string(), tensor, file));
  }
  return model;
}

std::vector<std::string> SafetensorsModel::names() const {
  std::vector<std::string> out;
  for (const auto& [name, place] : places_) out.push_back(name);
  return out;
}

const SafetensorsEntry* SafetensorsModel::find(const std::string& name) const {
  const auto at = places_.find(name);
  if (at == places_.end()) return nullptr;
  return &files_[at->second.file].header().entries[at->second.entry];
}

Status SafetensorsModel::read(const std::string& name, std::int64_t first,
                              std::span<float> out) const {
  const auto at = places_.find(name);
  if (at == places_.end()) {
    return make_error(ErrorCode::kNotFound, fmt::format("there is no tensor '{}'", name));
  }
  const SafetensorsFile& file = files_[at->second.file];
  return file.read(file.header().entries[at->second.entry], first, out);
}

}  // namespace tenax::checkpoint

#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "checkpoint/files.h"
#include "checkpoint/safetensors_reader.h"

namespace tenax::checkpoint {

namespace {

constexpr std::size_t kPieceElements = 1 << 18;
constexpr const char* kPartial = ".partial";

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& folder,
                                                    std::vector<OutgoingTensor> tensors,
                                                    SafetensorsWriteOptions options) {
  const auto invalid = [](const std::string& what) {
    return make_error(ErrorCode::kInvalidArgument, "write safetensors: " + what);
  };
  if (options.format == FloatFormat::kF64) return invalid("F64 is not written");
  SafetensorsWriter writer(folder, std::move(options));
  std::set<std::string> names;
  std::uint64_t in_file = 0;
  for (OutgoingTensor& t : tensors) {
    if (!names.insert(t.name).second) return invalid(fmt::format("tensor '{}' twice", t.name));
    SafetensorsEntry entry{std::move(t.name), std::string(name_of(writer.options_.format)),
                           std::move(t.shape), 0, 0};
    const std::uint64_t bytes =
        static_cast<std::uint64_t>(entry.num_elements()) * bytes_of(writer.options_.format);
    if (writer.files_.empty() ||
        (bytes > 0 && in_file > 0 && in_file + bytes > writer.options_.max_file_bytes)) {
      writer.files_.emplace_back();
      in_file = 0;
    }
    in_file += bytes;
    writer.files_.back().entries.push_back(std::move(entry));
  }
  if (writer.files_.empty()) return invalid("there are no tensors");
  for (std::size_t i = 0; i < writer.files_.size(); ++i) {
    OutFile& file = writer.files_[i];
    file.name = writer.files_.size() == 1
                    ? std::string(SafetensorsModel::kFileName)
                    : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, writer.files_.size());
    assign_data_offsets(file.entries);
  }
  TENAX_RETURN_IF_ERROR(writer.open_file());
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (finished_) return;
  for (const OutFile& file : files_) ::unlink(partial_path(file).c_str());
  if (files_.size() > 1) ::unlink((index_path() + kPartial).c_str());
}

std::string SafetensorsWriter::index_path() const {
  return fmt::format("{}/{}", folder_, SafetensorsModel::kIndexName);
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : folder_(std::move(other.folder_)),
      options_(std::move(other.options_)),
      files_(std::exchange(other.files_, {})),
      file_(other.file_),
      entry_(other.entry_),
      element_(other.element_),
      fd_(std::exchange(other.fd_, -1)),
      finished_(other.finished_) {}

std::string SafetensorsWriter::partial_path(const OutFile& file) const {
  return fmt::format("{}/{}{}", folder_, file.name, kPartial);
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return from_errno("write", partial_path(files_[file_]), errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Status SafetensorsWriter::open_file() {
  const std::string path = partial_path(files_[file_]);
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) return from_errno("create", path, errno);
  const std::string header = encode_safetensors_header({files_[file_].entries, options_.metadata});
  return write(std::as_bytes(std::span(header)));
}

Status SafetensorsWriter::close_file() {
  const int fd = std::exchange(fd_, -1);
  const bool synced = ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!synced) return from_errno("sync", partial_path(files_[file_]), error);
  return {};
}

Status SafetensorsWriter::append(std::span<const float> values) {
  while (file_ < files_.size() && entry_ < files_[file_].entries.size() && !values.empty() &&
         element_ == files_[file_].entries[entry_].num_elements()) {
    element_ = 0;
    if (++entry_ < files_[file_].entries.size()) continue;
    if (file_ + 1 == files_.size()) break;
    TENAX_RETURN_IF_ERROR(close_file());
    ++file_;
    entry_ = 0;
    TENAX_RETURN_IF_ERROR(open_file());
  }
  if (values.empty()) return {};
  if (entry_ == files_[file_].entries.size()) {
    return make_error(ErrorCode::kInvalidArgument, "more values than the tensors have elements");
  }
  const SafetensorsEntry& entry = files_[file_].entries[entry_];
  if (static_cast<std::int64_t>(values.size()) > entry.num_elements() - element_) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("tensor '{}' has {} elements left, got {}", entry.name,
                                  entry.num_elements() - element_, values.size()));
  }
  const std::size_t element_bytes = bytes_of(options_.format);
  std::vector<std::byte> piece(std::min(values.size(), kPieceElements) * element_bytes);
  while (!values.empty()) {
    const auto part = values.first(std::min(values.size(), kPieceElements));
    const auto bytes = std::span(piece).first(part.size() * element_bytes);
    if (const auto overflow = encode_floats(part, options_.format, bytes)) {
      return make_error(
          ErrorCode::kInvalidArgument,
          fmt::format("tensor '{}', element {}: {} does not fit {}; choose another dtype",
                      entry.name, element_ + static_cast<std::int64_t>(*overflow), part[*overflow],
                      name_of(options_.format)));
    }
    TENAX_RETURN_IF_ERROR(write(bytes));
    element_ += static_cast<std::int64_t>(part.size());
    values = values.subspan(part.size());
  }
  return {};
}

std::string SafetensorsWriter::index_json() const {
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const OutFile& file : files_) {
    for (const SafetensorsEntry& e : file.entries) map[e.name] = file.name;
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", data_bytes()}}},
                                        {"weight_map", std::move(map)}};
  return index.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Status SafetensorsWriter::write_index() {
  const std::string path = index_path();
  const std::string partial = path + kPartial;
  fd_ = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) return from_errno("create", partial, errno);
  const std::string text = index_json();
  TENAX_RETURN_IF_ERROR(write(std::as_bytes(std::span(text))));
  TENAX_RETURN_IF_ERROR(close_file());
  if (::rename(partial.c_str(), path.c_str()) != 0) return from_errno("rename", path, errno);
  return {};
}

Status SafetensorsWriter::finish() {
  const SafetensorsEntry* missing = nullptr;
  std::int64_t have = element_;
  for (std::size_t f = file_; f < files_.size() && missing == nullptr; ++f) {
    const auto& entries = files_[f].entries;
    for (std::size_t e = f == file_ ? entry_ : 0; e < entries.size() && missing == nullptr; ++e) {
      if (have < entries[e].num_elements()) missing = &entries[e];
      have = 0;
    }
  }
  if (missing != nullptr) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("tensor '{}' is not complete", missing->name));
  }
  TENAX_RETURN_IF_ERROR(close_file());
  for (const OutFile& file : files_) {
    const std::string path = folder_ + "/" + file.name;
    if (::rename(partial_path(file).c_str(), path.c_str()) != 0) {
      return from_errno("rename", path, errno);
    }
  }
  if (files_.size() > 1) TENAX_RETURN_IF_ERROR(write_index());
  TENAX_RETURN_IF_ERROR(sync_directory(folder_));
  finished_ = true;
  return {};
}

std::vector<std::string> SafetensorsWriter::paths() const {
  std::vector<std::string> out;
  for (const OutFile& file : files_) out.push_back(folder_ + "/" + file.name);
  if (files_.size() > 1) out.push_back(index_path());
  return out;
}

std::uint64_t SafetensorsWriter::data_bytes() const {
  std::uint64_t sum = 0;
  for (const OutFile& file : files_) sum += file.entries.back().end;
  return sum;
}

}  // namespace tenax::checkpoint

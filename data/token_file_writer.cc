#include "data/token_file_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "data/durable_file.h"
#include "data/token_file_format.h"

namespace tenax::data {

namespace {

constexpr std::size_t kWriteBytes = std::size_t{1} << 20;

}  // namespace

Result<TokenFileWriter> TokenFileWriter::create(const std::filesystem::path& path,
                                                const Options& options) {
  TENAX_CHECK(options.vocabulary_size >= 1);
  TokenFileWriter writer;
  writer.path_ = path;
  writer.temporary_path_ = temporary_path_for(path);
  writer.info_.vocabulary_size = options.vocabulary_size;
  writer.info_.token_width_bytes = options.vocabulary_size <= 65536 ? 2 : 4;
  writer.info_.tokenizer_digest = options.tokenizer_digest;
  writer.fd_ =
      ::open(writer.temporary_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer.fd_ < 0) return file_error("creating token file", writer.temporary_path_, errno);
  // Room for the header, which is known only at the end.
  const TokenFileHeader header{};
  if (!write_all(writer.fd_, std::as_bytes(std::span(&header, 1)))) {
    return file_error("writing token file", writer.temporary_path_, errno);
  }
  return writer;
}

TokenFileWriter::TokenFileWriter(TokenFileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::move(other.temporary_path_)),
      fd_(std::exchange(other.fd_, -1)),
      info_(other.info_),
      content_(std::move(other.content_)),
      buffer_(std::move(other.buffer_)) {}

TokenFileWriter& TokenFileWriter::operator=(TokenFileWriter&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_path_, other.temporary_path_);
  std::swap(fd_, other.fd_);
  std::swap(info_, other.info_);
  std::swap(content_, other.content_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

TokenFileWriter::~TokenFileWriter() { abandon(); }

void TokenFileWriter::abandon() {
  if (fd_ < 0) return;
  ::close(std::exchange(fd_, -1));
  ::unlink(temporary_path_.c_str());
}

Status TokenFileWriter::append(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= info_.vocabulary_size) {
      return make_error(
          ErrorCode::kInvalidArgument,
          fmt::format("token file {}: token {} at index {} is outside the vocabulary of {}",
                      path_.string(), token, info_.num_tokens, info_.vocabulary_size));
    }
    const std::size_t at = buffer_.size();
    const auto width = static_cast<std::size_t>(info_.token_width_bytes);
    buffer_.resize(at + width);
    // Little-endian: the low bytes come first.
    std::memcpy(buffer_.data() + at, &token, width);
    ++info_.num_tokens;
    if (buffer_.size() >= kWriteBytes) TENAX_RETURN_IF_ERROR(flush());
  }
  return {};
}

Status TokenFileWriter::flush() {
  content_.update(std::span<const std::byte>(buffer_));
  if (!write_all(fd_, buffer_)) return file_error("writing token file", temporary_path_, errno);
  buffer_.clear();
  return {};
}

Result<TokenFileInfo> TokenFileWriter::finish() {
  TENAX_CHECK(fd_ >= 0);
  TENAX_RETURN_IF_ERROR(flush());
  info_.content_hash = content_.digest();
  TokenFileHeader header{};
  std::memcpy(header.magic, kTokenFileMagic, sizeof kTokenFileMagic);
  header.version = kTokenFileVersion;
  header.token_width_bytes = static_cast<std::uint32_t>(info_.token_width_bytes);
  header.num_tokens = info_.num_tokens;
  header.vocabulary_size = info_.vocabulary_size;
  header.tokenizer_digest = info_.tokenizer_digest;
  header.content_hash = info_.content_hash;
  header.header_hash = hash_of(header);
  if (::lseek(fd_, 0, SEEK_SET) != 0 || !write_all(fd_, std::as_bytes(std::span(&header, 1)))) {
    return file_error("writing token file", temporary_path_, errno);
  }
  if (::fsync(fd_) != 0) return file_error("syncing token file", temporary_path_, errno);
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return file_error("renaming token file to", path_, errno);
  }
  ::close(std::exchange(fd_, -1));
  TENAX_RETURN_IF_ERROR(sync_folder_of(path_));
  return info_;
}

}  // namespace tenax::data

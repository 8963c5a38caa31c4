#include "data/token_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "data/durable_file.h"
#include "data/token_file_format.h"

namespace tenax::data {

namespace {

Error damaged(const std::filesystem::path& path, std::string_view what) {
  return make_error(ErrorCode::kDataLoss, fmt::format("token file {}: {}", path.string(), what));
}

Result<TokenFileInfo> parse_header(const std::filesystem::path& path, const TokenFileHeader& header,
                                   std::size_t file_bytes) {
  if (std::memcmp(header.magic, kTokenFileMagic, sizeof kTokenFileMagic) != 0) {
    return damaged(path, "not a token file (no TENAXTOK at its start)");
  }
  if (header.version != kTokenFileVersion) {
    return make_error(ErrorCode::kUnsupported,
                      fmt::format("token file {}: format version {}, this program reads {}",
                                  path.string(), header.version, kTokenFileVersion));
  }
  if (header.header_hash != hash_of(header)) {
    return damaged(path, fmt::format("damaged header (expected hash {}, got {})",
                                     header.header_hash.hex(), hash_of(header).hex()));
  }
  const bool sane = (header.token_width_bytes == 2 || header.token_width_bytes == 4) &&
                    header.num_tokens >= 0 && header.vocabulary_size >= 1;
  if (!sane) {
    return damaged(
        path, fmt::format("impossible header ({} bytes a token, {} tokens, vocabulary {})",
                          header.token_width_bytes, header.num_tokens, header.vocabulary_size));
  }
  const auto token_bytes = file_bytes - sizeof(TokenFileHeader);
  if (token_bytes % header.token_width_bytes != 0 ||
      token_bytes / header.token_width_bytes != static_cast<std::uint64_t>(header.num_tokens)) {
    return damaged(path,
                   fmt::format("expected {} tokens of {} bytes after the header, got {} bytes",
                               header.num_tokens, header.token_width_bytes, token_bytes));
  }
  return TokenFileInfo{header.num_tokens, header.vocabulary_size,
                       static_cast<std::int32_t>(header.token_width_bytes), header.tokenizer_digest,
                       header.content_hash};
}

}  // namespace

Result<TokenFile> TokenFile::open(const std::filesystem::path& path, const OpenOptions& options) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return file_error("opening token file", path, errno);
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    const int error_number = errno;
    ::close(fd);
    return file_error("reading token file", path, error_number);
  }
  const auto file_bytes = static_cast<std::size_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || file_bytes < sizeof(TokenFileHeader)) {
    ::close(fd);
    return damaged(path, fmt::format("expected at least {} bytes, got {}", sizeof(TokenFileHeader),
                                     file_bytes));
  }
  void* mapping = ::mmap(nullptr, file_bytes, PROT_READ, MAP_SHARED, fd, 0);
  const int error_number = errno;
  ::close(fd);
  if (mapping == MAP_FAILED) return file_error("mapping token file", path, error_number);

  TokenFile file;
  file.mapping_ = static_cast<const std::byte*>(mapping);
  file.mapping_bytes_ = file_bytes;
  TokenFileHeader header;
  std::memcpy(&header, file.mapping_, sizeof header);
  TENAX_TRY(file.info_, parse_header(path, header, file_bytes));

  if (options.verify == Verify::kContent) {
    const Hash128 content = hash128(
        std::span(file.mapping_ + sizeof(TokenFileHeader), file_bytes - sizeof(TokenFileHeader)));
    if (content != file.info_.content_hash) {
      return damaged(path, fmt::format("damaged tokens (expected hash {}, got {})",
                                       file.info_.content_hash.hex(), content.hex()));
    }
  }
  if (options.tokenizer_digest && *options.tokenizer_digest != file.info_.tokenizer_digest) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("token file {}: made with another tokenizer (expected {}, got {})",
                    path.string(), options.tokenizer_digest->hex(),
                    file.info_.tokenizer_digest.hex()));
  }
  if (options.content_hash && *options.content_hash != file.info_.content_hash) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("token file {}: other tokens than before (expected {}, got {})", path.string(),
                    options.content_hash->hex(), file.info_.content_hash.hex()));
  }
  return file;
}

TokenFile::TokenFile(TokenFile&& other) noexcept
    : info_(other.info_),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_bytes_(std::exchange(other.mapping_bytes_, 0)) {}

TokenFile& TokenFile::operator=(TokenFile&& other) noexcept {
  std::swap(info_, other.info_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  return *this;
}

TokenFile::~TokenFile() {
  if (mapping_ != nullptr) ::munmap(const_cast<std::byte*>(mapping_), mapping_bytes_);
}

std::int32_t TokenFile::operator[](std::int64_t i) const {
  std::int32_t token = 0;
  read(i, std::span(&token, 1));
  return token;
}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> out) const {
  TENAX_CHECK(begin >= 0 && begin + static_cast<std::int64_t>(out.size()) <= info_.num_tokens);
  const std::byte* first = mapping_ + sizeof(TokenFileHeader) + begin * info_.token_width_bytes;
  if (info_.token_width_bytes == 4) {
    std::memcpy(out.data(), first, out.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t token;
    std::memcpy(&token, first + 2 * i, sizeof token);
    out[i] = token;
  }
}

}  // namespace tenax::data

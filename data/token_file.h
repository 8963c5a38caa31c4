// Memory-mapped files of token ids, read side; data/token_file_format.h has the layout. Documents
// follow one another, each ended by the tokenizer's end-of-document token. Immutable, any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "common/hash.h"
#include "common/result.h"

namespace tenax::data {

struct TokenFileInfo {
  std::int64_t num_tokens = 0;
  std::int64_t vocabulary_size = 0;
  std::int32_t token_width_bytes = 2;
  Hash128 tokenizer_digest;
  Hash128 content_hash;
  bool operator==(const TokenFileInfo&) const = default;
};

class TokenFile {
 public:
  enum class Verify {
    kHeader,   ///< header and file size; O(1)
    kContent,  ///< also reads every token byte and compares the content hash
  };
  struct OpenOptions {
    Verify verify = Verify::kHeader;
    std::optional<Hash128> tokenizer_digest;  ///< refuse a file made with another tokenizer
    std::optional<Hash128> content_hash;      ///< refuse a file with other tokens, as when resuming
  };

  /// kNotFound, kPermission, kIo; kDataLoss if the file is damaged or is no token file;
  /// kUnsupported for another format version; kInvalidArgument if it is sound but not the one that
  /// `options` asks for.
  static Result<TokenFile> open(const std::filesystem::path& path, const OpenOptions& options);
  static Result<TokenFile> open(const std::filesystem::path& path) { return open(path, {}); }

  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&& other) noexcept;
  ~TokenFile();

  const TokenFileInfo& info() const { return info_; }
  std::int64_t num_tokens() const { return info_.num_tokens; }
  std::int32_t operator[](std::int64_t i) const;
  /// The token that ends every document: the file's last. The file must not be empty.
  std::int32_t end_of_document() const { return (*this)[info_.num_tokens - 1]; }
  /// Copies tokens [begin, begin + out.size()), which must be inside the file.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;

 private:
  TokenFile() = default;

  TokenFileInfo info_;
  const std::byte* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
};

}  // namespace tenax::data

// Writes token files (data/token_file_format.h). Confined to one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "common/hash.h"
#include "common/result.h"
#include "data/token_file.h"

namespace tenax::data {

/// Streams tokens into a temporary file beside `path`; finish() makes it appear there, replacing
/// what was there. An unfinished writer removes its temporary file.
class TokenFileWriter {
 public:
  struct Options {
    std::int64_t vocabulary_size = 0;  ///< up to 65536: 2 bytes a token; otherwise 4
    Hash128 tokenizer_digest;
  };

  static Result<TokenFileWriter> create(const std::filesystem::path& path, const Options& options);

  TokenFileWriter(TokenFileWriter&& other) noexcept;
  TokenFileWriter& operator=(TokenFileWriter&& other) noexcept;
  ~TokenFileWriter();

  /// kInvalidArgument for a token outside the vocabulary; kNoSpace, kIo. After an error the writer
  /// is useless.
  Status append(std::span<const std::int32_t> tokens);
  /// Writes the header, syncs file and folder, renames. Call once, last.
  Result<TokenFileInfo> finish();

 private:
  TokenFileWriter() = default;
  Status flush();
  void abandon();

  std::filesystem::path path_;
  std::filesystem::path temporary_path_;
  int fd_ = -1;
  TokenFileInfo info_;
  Hasher128 content_;
  std::vector<std::byte> buffer_;
};

}  // namespace tenax::data

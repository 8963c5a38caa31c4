#include "data/tokenize.h"

#include <algorithm>
#include <string>

#include "data/durable_file.h"
#include "data/token_file_writer.h"

namespace tenax::data {

namespace {

/// Removes a scratch file on every way out.
class ScratchFile {
 public:
  explicit ScratchFile(std::filesystem::path path) : path_(std::move(path)) {}
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct TokenRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

Status copy_tokens(const TokenFile& from, TokenRange range, TokenFileWriter& to) {
  std::vector<std::int32_t> tokens(65536);
  while (range.begin < range.end) {
    const auto n = std::min<std::int64_t>(65536, range.end - range.begin);
    const auto block = std::span(tokens).first(static_cast<std::size_t>(n));
    from.read(range.begin, block);
    TENAX_RETURN_IF_ERROR(to.append(block));
    range.begin += n;
  }
  return {};
}

}  // namespace

Result<TokenizedCorpus> tokenize_corpus(const std::vector<std::filesystem::path>& documents,
                                        const Tokenizer& tokenizer, const SplitOptions& split,
                                        const TokenizePaths& paths) {
  const TokenFileWriter::Options file_options{tokenizer.vocabulary_size(), tokenizer.digest()};
  const std::int32_t end_of_document[] = {tokenizer.end_of_document()};
  TokenizedCorpus corpus;

  // The split needs all lengths first, and encoding twice costs more than writing twice.
  std::filesystem::path scratch_path = paths.train;
  scratch_path += ".all";
  const ScratchFile scratch(scratch_path);
  std::vector<std::int64_t> lengths;
  {
    TENAX_TRY(TokenFileWriter all, TokenFileWriter::create(scratch.path(), file_options));
    for (const std::filesystem::path& document : documents) {
      TENAX_TRY(const std::string text, read_file(document));
      const std::vector<std::int32_t> tokens = tokenizer.encode(text);
      TENAX_RETURN_IF_ERROR(all.append(tokens));
      lengths.push_back(static_cast<std::int64_t>(tokens.size()));
      corpus.num_bytes += static_cast<std::int64_t>(text.size());
    }
    TENAX_RETURN_IF_ERROR(all.finish());
  }
  corpus.num_documents = static_cast<std::int64_t>(documents.size());

  TENAX_TRY(const TokenFile all, TokenFile::open(scratch.path()));
  TENAX_TRY(TokenFileWriter train, TokenFileWriter::create(paths.train, file_options));
  TENAX_TRY(TokenFileWriter heldout, TokenFileWriter::create(paths.heldout, file_options));
  const std::vector<std::int64_t> num_trained = split_documents(lengths, split);
  std::int64_t begin = 0;
  for (std::size_t d = 0; d < lengths.size(); ++d) {
    const std::int64_t cut = begin + num_trained[d];
    const std::int64_t end = begin + lengths[d];
    if (begin < cut) {
      TENAX_RETURN_IF_ERROR(copy_tokens(all, {begin, cut}, train));
      TENAX_RETURN_IF_ERROR(train.append(end_of_document));
    }
    if (cut < end) {
      TENAX_RETURN_IF_ERROR(copy_tokens(all, {cut, end}, heldout));
      TENAX_RETURN_IF_ERROR(heldout.append(end_of_document));
    }
    begin = end;
  }
  TENAX_TRY(corpus.train, train.finish());
  TENAX_TRY(corpus.heldout, heldout.finish());
  return corpus;
}

}  // namespace tenax::data

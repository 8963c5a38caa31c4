#include "tools/text_tokenizer.h"

#include <fmt/format.h>

#include <string>
#include <system_error>
#include <utility>

#include "actors/run_directory.h"
#include "data/bpe_tokenizer.h"
#include "data/bpe_trainer.h"

namespace tenax::tools {

namespace {

constexpr const char* kBpeFile = "tokenizer.json";
constexpr const char* kGpt2Folder = "gpt2";

std::unique_ptr<data::Tokenizer> boxed(data::BpeTokenizer tokenizer) {
  return std::make_unique<data::BpeTokenizer>(std::move(tokenizer));
}

Result<data::BpeTokenizer> train(const std::vector<std::filesystem::path>& documents,
                                 std::int64_t vocabulary_size) {
  data::BpeTrainer trainer;
  for (const std::filesystem::path& document : documents) {
    TENAX_TRY(const std::string text, actors::read_file(document));
    trainer.add(text);
  }
  return trainer.train(vocabulary_size);
}

/// A copy, so that the run does not depend on the folder that it came from.
Status copy_gpt2(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code ec;
  std::filesystem::create_directories(to, ec);
  if (ec) {
    return make_error(ErrorCode::kPermission,
                      fmt::format("create {}: {}", to.string(), ec.message()));
  }
  for (const char* name : {"encoder.json", "vocab.bpe"}) {
    TENAX_TRY(const std::string text, actors::read_file(from / name));
    TENAX_RETURN_IF_ERROR(actors::write_file(to / name, text, 0644));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<data::Tokenizer>> make_tokenizer(
    const TokenizerChoice& choice, const std::vector<std::filesystem::path>& documents,
    const std::filesystem::path& folder) {
  switch (choice.kind) {
    case configs::TokenizerKind::kBytes:
      break;
    case configs::TokenizerKind::kBpe: {
      TENAX_TRY(const data::BpeTokenizer tokenizer, train(documents, choice.vocabulary_size));
      TENAX_RETURN_IF_ERROR(tokenizer.save(folder / kBpeFile));
      break;
    }
    case configs::TokenizerKind::kGpt2:
      TENAX_RETURN_IF_ERROR(copy_gpt2(choice.gpt2_dir, folder / kGpt2Folder));
      break;
  }
  return open_tokenizer(choice.kind, folder);
}

Result<std::unique_ptr<data::Tokenizer>> open_tokenizer(configs::TokenizerKind kind,
                                                        const std::filesystem::path& folder) {
  switch (kind) {
    case configs::TokenizerKind::kBytes:
      break;
    case configs::TokenizerKind::kBpe: {
      TENAX_TRY(data::BpeTokenizer tokenizer, data::BpeTokenizer::open(folder / kBpeFile));
      return boxed(std::move(tokenizer));
    }
    case configs::TokenizerKind::kGpt2: {
      TENAX_TRY(data::BpeTokenizer tokenizer, data::BpeTokenizer::open_gpt2(folder / kGpt2Folder));
      return boxed(std::move(tokenizer));
    }
  }
  return std::unique_ptr<data::Tokenizer>(new data::ByteTokenizer);
}

}  // namespace tenax::tools

#include "tools/tokenize_command.h"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <nlohmann/json.hpp>
#include <ostream>
#include <system_error>

#include "data/corpus.h"
#include "data/tokenize.h"
#include "scheduler/exit_code.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

Result<data::TokenizedCorpus> tokenize(const TokenizeArguments& arguments,
                                       std::vector<std::string>& notices) {
  if (!(arguments.heldout_fraction >= 0 && arguments.heldout_fraction < 1)) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("--heldout is {}, must be at least 0 and below 1", arguments.heldout_fraction));
  }
  TENAX_TRY(const data::DocumentList documents,
            data::collect_documents(std::filesystem::current_path(), arguments.text));
  notices = documents.notices;
  std::error_code ec;
  std::filesystem::create_directories(arguments.out, ec);
  if (ec) {
    return make_error(ErrorCode::kPermission,
                      fmt::format("create {}: {}", arguments.out.string(), ec.message()));
  }
  TENAX_TRY(const auto tokenizer,
            make_tokenizer(arguments.tokenizer, documents.files, arguments.out));
  return data::tokenize_corpus(documents.files, *tokenizer,
                               {arguments.heldout_fraction, arguments.seed},
                               {arguments.out / "train.tok", arguments.out / "heldout.tok"});
}

json to_json(const data::TokenFileInfo& info) {
  return {{"tokens", info.num_tokens}, {"digest", info.content_hash.hex()}};
}

}  // namespace

int run_tokenize(const TokenizeArguments& arguments, std::ostream& out, std::ostream& errors) {
  std::vector<std::string> notices;
  const auto corpus = tokenize(arguments, notices);
  if (!corpus) {
    fmt::print(errors, "tenax: {}\n", corpus.error().message);
    return scheduler::kExitConfig;
  }
  for (const std::string& notice : notices) fmt::print(errors, "notice: {}\n", notice);
  if (arguments.json) {
    const json j = {{"documents", corpus->num_documents},
                    {"bytes", corpus->num_bytes},
                    {"vocabulary_size", corpus->train.vocabulary_size},
                    {"tokenizer_digest", corpus->train.tokenizer_digest.hex()},
                    {"train", to_json(corpus->train)},
                    {"heldout", to_json(corpus->heldout)}};
    fmt::print(out, "{}\n", j.dump());
    return scheduler::kExitDone;
  }
  fmt::print(out, "{} documents, {} bytes, {} tokens in the vocabulary ({})\n",
             corpus->num_documents, corpus->num_bytes, corpus->train.vocabulary_size,
             corpus->train.tokenizer_digest.hex());
  fmt::print(out, "train.tok    {:>12} tokens  {}\n", corpus->train.num_tokens,
             corpus->train.content_hash.hex());
  fmt::print(out, "heldout.tok  {:>12} tokens  {}\n", corpus->heldout.num_tokens,
             corpus->heldout.content_hash.hex());
  return scheduler::kExitDone;
}

}  // namespace tenax::tools

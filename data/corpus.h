// Which files a run trains on. The list depends on the files alone, not on where they lie or in
// which order the file system names them. No thread rule; reads files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/result.h"

namespace tenax::data {

struct DocumentList {
  std::vector<std::filesystem::path>
      files;                         ///< each once, ascending by path relative to the base folder
  std::vector<std::string> notices;  ///< a line for each file that was left out, and why
};

/// The documents that `patterns` (data/glob.h) name. Files with a zero byte near their start are no
/// text and are left out, so are empty ones. Every pattern must give at least one document. All
/// problems come in one error, a line each: kNotFound if a pattern gives nothing, otherwise the
/// code of the first file that cannot be read.
Result<DocumentList> collect_documents(const std::filesystem::path& base_dir,
                                       const std::vector<std::string>& patterns);

}  // namespace tenax::data

// `tenax model`: the model cards, their parameters by part, and the memory of a rank in a layout.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>

#include "compute/model_options.h"
#include "tools/layout_memory.h"

namespace tenax::tools {

/// Numbers of parameters. A tied head has none of its own.
struct ParameterCounts {
  std::int64_t embedding = 0;  ///< token and position vectors
  std::int64_t attention = 0;
  std::int64_t ffn = 0;
  std::int64_t norms = 0;
  std::int64_t head = 0;
  std::int64_t total() const { return embedding + attention + ffn + norms + head; }
};
ParameterCounts count_parameters(const compute::ModelOptions& options);

struct ModelArguments {
  std::string name;  ///< of a card, or a path
  bool json = false;
  LayoutQuestion layout;
};

/// Return an ExitCode (scheduler/exit_code.h).
int run_model_list(bool as_json, std::ostream& out, std::ostream& errors);
int run_model_show(const ModelArguments& arguments, std::ostream& out, std::ostream& errors);

}  // namespace tenax::tools

#include "tools/checkpoint_weights.h"

#include <cstdint>
#include <vector>

#include "checkpoint/reader.h"

namespace tenax::tools {

Result<std::unique_ptr<compute::Stage>> load_whole_model(const checkpoint::StoreView& store,
                                                         const checkpoint::Manifest& manifest,
                                                         const compute::ModelOptions& model,
                                                         const compute::BatchShape& shape,
                                                         compute::Precision precision) {
  compute::StageSettings settings;
  settings.precision = precision;
  TENAX_TRY(auto stage,
            compute::Stage::create(model, compute::whole_model(model), shape, 0, settings));
  const checkpoint::CheckpointReader reader(store, manifest);
  std::vector<checkpoint::BoxRequest> requests;
  for (const compute::StageParameter& p : stage->parameters()) {
    const Box whole{std::vector<std::int64_t>(p.spec.shape.size(), 0), p.spec.shape};
    requests.push_back({checkpoint::kParameter, p.spec.name, whole,
                        stage->values().subspan(static_cast<std::size_t>(p.offset),
                                                static_cast<std::size_t>(p.size))});
  }
  TENAX_RETURN_IF_ERROR(reader.read_boxes(requests, 1));
  return stage;
}

}  // namespace tenax::tools

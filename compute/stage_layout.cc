#include "compute/stage_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "compute/aligned_buffer.h"

namespace tenax::compute {
namespace {

std::int64_t aligned(std::int64_t n) {
  return static_cast<std::int64_t>(align_floats(static_cast<std::size_t>(n)));
}

/// Offset of the tensor `name`, or -1.
std::int64_t find(const StageLayout& layout, const std::string& name) {
  const auto at = std::ranges::find(layout.parameters, name,
                                    [](const StageParameter& p) { return p.spec.name; });
  return at == layout.parameters.end() ? -1 : at->offset;
}

NormOffsets find_norm(const StageLayout& layout, const std::string& prefix) {
  return {find(layout, prefix + ".weight"), find(layout, prefix + ".bias")};
}

LinearOffsets find_linear(const StageLayout& layout, const std::string& prefix) {
  return {find(layout, prefix + ".weight"), find(layout, prefix + ".bias")};
}

LayerOffsets find_layer(const StageLayout& layout, int layer) {
  const std::string prefix = fmt::format("layers.{}.", layer);
  LayerOffsets at;
  at.attention_norm = find_norm(layout, prefix + "attention_norm");
  at.query_norm = find_norm(layout, prefix + "attention.query_norm");
  at.key_norm = find_norm(layout, prefix + "attention.key_norm");
  at.ffn_norm = find_norm(layout, prefix + "ffn_norm");
  at.query = find_linear(layout, prefix + "attention.query");
  at.key = find_linear(layout, prefix + "attention.key");
  at.value = find_linear(layout, prefix + "attention.value");
  at.output = find_linear(layout, prefix + "attention.output");
  at.gate = find_linear(layout, prefix + "ffn.gate");
  at.up = find_linear(layout, prefix + "ffn.up");
  at.down = find_linear(layout, prefix + "ffn.down");
  return at;
}

/// The part of a backward that adds to a tensor's gradient last.
int backward_part(const std::string& name, const StageSpec& spec) {
  if (name.starts_with("embedding."))
    return spec.has_embedding ? spec.end_layer - spec.first_layer + 1 : 0;
  for (int layer = spec.first_layer; layer < spec.end_layer; ++layer)
    if (name.starts_with(fmt::format("layers.{}.", layer))) return spec.end_layer - layer;
  return 0;
}

std::vector<GradientExtent> backward_order(const StageLayout& layout, const StageSpec& spec) {
  std::vector<GradientExtent> order;
  const auto add = [&](int part, std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    if (!order.empty() && order.back().part == part && order.back().end == begin)
      order.back().end = end;
    else
      order.push_back({part, begin, end});
  };
  for (std::size_t i = 0; i < layout.parameters.size(); ++i) {
    const StageParameter& p = layout.parameters[i];
    add(backward_part(p.spec.name, spec), p.offset, p.offset + aligned(p.size));
  }
  add(0, layout.values_size, layout.gradient_size);
  std::ranges::sort(order, {}, [](const GradientExtent& e) { return std::pair(e.part, e.begin); });
  return order;
}

}  // namespace

StageLayout lay_out_stage(const ModelOptions& options, const StageSpec& spec) {
  StageLayout layout;
  const bool tied_head = spec.has_head && options.tied_output;
  for (ParameterSpec& tensor : stage_parameters(options, spec.first_layer, spec.end_layer,
                                                spec.has_embedding, spec.has_head)) {
    StageParameter p;
    p.spec = std::move(tensor);
    p.offset = layout.values_size;
    p.held = held_part(options, p.spec, spec.tensor);
    p.size = p.held.elements;
    GradientPart part{GradientPartKind::kWhole, p.offset};
    if (options.tied_output && p.spec.name == kTokenEmbedding)
      part.kind = spec.has_embedding ? GradientPartKind::kEmbeddingInput
                                     : GradientPartKind::kEmbeddingOutput;
    p.gradients.push_back(part);
    layout.values_size += aligned(p.size);
    layout.parameters.push_back(std::move(p));
  }
  layout.gradient_size = layout.values_size;

  if (spec.has_embedding) {
    layout.token = find(layout, kTokenEmbedding);
    layout.position = find(layout, "embedding.position.weight");
    layout.embedding_norm = find_norm(layout, "embedding.norm");
  }
  for (int layer = spec.first_layer; layer < spec.end_layer; ++layer)
    layout.layers.push_back(find_layer(layout, layer));
  if (spec.has_head) {
    layout.final_norm = find_norm(layout, "final_norm");
    layout.output = find(layout, tied_head ? kTokenEmbedding : "output.weight");
    layout.output_gradient = layout.output;
  }
  if (tied_head && spec.has_embedding) {
    StageParameter& token = layout.parameters.front();
    token.gradients.push_back({GradientPartKind::kEmbeddingOutput, layout.gradient_size});
    layout.output_gradient = layout.gradient_size;
    layout.gradient_size += aligned(token.size);
  }
  layout.backward_order = backward_order(layout, spec);
  return layout;
}

void initial_stage_values(const StageLayout& layout, std::uint64_t seed, std::span<float> values) {
  for (const StageParameter& p : layout.parameters) {
    const Box& box = p.held.box;
    // Rows of the box are contiguous in the whole tensor too.
    const std::int64_t columns = box.extent.back();
    const std::int64_t rows = box.extent.size() > 1 ? box.extent.front() : 1;
    const std::int64_t first_row = box.extent.size() > 1 ? box.offset.front() : 0;
    for (std::int64_t row = 0; row < rows; ++row)
      initial_values(p.spec, seed, (first_row + row) * p.spec.shape.back() + box.offset.back(),
                     values.subspan(static_cast<std::size_t>(p.offset + row * columns),
                                    static_cast<std::size_t>(columns)));
  }
}

std::vector<std::string> stage_problems(const ModelOptions& options, const StageSpec& spec,
                                        const BatchShape& shape) {
  std::vector<std::string> found = problems(options);
  if (spec.first_layer < 0 || spec.end_layer < spec.first_layer ||
      spec.end_layer > options.num_layers)
    found.push_back(fmt::format("layers [{}, {}) are not a part of the model's {}",
                                spec.first_layer, spec.end_layer, options.num_layers));
  if (spec.has_embedding && spec.first_layer != 0)
    found.push_back(
        fmt::format("the stage with the embedding starts at layer {}, not 0", spec.first_layer));
  if (spec.has_head && spec.end_layer != options.num_layers)
    found.push_back(fmt::format("the stage with the head ends at layer {}, not {}", spec.end_layer,
                                options.num_layers));
  if (spec.first_layer == spec.end_layer && !spec.has_embedding && !spec.has_head)
    found.push_back("the stage holds nothing");
  for (std::string& problem : tensor_problems(options, spec.tensor.size))
    found.push_back(std::move(problem));
  if (shape.microbatch_size < 1)
    found.push_back(
        fmt::format("microbatch_size is {}, must be at least 1", shape.microbatch_size));
  if (shape.sequence_length < 1 || shape.sequence_length > options.max_sequence_length)
    found.push_back(
        fmt::format("sequence_length is {}, must be between 1 and max_sequence_length {}",
                    shape.sequence_length, options.max_sequence_length));
  const ModelOptions o = resolved(options);
  const double token_floats =
      static_cast<double>(o.width + o.ffn_width + o.num_heads * o.head_dim + o.num_heads) *
      static_cast<double>(o.num_layers);
  const double tokens = static_cast<double>(shape.microbatch_size) * shape.sequence_length;
  if (found.empty() && tokens * token_floats > 0x1p45)
    found.push_back(
        fmt::format("a microbatch of {} sequences of {} tokens has activations beyond "
                    "what can be addressed",
                    shape.microbatch_size, shape.sequence_length));
  return found;
}

}  // namespace tenax::compute

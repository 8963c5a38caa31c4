// The graphs of attention in cuDNN's operations. Shapes are (B, H, T, D) with strides into the
// packed (B, T, heads, D) buffers; scores are (B, H, T, T) and virtual: they never exist in memory.
#include "compute/cuda/cudnn_graph.h"

namespace tenax::cuda {
namespace {

using Extents = std::vector<std::int64_t>;

Extents packed_strides(const Extents& extents) {
  Extents strides(extents.size());
  std::int64_t stride = 1;
  for (std::size_t i = extents.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= extents[i];
  }
  return strides;
}

enum class Kind : std::uint8_t { kMemory, kVirtual, kByValue };

class AttentionGraph {
 public:
  AttentionGraph(CudnnGraph& graph, const tenax_cuda_attention& call)
      : g_(graph),
        c_(call),
        scores_{call.batch, call.heads, call.length, call.length},
        rows_{call.batch, call.heads, call.length, 1} {}

  std::vector<Descriptor> forward() {
    const Descriptor scaled = masked_scores();
    const Descriptor largest = temporary(rows_);
    reduce(CUDNN_REDUCE_TENSOR_MAX, scaled, largest);
    const Descriptor shifted = temporary(scores_);
    pointwise(CUDNN_POINTWISE_SUB, scaled, largest, shifted);
    const Descriptor exponentials = temporary(scores_);
    pointwise(CUDNN_POINTWISE_EXP, shifted, nullptr, exponentials);
    const Descriptor sum = temporary(rows_);
    reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials, sum);
    const Descriptor log = temporary(rows_);
    pointwise(CUDNN_POINTWISE_LOG, sum, nullptr, log);
    pointwise(CUDNN_POINTWISE_ADD, largest, log, log_sum());
    const Descriptor probabilities = temporary(scores_, CUDNN_DATA_BFLOAT16);
    pointwise(CUDNN_POINTWISE_DIV, exponentials, sum, probabilities);
    product(probabilities, head_tensor(kValue, c_.kv_heads, c_.ld),
            head_tensor(kOut, c_.heads, c_.ld_out));
    return std::move(operations_);
  }

  std::vector<Descriptor> backward() {
    const Descriptor dout = head_tensor(kOutGradient, c_.heads, c_.ld_out);
    // delta = sum over d of dout * out.
    const Descriptor products = temporary({c_.batch, c_.heads, c_.length, c_.head_dim});
    pointwise(CUDNN_POINTWISE_MUL, dout, head_tensor(kOut, c_.heads, c_.ld_out), products);
    const Descriptor delta = temporary(rows_);
    reduce(CUDNN_REDUCE_TENSOR_ADD, products, delta);
    // P = exp(S - log_sum).
    const Descriptor shifted = temporary(scores_);
    pointwise(CUDNN_POINTWISE_SUB, masked_scores(), log_sum(), shifted);
    const Descriptor probabilities = temporary(scores_, CUDNN_DATA_BFLOAT16);
    pointwise(CUDNN_POINTWISE_EXP, shifted, nullptr, probabilities);
    head_gradient(transposed(probabilities), dout, kValueGradient);
    // dS = P * (dout V^T - delta) * scale.
    const Descriptor dp = temporary(scores_);
    product(dout, transposed_head_tensor(kValueTransposed, c_.kv_heads, c_.ld), dp);
    const Descriptor centred = temporary(scores_);
    pointwise(CUDNN_POINTWISE_SUB, dp, delta, centred);
    const Descriptor weighted = temporary(scores_);
    pointwise(CUDNN_POINTWISE_MUL, centred, probabilities, weighted);
    const Descriptor ds = temporary(scores_, CUDNN_DATA_BFLOAT16);
    pointwise(CUDNN_POINTWISE_MUL, weighted, scale(), ds);
    product(ds, head_tensor(kKey, c_.kv_heads, c_.ld),
            head_tensor(kQueryGradient, c_.heads, c_.ld));
    head_gradient(transposed(ds), query(), kKeyGradient);
    return std::move(operations_);
  }

 private:
  Descriptor tensor(std::int64_t id, const Extents& extents, const Extents& strides,
                    cudnnDataType_t type, Kind kind) {
    const Descriptor d = g_.make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const bool is_virtual = kind == Kind::kVirtual;
    const bool by_value = kind == Kind::kByValue;
    g_.set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id);
    g_.set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
    g_.set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, extents);
    g_.set(d, CUDNN_ATTR_TENSOR_STRIDES, strides);
    g_.set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, std::int64_t{by_value ? 4 : 16});
    g_.set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, is_virtual);
    g_.set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value);
    g_.finalize(d, "a tensor of attention");
    return d;
  }
  Descriptor temporary(const Extents& extents, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return tensor(next_virtual_++, extents, packed_strides(extents), type, Kind::kVirtual);
  }
  Descriptor head_tensor(AttentionTensor id, std::int64_t heads, std::int64_t ld) {
    return tensor(id, {c_.batch, heads, c_.length, c_.head_dim},
                  {c_.length * ld, c_.head_dim, ld, 1}, CUDNN_DATA_BFLOAT16, Kind::kMemory);
  }
  Descriptor transposed_head_tensor(AttentionTensor id, std::int64_t heads, std::int64_t ld) {
    return tensor(id, {c_.batch, heads, c_.head_dim, c_.length},
                  {c_.length * ld, c_.head_dim, 1, ld}, CUDNN_DATA_BFLOAT16, Kind::kMemory);
  }
  /// Tensors and values that several operations read are made once.
  Descriptor query() {
    if (query_ == nullptr) query_ = head_tensor(kQuery, c_.heads, c_.ld);
    return query_;
  }
  Descriptor scale() {
    if (scale_ == nullptr)
      scale_ = tensor(kScale, {1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_FLOAT, Kind::kByValue);
    return scale_;
  }
  Descriptor log_sum() {
    return tensor(kLogSum, rows_, packed_strides(rows_), CUDNN_DATA_FLOAT, Kind::kMemory);
  }

  void pointwise(cudnnPointwiseMode_t mode, Descriptor x, Descriptor b, Descriptor y,
                 cudnnDataType_t computed_in = CUDNN_DATA_FLOAT, std::int64_t axis = -1,
                 Descriptor selector = nullptr) {
    const Descriptor how = g_.make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    g_.set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
    g_.set(how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, computed_in);
    if (axis >= 0) g_.set(how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
    g_.finalize(how, "a pointwise descriptor of attention");
    const Descriptor d = g_.make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != nullptr) g_.set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (selector != nullptr) g_.set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, selector);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add(d, "a pointwise operation of attention");
  }
  void product(Descriptor a, Descriptor b, Descriptor c) {
    const Descriptor how = g_.make(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    g_.set(how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
    g_.finalize(how, "a product's descriptor of attention");
    const Descriptor d = g_.make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add(d, "a product of attention");
  }
  void reduce(cudnnReduceTensorOp_t operation, Descriptor x, Descriptor y) {
    const Descriptor how = g_.make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    g_.set(how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
    g_.set(how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, operation);
    g_.finalize(how, "a reduction's descriptor of attention");
    const Descriptor d = g_.make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    add(d, "a reduction of attention");
  }
  /// Scores seen with their two last dimensions exchanged.
  Descriptor transposed(Descriptor x) {
    const std::int64_t t = c_.length;
    const Descriptor y = tensor(next_virtual_++, scores_, {c_.heads * t * t, t * t, 1, t},
                                CUDNN_DATA_BFLOAT16, Kind::kVirtual);
    const Descriptor d = g_.make(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    g_.set_descriptor(d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add(d, "a transposition of attention");
    return y;
  }
  /// The gradient of keys or values; with grouped heads the query heads' parts are added.
  void head_gradient(Descriptor scores, Descriptor rows, AttentionTensor id) {
    const Descriptor out = head_tensor(id, c_.kv_heads, c_.ld);
    if (c_.kv_heads == c_.heads) return product(scores, rows, out);
    const Descriptor parts = temporary({c_.batch, c_.heads, c_.length, c_.head_dim});
    product(scores, rows, parts);
    reduce(CUDNN_REDUCE_TENSOR_ADD, parts, out);
  }
  /// scale * QK^T, with the lowest float where a query does not see a key.
  Descriptor masked_scores() {
    const Descriptor dots = temporary(scores_);
    product(query(), transposed_head_tensor(kKeyTransposed, c_.kv_heads, c_.ld), dots);
    const Descriptor scaled = temporary(scores_);
    pointwise(CUDNN_POINTWISE_MUL, dots, scale(), scaled);
    const Descriptor row = temporary(scores_, CUDNN_DATA_INT32);
    pointwise(CUDNN_POINTWISE_GEN_INDEX, scaled, nullptr, row, CUDNN_DATA_INT32, 2);
    const Descriptor column = temporary(scores_, CUDNN_DATA_INT32);
    pointwise(CUDNN_POINTWISE_GEN_INDEX, scaled, nullptr, column, CUDNN_DATA_INT32, 3);
    const Descriptor seen = temporary(scores_, CUDNN_DATA_BOOLEAN);
    pointwise(CUDNN_POINTWISE_CMP_GE, row, column, seen, CUDNN_DATA_BOOLEAN);
    const Descriptor negative =
        tensor(kNegative, {1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_FLOAT, Kind::kByValue);
    const Descriptor masked = temporary(scores_);
    pointwise(CUDNN_POINTWISE_BINARY_SELECT, scaled, negative, masked, CUDNN_DATA_FLOAT, -1, seen);
    return masked;
  }
  void add(Descriptor d, const char* what) {
    g_.finalize(d, what);
    operations_.push_back(d);
  }

  CudnnGraph& g_;
  const tenax_cuda_attention& c_;
  const Extents scores_;  // (B, H, T, T)
  const Extents rows_;    // (B, H, T, 1)
  std::int64_t next_virtual_ = kFirstVirtual;
  Descriptor query_ = nullptr;
  Descriptor scale_ = nullptr;
  std::vector<Descriptor> operations_;
};

}  // namespace

std::vector<Descriptor> attention_forward_operations(CudnnGraph& graph,
                                                     const tenax_cuda_attention& call) {
  return AttentionGraph(graph, call).forward();
}

std::vector<Descriptor> attention_backward_operations(CudnnGraph& graph,
                                                      const tenax_cuda_attention& call) {
  return AttentionGraph(graph, call).backward();
}

}  // namespace tenax::cuda

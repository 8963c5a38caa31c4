// The operations of the C interface: arguments judged, scratch memory found, kernels or libraries
// called.
#include <vector>

#include "compute/cuda/context.h"
#include "compute/cuda/kernels.h"

using tenax::cuda::Direction;
using tenax::cuda::Outcome;

namespace {

/// Collects what is wrong with a call's arguments; the first is told.
class Arguments {
 public:
  Arguments(tenax_cuda_context* context, const char* operation)
      : context_(context), operation_(operation) {}

  Arguments& positive(const char* name, std::int64_t value) {
    return require(value > 0, name, "must be positive");
  }
  Arguments& pointer(const char* name, const void* p) {
    return require(p != nullptr, name, "is null");
  }
  Arguments& type(std::int32_t type) {
    return require(type == TENAX_CUDA_F32 || type == TENAX_CUDA_BF16, "type",
                   "is neither F32 nor BF16");
  }
  /// The fields of a struct with dropout.
  template <class Call>
  Arguments& dropout(const Call& c, std::int64_t num_samples) {
    constexpr std::int32_t kAll = 1 << 24;
    require(c.dropout_threshold >= 0 && c.dropout_threshold < kAll, "dropout_threshold",
            "is not in [0, 2^24)");
    return require(c.dropout_threshold == 0 || (c.samples != nullptr && num_samples > 0), "samples",
                   "is null where there is dropout");
  }
  Arguments& require(bool holds, const char* name, const char* what) {
    if (!holds && wrong_.empty()) wrong_ = std::string(operation_) + ": " + name + " " + what;
    return *this;
  }
  /// OK, DEVICE_LOST of earlier, or INVALID_ARGUMENT.
  tenax_cuda_status status() const {
    if (context_->lost()) return TENAX_CUDA_DEVICE_LOST;
    if (!wrong_.empty()) return context_->fail({TENAX_CUDA_INVALID_ARGUMENT, wrong_});
    return TENAX_CUDA_OK;
  }

 private:
  tenax_cuda_context* context_;
  const char* operation_;
  std::string wrong_;
};

#define TENAX_RETURN_UNLESS_OK(expression)                                            \
  do {                                                                                \
    if (const tenax_cuda_status status_ = (expression); status_ != 0) return status_; \
  } while (false)

tenax_cuda_status status_of(tenax_cuda_context* context, Outcome outcome) {
  return outcome.ok() ? TENAX_CUDA_OK : context->fail(std::move(outcome));
}

float* float_scratch(tenax_cuda_context* context, std::int64_t floats) {
  return static_cast<float*>(context->scratch(static_cast<std::uint64_t>(floats) * sizeof(float)));
}

tenax_cuda_status scratch_failure(tenax_cuda_context* context) {
  return context->lost() ? TENAX_CUDA_DEVICE_LOST : TENAX_CUDA_OUT_OF_MEMORY;
}

Arguments attention_arguments(tenax_cuda_context* context, const tenax_cuda_attention& c,
                              const char* operation) {
  constexpr std::int64_t kMostBlocks = 65535;
  Arguments arguments(context, operation);
  arguments.type(c.type)
      .positive("batch", c.batch)
      .positive("length", c.length)
      .positive("heads", c.heads)
      .positive("kv_heads", c.kv_heads)
      .positive("head_dim", c.head_dim)
      .require(c.kv_heads > 0 && c.heads % c.kv_heads == 0, "heads",
               "is not a multiple of kv_heads")
      .require(c.batch <= kMostBlocks && c.heads <= kMostBlocks, "batch and heads",
               "must be at most 65535")
      .pointer("q", c.q)
      .pointer("k", c.k)
      .pointer("v", c.v)
      .pointer("out", c.out)
      .pointer("log_sum", c.log_sum)
      .dropout(c, c.batch);
  return arguments;
}

/// Whether cuDNN runs this call; OK and `yes`, OK and not `yes`, or why it cannot though it must.
tenax_cuda_status decide_cudnn(tenax_cuda_context* context, const tenax_cuda_attention& c,
                               Direction direction, bool* yes) {
  *yes = false;
  if (c.kernels == TENAX_CUDA_ATTENTION_PLAIN) return TENAX_CUDA_OK;
  Outcome planned = context->attention->plan(c, direction);
  *yes = planned.ok();
  if (planned.ok() ||
      (c.kernels == TENAX_CUDA_ATTENTION_AUTO && planned.status != TENAX_CUDA_DEVICE_LOST))
    return TENAX_CUDA_OK;
  return context->fail(std::move(planned));
}

tenax_cuda_status plain_attention_fits(tenax_cuda_context* context, const tenax_cuda_attention& c,
                                       bool backward) {
  const std::int64_t bytes = tenax::cuda::attention_shared_bytes(c.head_dim, backward);
  if (static_cast<std::uint64_t>(bytes) <= context->shared_bytes_per_block) return TENAX_CUDA_OK;
  return context->fail(
      {TENAX_CUDA_UNSUPPORTED, "plain attention with head_dim " + std::to_string(c.head_dim) +
                                   " needs " + std::to_string(bytes) +
                                   " bytes of shared memory a block; the device has " +
                                   std::to_string(context->shared_bytes_per_block)});
}

}  // namespace

extern "C" {

tenax_cuda_status tenax_cuda_run_embed(tenax_cuda_context* context, const tenax_cuda_embed* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "embed")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("length", c->length)
                             .positive("width", c->width)
                             .pointer("tokens", c->tokens)
                             .positive("num_tokens", c->num_tokens)
                             .pointer("table", c->table)
                             .pointer("out", c->out)
                             .status());
  tenax::cuda::launch_embed(*c, context->stream);
  return context->check_launch("embed");
}

tenax_cuda_status tenax_cuda_run_embed_backward(tenax_cuda_context* context,
                                                const tenax_cuda_embed_backward* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "embed_backward")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("length", c->length)
                             .positive("width", c->width)
                             .positive("num_buckets", c->num_buckets)
                             .pointer("tokens", c->tokens)
                             .pointer("begins", c->begins)
                             .pointer("order", c->order)
                             .pointer("dout", c->dout)
                             .pointer("dtable", c->dtable)
                             .status());
  tenax::cuda::launch_embed_backward(*c, context->stream);
  return context->check_launch("embed_backward");
}

tenax_cuda_status tenax_cuda_run_norm(tenax_cuda_context* context, const tenax_cuda_norm* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "norm")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("n", c->n)
                             .positive("group", c->group)
                             .pointer("x", c->x)
                             .pointer("weight", c->weight)
                             .pointer("rstd", c->rstd)
                             .pointer("y", c->y)
                             .require(c->residual == nullptr || c->sum != nullptr, "sum",
                                      "is null where there is a residual")
                             .status());
  tenax::cuda::launch_norm(*c, context->stream);
  return context->check_launch("norm");
}

tenax_cuda_status tenax_cuda_run_norm_backward(tenax_cuda_context* context,
                                               const tenax_cuda_norm_backward* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "norm_backward")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("n", c->n)
                             .positive("group", c->group)
                             .pointer("x", c->x)
                             .pointer("dy", c->dy)
                             .pointer("weight", c->weight)
                             .pointer("rstd", c->rstd)
                             .pointer("dx", c->dx)
                             .pointer("dweight", c->dweight)
                             .status());
  float* scratch = float_scratch(context, tenax::cuda::column_scratch_floats(c->rows, c->n));
  if (scratch == nullptr) return scratch_failure(context);
  tenax::cuda::launch_norm_backward(*c, scratch, context->stream);
  return context->check_launch("norm_backward");
}

tenax_cuda_status tenax_cuda_run_column_sums(tenax_cuda_context* context,
                                             const tenax_cuda_column_sums* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "column_sums")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("n", c->n)
                             .require(c->ld >= c->n, "ld", "is less than n")
                             .pointer("x", c->x)
                             .pointer("sums", c->sums)
                             .status());
  float* scratch = float_scratch(context, tenax::cuda::column_scratch_floats(c->rows, c->n));
  if (scratch == nullptr) return scratch_failure(context);
  tenax::cuda::launch_column_sums(*c, scratch, context->stream);
  return context->check_launch("column_sums");
}

tenax_cuda_status tenax_cuda_run_matmul(tenax_cuda_context* context, const tenax_cuda_matmul* c) {
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "matmul")
          .type(c->type)
          .type(c->out_type)
          .positive("m", c->m)
          .positive("n", c->n)
          .positive("k", c->k)
          .pointer("a", c->a)
          .pointer("b", c->b)
          .pointer("d", c->d)
          .require(c->lda >= (c->transpose_a != 0 ? c->m : c->k), "lda", "is less than a row")
          .require(c->ldb >= (c->transpose_b != 0 ? c->k : c->n), "ldb", "is less than a row")
          .require(c->ldd >= c->n, "ldd", "is less than a row")
          .require(c->c == nullptr || c->ldc >= c->n, "ldc", "is less than a row")
          .require(
              c->epilogue >= TENAX_CUDA_EPILOGUE_NONE && c->epilogue <= TENAX_CUDA_EPILOGUE_DGELU,
              "epilogue", "is not known")
          .require(c->epilogue == TENAX_CUDA_EPILOGUE_NONE ||
                       (c->aux != nullptr && c->ld_aux >= c->n && c->bias_gradient == nullptr),
                   "aux", "is missing, or there is a bias gradient beside it")
          .require(c->bias_gradient == nullptr || (c->transpose_a != 0 && c->bias == nullptr),
                   "bias_gradient", "goes with a transposed a and no bias")
          .status());
  float* sums = nullptr;
  if (c->bias_gradient != nullptr) {
    sums = float_scratch(context, c->m);
    if (sums == nullptr) return scratch_failure(context);
  }
  bool fused = false;
  TENAX_RETURN_UNLESS_OK(status_of(context, context->products->run(*c, sums, &fused)));
  if (c->bias_gradient == nullptr) return TENAX_CUDA_OK;
  if (fused) {
    tenax::cuda::launch_add(c->bias_gradient, sums, c->bias_gradient, c->m, context->stream);
    return context->check_launch("adding a bias gradient");
  }
  const tenax_cuda_column_sums columns{c->type, 0, c->k, c->m, c->lda, c->a, c->bias_gradient};
  return tenax_cuda_run_column_sums(context, &columns);
}

tenax_cuda_status tenax_cuda_run_activation(tenax_cuda_context* context,
                                            const tenax_cuda_activation* c) {
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "activation")
          .type(c->type)
          .positive("rows", c->rows)
          .positive("n", c->n)
          .require(c->ld >= c->n && c->ld_out >= c->n, "ld", "is less than a row")
          .pointer("up", c->up)
          .pointer("out", c->out)
          .status());
  tenax::cuda::launch_activation(*c, context->stream);
  return context->check_launch("activation");
}

tenax_cuda_status tenax_cuda_run_activation_backward(tenax_cuda_context* context,
                                                     const tenax_cuda_activation* c) {
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "activation_backward")
          .type(c->type)
          .positive("rows", c->rows)
          .positive("n", c->n)
          .require(c->ld >= c->n && c->ld_out >= c->n && c->ld_grad >= c->n, "ld",
                   "is less than a row")
          .pointer("up", c->up)
          .pointer("dout", c->dout)
          .pointer("dup", c->dup)
          .require((c->gate == nullptr) == (c->dgate == nullptr), "dgate", "does not go with gate")
          .status());
  tenax::cuda::launch_activation_backward(*c, context->stream);
  return context->check_launch("activation_backward");
}

tenax_cuda_status tenax_cuda_run_rope(tenax_cuda_context* context, const tenax_cuda_rope* c) {
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "rope")
          .type(c->type)
          .positive("rows", c->rows)
          .positive("length", c->length)
          .positive("heads", c->heads)
          .require(c->head_dim > 0 && c->head_dim % 2 == 0, "head_dim", "is not even")
          .require(c->ld >= c->heads * c->head_dim && c->ld % 2 == 0, "ld",
                   "is odd or less than a row")
          .pointer("x", c->x)
          .pointer("cosine", c->cosine)
          .pointer("sine", c->sine)
          .status());
  tenax::cuda::launch_rope(*c, context->stream);
  return context->check_launch("rope");
}

tenax_cuda_status tenax_cuda_run_dropout(tenax_cuda_context* context, const tenax_cuda_dropout* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "dropout")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("n", c->n)
                             .positive("length", c->length)
                             .pointer("x", c->x)
                             .pointer("out", c->out)
                             .dropout(*c, c->rows)
                             .require(c->first_row >= 0, "first_row", "is negative")
                             .status());
  tenax::cuda::launch_dropout(*c, context->stream);
  return context->check_launch("dropout");
}

tenax_cuda_status tenax_cuda_run_residual(tenax_cuda_context* context,
                                          const tenax_cuda_residual* c) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "residual")
                             .type(c->type)
                             .positive("rows", c->rows)
                             .positive("n", c->n)
                             .positive("length", c->length)
                             .pointer("sum", c->sum)
                             .pointer("out", c->out)
                             .dropout(*c, c->rows)
                             .require(c->first_row >= 0, "first_row", "is negative")
                             .status());
  tenax::cuda::launch_residual(*c, context->stream);
  return context->check_launch("residual");
}

tenax_cuda_status tenax_cuda_run_attention(tenax_cuda_context* context,
                                           const tenax_cuda_attention* c) {
  TENAX_RETURN_UNLESS_OK(attention_arguments(context, *c, "attention").status());
  bool cudnn = false;
  TENAX_RETURN_UNLESS_OK(decide_cudnn(context, *c, Direction::kForward, &cudnn));
  if (cudnn) return status_of(context, context->attention->run(*c, Direction::kForward));
  TENAX_RETURN_UNLESS_OK(plain_attention_fits(context, *c, false));
  tenax::cuda::launch_attention(*c, context->stream);
  return context->check_launch("attention");
}

tenax_cuda_status tenax_cuda_run_attention_backward(tenax_cuda_context* context,
                                                    const tenax_cuda_attention* c) {
  TENAX_RETURN_UNLESS_OK(attention_arguments(context, *c, "attention_backward")
                             .pointer("dout", c->dout)
                             .pointer("dq", c->dq)
                             .pointer("dk", c->dk)
                             .pointer("dv", c->dv)
                             .status());
  bool cudnn = false;
  TENAX_RETURN_UNLESS_OK(decide_cudnn(context, *c, Direction::kBackward, &cudnn));
  if (cudnn) return status_of(context, context->attention->run(*c, Direction::kBackward));
  TENAX_RETURN_UNLESS_OK(plain_attention_fits(context, *c, true));
  float* delta = float_scratch(context, c->batch * c->heads * c->length);
  if (delta == nullptr) return scratch_failure(context);
  tenax::cuda::launch_attention_backward(*c, delta, context->stream);
  return context->check_launch("attention_backward");
}

tenax_cuda_status tenax_cuda_run_cross_entropy(tenax_cuda_context* context,
                                               const tenax_cuda_cross_entropy* c) {
  const bool shared = c->parts != nullptr || c->log_sums != nullptr;
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "cross_entropy")
          .type(c->type)
          .positive("rows", c->rows)
          .require(c->n > 0 || (shared && c->n == 0), "n", "must be positive")
          .require(c->ld >= c->n && c->ld > 0, "ld", "is less than n")
          .pointer("logits", c->logits)
          .pointer("targets", c->targets)
          .require(c->parts == nullptr || (c->log_sums == nullptr && c->with_gradient == 0),
                   "parts", "goes with neither log_sums nor a gradient")
          .require(shared || (c->loss != nullptr && c->z_term != nullptr), "loss", "is null")
          .status());
  tenax::cuda::launch_cross_entropy(*c, context->stream);
  return context->check_launch("cross_entropy");
}

tenax_cuda_status tenax_cuda_run_adamw(tenax_cuda_context* context, const tenax_cuda_adamw* c,
                                       const tenax_cuda_adamw_range* ranges, int32_t num_ranges) {
  Arguments arguments(context, "adamw");
  arguments.positive("num_ranges", num_ranges).pointer("ranges", ranges);
  for (int32_t i = 0; ranges != nullptr && i < num_ranges; ++i)
    arguments.positive("count", ranges[i].count)
        .pointer("values", ranges[i].values)
        .pointer("gradient", ranges[i].gradient)
        .pointer("m", ranges[i].m)
        .pointer("v", ranges[i].v);
  TENAX_RETURN_UNLESS_OK(arguments.status());
  std::vector<tenax::cuda::AdamwRow> rows(static_cast<std::size_t>(num_ranges));
  const std::int64_t num_blocks = tenax::cuda::adamw_rows(ranges, num_ranges, rows.data());
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "adamw")
          .require(num_blocks <= INT32_MAX, "ranges", "need more blocks than a launch has")
          .status());
  const void* const table =
      context->table(rows.data(), rows.size() * sizeof(tenax::cuda::AdamwRow));
  if (table == nullptr) return scratch_failure(context);
  tenax::cuda::launch_adamw(*c, static_cast<const tenax::cuda::AdamwRow*>(table), num_ranges,
                            num_blocks, context->stream);
  return context->check_launch("adamw");
}

tenax_cuda_status tenax_cuda_run_add(tenax_cuda_context* context, const float* a, const float* b,
                                     float* sum, int64_t count) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "add")
                             .positive("count", count)
                             .pointer("a", a)
                             .pointer("b", b)
                             .pointer("sum", sum)
                             .status());
  tenax::cuda::launch_add(a, b, sum, count, context->stream);
  return context->check_launch("add");
}

tenax_cuda_status tenax_cuda_run_cast(tenax_cuda_context* context, const void* from,
                                      int32_t from_type, void* to, int32_t to_type, int64_t count) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "cast")
                             .type(from_type)
                             .type(to_type)
                             .positive("count", count)
                             .pointer("from", from)
                             .pointer("to", to)
                             .status());
  tenax::cuda::launch_cast(from, from_type, to, to_type, count, context->stream);
  return context->check_launch("cast");
}

tenax_cuda_status tenax_cuda_run_scale(tenax_cuda_context* context, void* x, int32_t type,
                                       float factor, int64_t count) {
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "scale").type(type).positive("count", count).pointer("x", x).status());
  tenax::cuda::launch_scale(x, type, factor, count, context->stream);
  return context->check_launch("scale");
}

tenax_cuda_status tenax_cuda_run_chunk_squares(tenax_cuda_context* context, const float* x,
                                               int64_t count, double* sums) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "chunk_squares")
                             .positive("count", count)
                             .pointer("x", x)
                             .pointer("sums", sums)
                             .status());
  tenax::cuda::launch_chunk_squares(x, count, sums, context->stream);
  return context->check_launch("chunk_squares");
}

tenax_cuda_status tenax_cuda_run_spin(tenax_cuda_context* context, double seconds) {
  TENAX_RETURN_UNLESS_OK(
      Arguments(context, "spin")
          .require(seconds > 0 && seconds <= 60, "seconds", "must be positive and at most 60")
          .status());
  tenax::cuda::launch_spin(seconds, context->stream);
  return context->check_launch("spin");
}

tenax_cuda_status tenax_cuda_run_bad_store(tenax_cuda_context* context) {
  TENAX_RETURN_UNLESS_OK(Arguments(context, "bad_store").status());
  // Allocations are mapped in pieces of 2 MiB; far behind the end nothing is mapped.
  constexpr std::size_t kBytes = 4 << 20;
  constexpr std::size_t kBeyond = std::size_t{1} << 40;
  void* memory = nullptr;
  TENAX_RETURN_UNLESS_OK(context->check(cudaMalloc(&memory, kBytes), "cudaMalloc"));
  tenax::cuda::launch_bad_store(reinterpret_cast<float*>(static_cast<char*>(memory) + kBeyond),
                                context->stream);
  return context->check_launch("bad_store");
}

}  // extern "C"

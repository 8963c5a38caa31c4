/* The interface between tenax and its CUDA plugin, libtenax_cuda.so: C types and C calling
 * convention only, so that plugin and program are built apart and a Python script can load it too
 * (tests/gpu/plugin.py reads this file: one declaration a line, no macros in types).
 *
 * Every function but those that say otherwise returns a tenax_cuda_status. Work on a context is
 * queued on its stream in the order of the calls and may still run when a call returns; a fault of
 * the device is therefore seen by a later call, is kept (TENAX_CUDA_DEVICE_LOST from then on) and
 * only a new process helps. tenax_cuda_message says what went wrong. A context belongs to one
 * thread at a time; tenax_cuda_nccl_abort alone may be called from any.
 *
 * Matrices are row-major. Types are TENAX_CUDA_F32 or TENAX_CUDA_BF16; "of type" without more means
 * the call's `type`. Letters as in compute/model_options.h: B, T, C, H, K, D, F, V. No kernel of
 * ours uses atomics; what the libraries may choose is tenax_cuda_options.reproducible.
 */
#ifndef TENAX_CUDA_H_
#define TENAX_CUDA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef TENAX_CUDA_PLUGIN
/* The plugin's own symbols are hidden but for these. */
#pragma GCC visibility push(default)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a function or a struct changes; program and plugin must have the same. */
#define TENAX_CUDA_ABI_VERSION 8
#define TENAX_CUDA_WORKSPACE_BYTES (INT64_C(32) << 20) /* of a context, for matrix products */

typedef int32_t tenax_cuda_status;
enum {
  TENAX_CUDA_OK = 0,
  TENAX_CUDA_INVALID_ARGUMENT = 1, /* a bug of the caller */
  TENAX_CUDA_OUT_OF_MEMORY = 2,
  TENAX_CUDA_DEVICE_LOST = 3, /* the context is broken, with all memory in it */
  TENAX_CUDA_UNAVAILABLE = 4, /* no driver, device or library; the message says which */
  TENAX_CUDA_UNSUPPORTED = 5, /* this device or library version cannot do it */
  TENAX_CUDA_INTERNAL = 6,
  TENAX_CUDA_IN_PROGRESS = 7, /* of NCCL's non-blocking calls: ask again */
  TENAX_CUDA_ABORTED = 8,     /* of NCCL: another thread ended the communicator */
  TENAX_CUDA_REMOTE_ERROR = 9 /* of NCCL: a peer or the network failed */
};

enum { TENAX_CUDA_F32 = 0, TENAX_CUDA_BF16 = 1 };
enum {
  TENAX_CUDA_GELU_ERF = 0,
  TENAX_CUDA_GELU_TANH = 1,
  TENAX_CUDA_RELU = 2,
  TENAX_CUDA_SILU = 3
};
enum {
  TENAX_CUDA_EPILOGUE_NONE = 0,
  TENAX_CUDA_EPILOGUE_GELU_AUX = 1,
  TENAX_CUDA_EPILOGUE_DGELU = 2
};
/* Which kernels attention may use. */
enum {
  TENAX_CUDA_ATTENTION_AUTO = 0,
  TENAX_CUDA_ATTENTION_PLAIN = 1,
  TENAX_CUDA_ATTENTION_CUDNN = 2
};

typedef struct tenax_cuda_context tenax_cuda_context;

typedef struct tenax_cuda_device_info {
  char name[256];
  char bus_id[32];
  int32_t major;
  int32_t minor;
  int32_t num_multiprocessors;
  int32_t driver_version;
  int32_t runtime_version;
  int32_t reserved;
  uint64_t memory_bytes;
  uint64_t shared_bytes_per_block; /* with opt-in */
} tenax_cuda_device_info;

typedef struct tenax_cuda_options {
  int32_t device;
  int32_t reproducible;    /* 1: no product with split sums, no attention with atomics */
  int64_t workspace_bytes; /* for matrix products; 0: TENAX_CUDA_WORKSPACE_BYTES */
} tenax_cuda_options;

/* out (rows, C) = scale * table[tokens[r] - first_token] + position[place of r]; of a token that is
 * not in the table the position alone. */
typedef struct tenax_cuda_embed {
  int32_t type;
  float scale;
  int64_t rows;
  int64_t length;
  int64_t width;
  int64_t first_token;
  int64_t num_tokens;    /* rows of the table */
  const int32_t* tokens; /* (rows) */
  const int32_t* places; /* (rows): of a row in its document, or null: r % length */
  const void* table;     /* (num_tokens, C) of type */
  const void* position;  /* (>= length, C) of type, or null */
  void* out;             /* (rows, C) of type */
} tenax_cuda_embed;

/* dtable[token] += scale * dout rows of that token in ascending order; dposition[t] += dout rows r
 * with r % length = t. Tokens come sorted: bucket i holds rows order[begins[i]] to order[begins[i +
 * 1] - 1] of token tokens[i]. */
typedef struct tenax_cuda_embed_backward {
  int32_t type;
  float scale;
  int64_t rows;
  int64_t length;
  int64_t width;
  int64_t num_buckets;
  const int32_t* tokens; /* (num_buckets) */
  const int32_t* begins; /* (num_buckets + 1) */
  const int32_t* order;  /* (rows) */
  const void* dout;      /* (rows, C) of type */
  float* dtable;         /* (V, C) */
  float* dposition;      /* (>= length, C) or null */
} tenax_cuda_embed_backward;

/* y = (s - mean) * rstd * weight + bias by rows, s = x + residual. Row r of x and y begins at
 * (r / group) * outer + (r % group) * n: group 1 for ordinary rows, the number of heads for norms
 * over a head. */
typedef struct tenax_cuda_norm {
  int32_t type;
  float epsilon;
  int64_t rows;
  int64_t n;
  int64_t group;
  int64_t x_outer;
  int64_t y_outer;
  const void* x;
  const void* residual; /* as x, or null */
  void* sum;            /* as x; receives s where there is a residual */
  const float* weight;  /* (n) */
  const float* bias;    /* (n) or null */
  float* mean;          /* (rows), or null: RMSNorm */
  float* rstd;          /* (rows) */
  void* y;
} tenax_cuda_norm;

/* dx is overwritten (it may be dy then) or added to; dweight and dbias are added to, by a sum in
 * fixed chunks. */
typedef struct tenax_cuda_norm_backward {
  int32_t type;
  int32_t add_dx;
  int64_t rows;
  int64_t n;
  int64_t group;
  int64_t x_outer;
  int64_t dy_outer;
  int64_t dx_outer;
  const void* x;
  const void* dy;
  const float* weight;
  const float* mean; /* null: RMSNorm */
  const float* rstd;
  void* dx;
  float* dweight;
  float* dbias; /* or null */
} tenax_cuda_norm_backward;

/* sums[j] += sum over rows of x[r][j], in fixed chunks. */
typedef struct tenax_cuda_column_sums {
  int32_t type;
  int32_t reserved;
  int64_t rows;
  int64_t n;
  int64_t ld;
  const void* x; /* (rows, n) of type */
  float* sums;   /* (n) */
} tenax_cuda_column_sums;

/* d (m, n) = op(a) op(b) [+ c] [+ bias]; then the epilogue. Sums in float32; no TF32. */
typedef struct tenax_cuda_matmul {
  int32_t type;        /* of a, b, bias and aux */
  int32_t out_type;    /* of c and d */
  int32_t transpose_a; /* a is (k, m), else (m, k) */
  int32_t transpose_b; /* b is (n, k), else (k, n) */
  int32_t epilogue;
  int32_t reserved;
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t lda;
  int64_t ldb;
  int64_t ldc;
  int64_t ldd;
  int64_t ld_aux;
  const void* a;
  const void* b;
  const void* c;    /* (m, n) added, may be d; or null */
  const void* bias; /* (n) or null */
  void* d;
  void* aux; /* (m, n): GELU_AUX writes the value before gelu (tanh form); DGELU multiplies by its
                slope there */
  float* bias_gradient; /* (m) or null: += sums over k of op(a)'s rows; where type is BF16 made with
                           the product */
} tenax_cuda_matmul;

/* out = f(up), or f(gate) * up with a gate; (rows, n), rows `ld` apart. */
typedef struct tenax_cuda_activation {
  int32_t type;
  int32_t function;
  int64_t rows;
  int64_t n;
  int64_t ld;     /* of up and gate */
  int64_t ld_out; /* of out and dout */
  const void* up;
  const void* gate; /* or null */
  void* out;        /* forward */
  const void* dout; /* backward */
  void* dup;        /* rows ld_grad apart; may be dout where ld_grad = ld_out */
  void* dgate;      /* as dup, or null */
  int64_t ld_grad;
} tenax_cuda_activation;

/* Rotates neighbouring pairs of the first `heads` heads of each row, in place; or back. */
typedef struct tenax_cuda_rope {
  int32_t type;
  int32_t inverse;
  int64_t rows;
  int64_t length; /* row r stands at place r % length */
  int64_t heads;
  int64_t head_dim;
  int64_t ld;
  void* x;
  const int32_t* places; /* (rows): where each stands instead, or null */
  const float* cosine;   /* (>= length, D / 2) */
  const float* sine;
} tenax_cuda_rope;

/* Dropout, in the structs that have these fields: compute/dropout.h's factors of row (sample,
 * index of the row in it) and column, by the site's key; threshold 0: none. */

/* out = factor * x: rows of n, row r that of index i % length of samples[i / length] where i =
 * first_row + r; x may be out. */
typedef struct tenax_cuda_dropout {
  int32_t type;
  int32_t dropout_threshold;
  float dropout_scale;
  float reserved;
  uint64_t dropout_key;
  int64_t rows;
  int64_t n;
  int64_t length;
  int64_t first_row;      /* of x in a microbatch */
  const int64_t* samples; /* (B) */
  const void* x;          /* (rows, n) of type */
  void* out;
} tenax_cuda_dropout;

/* out = added + factor * (sum + bias), rounded once: what a map that was summed in float32 (over
 * ranks, or because dropout follows) adds to the residual stream. Rows as for dropout. */
typedef struct tenax_cuda_residual {
  int32_t type;
  int32_t dropout_threshold;
  float dropout_scale;
  float reserved;
  uint64_t dropout_key;
  int64_t rows;
  int64_t n;
  int64_t length;
  int64_t first_row;
  const int64_t* samples; /* (B), or null without dropout */
  const float* sum;       /* (rows, n) */
  const float* bias;      /* (n) or null */
  const void* added;      /* (rows, n) of type, may be out; or null */
  void* out;              /* (rows, n) of type */
} tenax_cuda_residual;

/* Causal attention. Element (b, t, h, d) of q lies at q[(b * T + t) * ld + h * D + d]; k, v and
 * their gradients share ld, so that q, k and v may be parts of one packed buffer; out and dout have
 * ld_out. Dropout is of the probabilities: row (first_head + h) * T + t, the key its column. */
typedef struct tenax_cuda_attention {
  int32_t type;
  int32_t kernels; /* TENAX_CUDA_ATTENTION_... */
  int64_t batch;
  int64_t length;
  int64_t heads;
  int64_t kv_heads; /* query head h reads head h / (heads / kv_heads) */
  int64_t head_dim;
  int64_t ld;
  int64_t ld_out;
  float scale;
  float dropout_scale;
  uint64_t dropout_key;
  int32_t dropout_threshold;
  int32_t reserved;
  int64_t first_head;     /* of the whole model */
  const int64_t* samples; /* (B), or null without dropout */
  const int32_t* places;  /* (B, T): a query at place p sees p keys before its own; or null */
  const float* slopes;    /* (heads) of ALiBi: slope * (key - query) is added; or null */
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* log_sum;   /* (B, H, T) */
  const void* dout; /* backward, from here on */
  void* dq;
  void* dk;
  void* dv;
} tenax_cuda_attention;

/* Rows of logits become their gradient in place; loss[r] and z_term[r] in double; a target of -1 is
 * masked. Columns from n to ld become 0. Where the vocabulary is shared: column 0 is first_token;
 * a first call with `parts` makes of each row the log-sum of its own columns (-inf of none) and the
 * scaled logit of its target (0 where that is another's) and no loss; a second one with `log_sums`,
 * those of the whole vocabulary, makes the gradient alone. */
typedef struct tenax_cuda_cross_entropy {
  int32_t type;
  int32_t with_gradient;
  int64_t rows;
  int64_t n; /* 0 only with parts or log_sums */
  int64_t ld;
  double z_loss;
  float logit_scale;
  float reserved;
  int64_t first_token;
  void* logits;
  const int32_t* targets;
  double* loss;
  double* z_term;
  double* parts;          /* (rows, 2) or null */
  const double* log_sums; /* (rows) or null */
} tenax_cuda_cross_entropy;

/* One AdamW update (compute/adamw.h) of all `ranges`, float32, in the CPU's arithmetic to the bit.
 * The host's table of ranges is copied to the device when it is a new one. */
typedef struct tenax_cuda_adamw {
  float gradient_scale;
  float beta1;
  float beta2;
  float epsilon;
  float step_size;
  float inverse_sqrt_bias2;
  float decay;
} tenax_cuda_adamw;
typedef struct tenax_cuda_adamw_range {
  int64_t count;
  float* values;
  const float* gradient;
  float* m;
  float* v;
  void* copy;     /* receives the values as BF16, or is null */
  int64_t decays; /* 0: as if `decay` were 0 */
} tenax_cuda_adamw_range;

/* --- Without a context. `message`: at most `size` bytes, null-terminated; empty if all is well. */
int32_t tenax_cuda_abi_version(void);
/* Where a device is reached: its number; else 0 with TENAX_CUDA_UNAVAILABLE and what is missing. */
tenax_cuda_status tenax_cuda_device_count(int32_t* count, char* message, size_t size);
tenax_cuda_status tenax_cuda_get_device_info(int32_t device, tenax_cuda_device_info* info,
                                             char* message, size_t size);
/* Whether device `from` reads the memory of device `to` directly: *can is 1 or 0. */
tenax_cuda_status tenax_cuda_peer_access(int32_t from, int32_t to, int32_t* can, char* message,
                                         size_t size);
/* Compiled against and found, as JSON: driver, runtime, cublasLt, cudnn, nccl, nvml. */
tenax_cuda_status tenax_cuda_describe(char* json, size_t size);
/* By NVML, as JSON: ECC errors, throttling, retired pages, Xids. UNAVAILABLE without it. */
tenax_cuda_status tenax_cuda_health(int32_t device, char* json, size_t size);
/* Whether cuDNN plans attention of these shapes (pointers are not looked at) on a described GPU,
 * without any being there; `backward` 0 or 1. The text names the engines or says what failed. */
tenax_cuda_status tenax_cuda_plan_attention(const tenax_cuda_attention* call, int32_t backward,
                                            const char* device_json, char* text, size_t size);

/* --- Contexts. */
tenax_cuda_status tenax_cuda_create(const tenax_cuda_options* options, tenax_cuda_context** context,
                                    char* message, size_t size);
void tenax_cuda_destroy(tenax_cuda_context* context);
/* Of the last call that failed; lives until the next one on this context. */
const char* tenax_cuda_message(tenax_cuda_context* context);
tenax_cuda_status tenax_cuda_memory_info(tenax_cuda_context* context, uint64_t* free_bytes,
                                         uint64_t* total_bytes);
/* Bytes by cudaMalloc through this context, its scratch too: held now, and the most at once. */
tenax_cuda_status tenax_cuda_memory_held(tenax_cuda_context* context, uint64_t* now,
                                         uint64_t* peak);
tenax_cuda_status tenax_cuda_synchronize(tenax_cuda_context* context);
/* Algorithms chosen so far, a line each. use_plans() makes a new context take the same ones; a line
 * that this stack cannot do is left out, and `num_refused` counts them. */
tenax_cuda_status tenax_cuda_plans(tenax_cuda_context* context, char* text, size_t size,
                                   size_t* needed);
tenax_cuda_status tenax_cuda_use_plans(tenax_cuda_context* context, const char* text,
                                       int32_t* num_refused);

/* --- Memory. Device memory is plain cudaMalloc; host memory is pinned. */
tenax_cuda_status tenax_cuda_malloc(tenax_cuda_context* context, uint64_t bytes, void** memory);
tenax_cuda_status tenax_cuda_free(tenax_cuda_context* context, void* memory);
tenax_cuda_status tenax_cuda_host_malloc(tenax_cuda_context* context, uint64_t bytes,
                                         void** memory);
tenax_cuda_status tenax_cuda_host_free(tenax_cuda_context* context, void* memory);
tenax_cuda_status tenax_cuda_host_register(tenax_cuda_context* context, void* memory,
                                           uint64_t bytes);
tenax_cuda_status tenax_cuda_host_unregister(tenax_cuda_context* context, void* memory);
tenax_cuda_status tenax_cuda_fill_zero(tenax_cuda_context* context, void* memory, uint64_t bytes);
tenax_cuda_status tenax_cuda_copy(tenax_cuda_context* context, void* to, const void* from,
                                  uint64_t bytes);
/* These wait until the bytes have moved. */
tenax_cuda_status tenax_cuda_to_device(tenax_cuda_context* context, void* to, const void* host,
                                       uint64_t bytes);
tenax_cuda_status tenax_cuda_to_host(tenax_cuda_context* context, void* host, const void* from,
                                     uint64_t bytes);
/* On a second stream, after all work queued so far; later work goes on beside it.
 * order_after_reads(): work queued later waits for it. finish_reads(): the caller does. */
tenax_cuda_status tenax_cuda_begin_read(tenax_cuda_context* context, void* host, const void* from,
                                        uint64_t bytes);
tenax_cuda_status tenax_cuda_order_after_reads(tenax_cuda_context* context);
tenax_cuda_status tenax_cuda_finish_reads(tenax_cuda_context* context);

/* --- Operations. */
tenax_cuda_status tenax_cuda_run_embed(tenax_cuda_context* context, const tenax_cuda_embed* call);
tenax_cuda_status tenax_cuda_run_embed_backward(tenax_cuda_context* context,
                                                const tenax_cuda_embed_backward* call);
tenax_cuda_status tenax_cuda_run_norm(tenax_cuda_context* context, const tenax_cuda_norm* call);
tenax_cuda_status tenax_cuda_run_norm_backward(tenax_cuda_context* context,
                                               const tenax_cuda_norm_backward* call);
tenax_cuda_status tenax_cuda_run_column_sums(tenax_cuda_context* context,
                                             const tenax_cuda_column_sums* call);
tenax_cuda_status tenax_cuda_run_matmul(tenax_cuda_context* context, const tenax_cuda_matmul* call);
tenax_cuda_status tenax_cuda_run_activation(tenax_cuda_context* context,
                                            const tenax_cuda_activation* call);
tenax_cuda_status tenax_cuda_run_activation_backward(tenax_cuda_context* context,
                                                     const tenax_cuda_activation* call);
tenax_cuda_status tenax_cuda_run_rope(tenax_cuda_context* context, const tenax_cuda_rope* call);
tenax_cuda_status tenax_cuda_run_dropout(tenax_cuda_context* context,
                                         const tenax_cuda_dropout* call);
tenax_cuda_status tenax_cuda_run_residual(tenax_cuda_context* context,
                                          const tenax_cuda_residual* call);
tenax_cuda_status tenax_cuda_run_attention(tenax_cuda_context* context,
                                           const tenax_cuda_attention* call);
tenax_cuda_status tenax_cuda_run_attention_backward(tenax_cuda_context* context,
                                                    const tenax_cuda_attention* call);
tenax_cuda_status tenax_cuda_run_cross_entropy(tenax_cuda_context* context,
                                               const tenax_cuda_cross_entropy* call);
tenax_cuda_status tenax_cuda_run_adamw(tenax_cuda_context* context, const tenax_cuda_adamw* call,
                                       const tenax_cuda_adamw_range* ranges, int32_t num_ranges);
/* sum[i] = a[i] + b[i], float32. */
tenax_cuda_status tenax_cuda_run_add(tenax_cuda_context* context, const float* a, const float* b,
                                     float* sum, int64_t count);
/* to[i] = from[i], types as given. */
tenax_cuda_status tenax_cuda_run_cast(tenax_cuda_context* context, const void* from,
                                      int32_t from_type, void* to, int32_t to_type, int64_t count);
/* x[i] *= factor, of type. */
tenax_cuda_status tenax_cuda_run_scale(tenax_cuda_context* context, void* x, int32_t type,
                                       float factor, int64_t count);
/* sums[i] = sum of squares of elements [4096 i, 4096 (i + 1)) in double, in the order of
 * compute/tensor_norm.h. */
tenax_cuda_status tenax_cuda_run_chunk_squares(tenax_cuda_context* context, const float* x,
                                               int64_t count, double* sums);

/* --- NCCL, for ranks with a GPU each. Communicators do not block: calls begin something, poll()
 * says when it has ended. Work goes on a stream of the communicator's own, after what is queued on
 * the context so far; join() makes later work of the context wait for it. abort() may be called
 * from any thread, ends whatever another thread waits for, and the communicator is good for
 * destroy() alone from then on. After any error but IN_PROGRESS likewise. While a call waits for
 * the stream, communicators that fail are aborted, which ends kernels that wait. */
typedef struct tenax_cuda_nccl tenax_cuda_nccl;
enum { TENAX_CUDA_NCCL_ID_BYTES = 128 };
/* One rank makes the id, all give it to create(). */
tenax_cuda_status tenax_cuda_nccl_unique_id(char* id, char* message, size_t size);
tenax_cuda_status tenax_cuda_nccl_create(tenax_cuda_context* context, const char* id, int32_t rank,
                                         int32_t size, tenax_cuda_nccl** comm);
tenax_cuda_status tenax_cuda_nccl_poll(tenax_cuda_nccl* comm);
const char* tenax_cuda_nccl_message(tenax_cuda_nccl* comm);
/* to = the sum of all ranks' from, float32; may be in place. NCCL chooses the order of the sum. */
tenax_cuda_status tenax_cuda_nccl_all_reduce(tenax_cuda_nccl* comm, const float* from, float* to,
                                             int64_t count);
/* Transfers that begin together; those of two ranks match in their order. */
typedef struct tenax_cuda_transfer {
  float* data; /* not written where it is sent */
  int64_t count;
  int32_t peer;
  int32_t is_send;
} tenax_cuda_transfer;
tenax_cuda_status tenax_cuda_nccl_exchange(tenax_cuda_nccl* comm,
                                           const tenax_cuda_transfer* transfers,
                                           int32_t num_transfers);
/* Waits until what was begun is queued, then orders later work of the context after it. */
tenax_cuda_status tenax_cuda_nccl_join(tenax_cuda_nccl* comm);
/* The orderly end of all ranks, when nothing is under way; asked again while IN_PROGRESS. */
tenax_cuda_status tenax_cuda_nccl_finalize(tenax_cuda_nccl* comm);
void tenax_cuda_nccl_abort(tenax_cuda_nccl* comm);
void tenax_cuda_nccl_destroy(tenax_cuda_nccl* comm); /* aborts what was not finalized */

/* --- Faults on purpose, for tests in a process of their own: a kernel that spins for `seconds` (it
 * ends by itself), or one store past the end of an allocation. */
tenax_cuda_status tenax_cuda_run_spin(tenax_cuda_context* context, double seconds);
tenax_cuda_status tenax_cuda_run_bad_store(tenax_cuda_context* context);

#ifdef __cplusplus
}
#endif

#ifdef TENAX_CUDA_PLUGIN
#pragma GCC visibility pop
#endif

#endif  // TENAX_CUDA_H_

/*
 * autoep.h: expert parallelism for Mixture-of-Experts layers.
 *
 * The whole C interface of libautoep.so. Each section can be used alone:
 *   errors and versions, context, communicators, routing, permutation,
 *   grouped GEMM, all-to-all, the experts path, the experts on one GPU, statistics.
 *
 * Shape legend, used in every comment:
 *   T tokens of this rank      H hidden size          F expert FFN size
 *   E experts                  K experts a token      N = T*K routed copies
 *   P ranks of a communicator  e experts of this rank R rows this rank receives
 *   G = 2F for gated experts (gate and up), F for plain ones
 *
 * Rules that hold for every function:
 *   - It returns an autoep_status. `error` may be NULL; when it is not, a failure
 *     writes the status and a text that says what, where, what was given and what
 *     is expected. A success leaves it untouched.
 *   - Nothing is kept of a pointer after the call returns, unless its comment says so.
 *     Tensors are borrowed. Handles are owned by the caller and freed by the
 *     function that the creating one names.
 *   - No input makes a function read or write outside the tensors it was given,
 *     and no failure ends the host process.
 *   - Output tensors are allocated by the caller and completely overwritten.
 *   - Functions may be called from any thread. Collective functions (marked so) are
 *     called by all ranks of a communicator in the same order, one at a time a rank.
 *   - A process forked from one that uses the library makes contexts of its own; those of its
 *     parent it may free, and not use.
 */
#ifndef AUTOEP_H
#define AUTOEP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------- */
/* Errors and versions                                                       */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_status;
enum {
  AUTOEP_OK = 0,
  AUTOEP_INVALID_ARGUMENT = 1, /* a value, shape, dtype or pointer is wrong */
  AUTOEP_INVALID_HANDLE = 2,   /* a handle was freed, or never was one of this kind */
  AUTOEP_UNSUPPORTED = 3,      /* well-formed, but not something this build does */
  AUTOEP_OUT_OF_MEMORY = 4,
  AUTOEP_COMMUNICATION = 5,    /* a transport failed */
  AUTOEP_TIMEOUT = 6,          /* a rank did not join an exchange before the deadline */
  AUTOEP_MISSING_LIBRARY = 7,  /* an outside library is not on this machine */
  AUTOEP_INTERNAL = 8          /* a bug in this library */
};

#define AUTOEP_ERROR_MESSAGE_SIZE 1024

/* Owned by the caller; the text ends with NUL and is cut when it does not fit. */
typedef struct autoep_error {
  autoep_status status;
  char message[AUTOEP_ERROR_MESSAGE_SIZE];
} autoep_error;

/* The library's version, "major.minor.patch". A static string. */
const char *autoep_version(void);

/* The number of this interface; from the first release on it changes when a caller must be rebuilt. */
int32_t autoep_abi_version(void);

/* The name of a status, such as "AUTOEP_TIMEOUT"; never NULL. A static string. */
const char *autoep_status_name(autoep_status status);

/* ------------------------------------------------------------------------- */
/* Tensors                                                                   */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_dtype;
enum {
  AUTOEP_F32 = 1,
  AUTOEP_F64 = 2,
  AUTOEP_BF16 = 3,
  AUTOEP_F16 = 4, /* router logits, and the experts on one GPU */
  AUTOEP_I32 = 5,
  AUTOEP_I64 = 6
};

/* Device types carry DLPack's numbers. */
enum { AUTOEP_DEVICE_CPU = 1, AUTOEP_DEVICE_CUDA = 2 };

/* A borrowed view of memory, as DLPack describes one. Tensors must be dense and
 * row-major; `strides` may be NULL (dense) and is otherwise checked. `data` may be
 * NULL only when the tensor holds no element. */
typedef struct autoep_tensor {
  void *data;
  const int64_t *shape;   /* [ndim] */
  const int64_t *strides; /* [ndim], in elements, or NULL */
  int32_t ndim;
  autoep_dtype dtype;
  int32_t device_type;
  int32_t device_id;
} autoep_tensor;

/* ------------------------------------------------------------------------- */
/* Context: a device, its threads or its stream, and its counters            */
/* ------------------------------------------------------------------------- */

typedef uint64_t autoep_context;

typedef struct autoep_context_config {
  size_t struct_size;  /* sizeof(autoep_context_config) */
  int32_t device_type; /* AUTOEP_DEVICE_CPU or AUTOEP_DEVICE_CUDA */
  int32_t device_id;   /* 0 for the CPU */
  int32_t num_threads; /* CPU; 0: AUTOEP_NUM_THREADS, else the cores this process may use */
  void *stream;        /* CUDA: borrowed until the context is freed; NULL: the default stream */
  /* CUDA: where the host has NVIDIA's run-time compiler, libnvrtc.so.13 or .12; looked at when
   * AUTOEP_NVRTC is not set and the process has not loaded one. NULL: the loader's search. */
  const char *nvrtc_path;
} autoep_context_config;

/* A context of a CUDA device is light: make one for each stream. Its calls take tensors of that
 * device, in f32, bf16 and (where said) f16; they put work into the stream and return without
 * waiting for it. Bad data that the work finds (an index out of range, NaN logits) never leads out of
 * bounds; the next call on a context of that device returns AUTOEP_INVALID_ARGUMENT for it.
 *
 * Free with autoep_context_free. config may be NULL for the defaults. AUTOEP_MISSING_LIBRARY: this
 * machine has no NVIDIA driver, or no compiler was found. */
autoep_status autoep_context_create(const autoep_context_config *config,
                                    autoep_context *context, autoep_error *error);
autoep_status autoep_context_free(autoep_context context, autoep_error *error);

/* The number of threads in use; 0 for a CUDA device. */
autoep_status autoep_context_num_threads(autoep_context context, int32_t *num_threads,
                                         autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Communicators                                                             */
/* ------------------------------------------------------------------------- */

typedef uint64_t autoep_comm;

/* A transport that the host supplies: one nonblocking exchange, from which the engine
 * builds every collective. `state` is passed to each function. All functions may be
 * called from any thread, one at a time. They return 0, or another number after
 * writing a text of at most AUTOEP_ERROR_MESSAGE_SIZE bytes (NUL included) to `message`. */
typedef struct autoep_transport {
  size_t struct_size; /* sizeof(autoep_transport) */
  void *state;
  int32_t rank;
  int32_t size;

  /* Starts an exchange. Rank p gets send_rows[p] rows of row_bytes bytes, which follow
   * each other in `send` in rank order; `receive` gets receive_rows[p] rows from rank p
   * in rank order. The rows to and from the own rank are included. All four pointers stay
   * valid until `wait` returns. *request is passed to `wait`, which is called once. */
  int32_t (*start)(void *state, const void *send, const int64_t *send_rows, void *receive,
                   const int64_t *receive_rows, int64_t row_bytes, void **request,
                   char *message);

  /* Waits until the exchange has ended on this rank, at most `timeout_seconds`. Returns 0
   * when it has, AUTOEP_TIMEOUT after setting missing[p] = 1 for each rank p whose part did
   * not arrive (`missing` is [size], zeroed by the caller), another number on failure. The
   * request is released in every case. */
  int32_t (*wait)(void *state, void *request, double timeout_seconds, int32_t *missing,
                  char *message);

  /* Frees `state`; called once, when the communicator is freed. May be NULL. */
  void (*release)(void *state);
} autoep_transport;

/* Makes the communicator of one rank alone, for which every exchange is a copy. Free with
 * autoep_comm_free. */
autoep_status autoep_comm_create_self(autoep_comm *comm, autoep_error *error);

/* Makes `size` communicators that are the ranks of one group inside this process: each is
 * used by a thread of its own. For tests. comms is [size]; free each with autoep_comm_free. */
autoep_status autoep_comm_create_local(int32_t size, double timeout_seconds,
                                       autoep_comm *comms, autoep_error *error);

/* Makes a communicator over a transport of the host. The table is copied; its state is
 * owned by the communicator when the call succeeds, and stays the caller's otherwise. */
autoep_status autoep_comm_create_callback(const autoep_transport *transport,
                                          double timeout_seconds, autoep_comm *comm,
                                          autoep_error *error);

/* Makes a communicator over MPI for the given ranks of MPI_COMM_WORLD (`ranks` [count], or
 * NULL for all of them); rank i of it is world rank ranks[i]. Collective over those ranks.
 * `library_path` names libautoep_mpi.so; MPI is initialised if nobody did. */
autoep_status autoep_comm_create_mpi(const char *library_path, const int32_t *ranks,
                                     int32_t count, double timeout_seconds,
                                     autoep_comm *comm, autoep_error *error);

/* Ends MPI if autoep_comm_create_mpi began it. Call it once, after the last communicator
 * was freed. Does nothing where MPI was never used. */
autoep_status autoep_mpi_finalize(autoep_error *error);

autoep_status autoep_comm_free(autoep_comm comm, autoep_error *error);

autoep_status autoep_comm_rank(autoep_comm comm, int32_t *rank, int32_t *size,
                               autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Routing                                                                   */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_score;
enum {
  AUTOEP_SCORE_SOFTMAX = 1,      /* softmax over E, then top-k */
  AUTOEP_SCORE_TOPK_SOFTMAX = 2, /* top-k of the logits, then softmax over the K */
  AUTOEP_SCORE_SIGMOID = 3,      /* sigmoid, then top-k (DeepSeek-V3, arXiv:2412.19437) */
  AUTOEP_SCORE_SINKHORN = 4      /* choice from Sinkhorn-normalised exp(logits) (S-BASE,
                                    arXiv:2202.01169) in training, from the logits in eval;
                                    weights from sigmoid if K = 1, else from softmax over E */
};

typedef int32_t autoep_group_score;
enum {
  AUTOEP_GROUP_NONE = 0,
  AUTOEP_GROUP_MAX = 1,     /* a group's score is its best expert's (DeepSeek-V2) */
  AUTOEP_GROUP_TOP2_SUM = 2 /* the sum of its two best (DeepSeek-V3) */
};

typedef struct autoep_route_config {
  size_t struct_size; /* sizeof(autoep_route_config) */
  autoep_score score;
  int32_t top_k;                  /* K, 1 to E */
  int32_t normalize;              /* 1: weights / (their sum over K + normalize_epsilon) */
  double normalize_epsilon;
  double scale;                   /* multiplies the weights last; 1 for none */
  autoep_group_score group_score; /* group-limited top-k; SOFTMAX and SIGMOID only */
  int32_t num_groups;             /* divides E; 1 with AUTOEP_GROUP_NONE */
  int32_t topk_groups;            /* groups a token may use; 1 to num_groups */
  int32_t training;               /* SINKHORN only: 0 chooses by plain top-k */
  int32_t sinkhorn_iterations;    /* SINKHORN only: 1 to 3 */
} autoep_route_config;

/* Chooses K experts a token. Computed in f32, in f64 for f64 logits; ties go to the lowest
 * index; the choice is in order of falling score. NaN and +inf logits, and rows without a
 * finite logit, are errors that name the token and the expert.
 *   logits            [T,E] f32, f64, bf16 or f16
 *   selection_bias    [E] f32 or f64, added to the scores for the choice only, or NULL
 *   topk_idx          [T,K] i32, out
 *   topk_weights      [T,K] f32 (f64 for f64 logits), out
 *   tokens_per_expert [E] i32, out, or NULL */
autoep_status autoep_route(autoep_context context, const autoep_route_config *config,
                           const autoep_tensor *logits, const autoep_tensor *selection_bias,
                           const autoep_tensor *topk_idx, const autoep_tensor *topk_weights,
                           const autoep_tensor *tokens_per_expert, autoep_error *error);

/* The router's product and the choice in one call: logits = x router^T, summed in f32 (f64 for f64)
 * in a fixed order and rounded once, then what autoep_route gives for these logits. A row's
 * logits depend neither on T nor on where it stands.
 *   x                 [T,H] f32, f64 or bf16 (on one GPU f32, bf16 or f16)
 *   router            [E,H] dtype of x
 *   selection_bias    [E] as in autoep_route, or NULL
 *   logits            [T,E] dtype of x, out
 *   topk_idx, topk_weights, tokens_per_expert: as in autoep_route, out */
autoep_status autoep_router_forward(autoep_context context, const autoep_route_config *config,
                                    const autoep_tensor *x, const autoep_tensor *router,
                                    const autoep_tensor *selection_bias,
                                    const autoep_tensor *logits, const autoep_tensor *topk_idx,
                                    const autoep_tensor *topk_weights,
                                    const autoep_tensor *tokens_per_expert,
                                    autoep_error *error);

/* The gradient to the logits, for the choice that autoep_route made.
 *   grad_topk_weights [T,K] dtype of topk_weights
 *   grad_logits       [T,E] dtype of logits, out */
autoep_status autoep_route_backward(autoep_context context, const autoep_route_config *config,
                                    const autoep_tensor *logits, const autoep_tensor *topk_idx,
                                    const autoep_tensor *grad_topk_weights,
                                    const autoep_tensor *grad_logits, autoep_error *error);

/* The router z-loss, mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv:2202.08906).
 *   logits [T,E]; loss [1] f32 (f64 for f64 logits), out. T = 0 gives 0. */
autoep_status autoep_router_z_loss(autoep_context context, const autoep_tensor *logits,
                                   const autoep_tensor *loss, autoep_error *error);

/* grad_loss [1] dtype of loss; grad_logits [T,E] dtype of logits, out. */
autoep_status autoep_router_z_loss_backward(autoep_context context, const autoep_tensor *logits,
                                            const autoep_tensor *grad_loss,
                                            const autoep_tensor *grad_logits,
                                            autoep_error *error);

/* Multiplies each element by noise drawn uniformly from [1 - epsilon, 1 + epsilon]
 * (Switch Transformers, arXiv:2101.03961). The noise depends on seed and element index
 * only, so the same call on the gradient is the backward.
 *   x [T,H] f32, f64 or bf16; y like x, out (may be x itself); 0 <= epsilon < 1 */
autoep_status autoep_jitter(autoep_context context, const autoep_tensor *x, double epsilon,
                            uint64_t seed, const autoep_tensor *y, autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Permutation                                                               */
/* ------------------------------------------------------------------------- */

/* Sorts the N = T*K routed copies by expert; stable: expert, then token, then k. Copy
 * t*K + k is called slot t*K + k; its place in expert order is its row.
 *   topk_idx          [T,K] i32 or i64, each in [0, num_experts)
 *   row_of_slot       [T,K] i32, out
 *   tokens_per_expert [num_experts] i32, out */
autoep_status autoep_sort_by_expert(autoep_context context, const autoep_tensor *topk_idx,
                                    int32_t num_experts, const autoep_tensor *row_of_slot,
                                    const autoep_tensor *tokens_per_expert,
                                    autoep_error *error);

/* rows[row_of_slot[t,k]] = x[t].
 *   x           [T,H] f32, f64 or bf16
 *   row_of_slot [T,K] i32, a permutation of [0, N)
 *   rows        [N,H] dtype of x, out */
autoep_status autoep_permute(autoep_context context, const autoep_tensor *x,
                             const autoep_tensor *row_of_slot, const autoep_tensor *rows,
                             autoep_error *error);

/* grad_x[t] = sum over k of grad_rows[row_of_slot[t,k]], in k order, in f32.
 *   grad_rows [N,H]; row_of_slot [T,K]; grad_x [T,H], out */
autoep_status autoep_permute_backward(autoep_context context, const autoep_tensor *grad_rows,
                                      const autoep_tensor *row_of_slot,
                                      const autoep_tensor *grad_x, autoep_error *error);

/* y[t] = sum over k of topk_weights[t,k] * rows[row_of_slot[t,k]], in k order, in f32 (f64).
 *   rows [N,H]; row_of_slot [T,K]; topk_weights [T,K] f32, f64 or bf16, or NULL for ones;
 *   y [T,H] dtype of rows, out */
autoep_status autoep_unpermute(autoep_context context, const autoep_tensor *rows,
                               const autoep_tensor *row_of_slot,
                               const autoep_tensor *topk_weights, const autoep_tensor *y,
                               autoep_error *error);

/* grad_rows[row_of_slot[t,k]] = topk_weights[t,k] * grad_y[t];
 * grad_topk_weights[t,k] = <grad_y[t], rows[row_of_slot[t,k]]>.
 *   grad_topk_weights [T,K] dtype of topk_weights, out; NULL with, and only with,
 *   topk_weights NULL, when `rows` may be NULL too */
autoep_status autoep_unpermute_backward(autoep_context context, const autoep_tensor *grad_y,
                                        const autoep_tensor *rows,
                                        const autoep_tensor *row_of_slot,
                                        const autoep_tensor *topk_weights,
                                        const autoep_tensor *grad_rows,
                                        const autoep_tensor *grad_topk_weights,
                                        autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Grouped GEMM                                                              */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_weight_layout;
enum {
  AUTOEP_WEIGHT_OUT_IN = 1, /* [E, out, in]: y = x W^T, as most HF families store it */
  AUTOEP_WEIGHT_IN_OUT = 2  /* [E, in, out]: y = x W, as gpt-oss, aria and llama4 do */
};

/* out[r] = rows[r] times the weight of r's group; groups follow each other in `rows`.
 * Accumulated in f32 (f64 for f64); a row's result does not depend on where it stands.
 *   rows           [R,in] f32, f64 or bf16
 *   weights        [E,out,in] or [E,in,out], by `layout`
 *   rows_per_group [E] i32 or i64, sum R; zeros anywhere
 *   out            [R,out], out */
autoep_status autoep_grouped_gemm(autoep_context context, const autoep_tensor *rows,
                                  const autoep_tensor *weights, autoep_weight_layout layout,
                                  const autoep_tensor *rows_per_group,
                                  const autoep_tensor *out, autoep_error *error);

/* The gradient to the weights: for each group, the sum over its rows of the outer product
 * of grad_out[r] and rows[r], in row order. An empty group gets zeros.
 *   grad_out [R,out]; rows [R,in]; grad_weights [E,out,in] or [E,in,out], out */
autoep_status autoep_grouped_gemm_weight_grad(autoep_context context,
                                              const autoep_tensor *grad_out,
                                              const autoep_tensor *rows,
                                              autoep_weight_layout layout,
                                              const autoep_tensor *rows_per_group,
                                              const autoep_tensor *grad_weights,
                                              autoep_error *error);

/* ------------------------------------------------------------------------- */
/* All-to-all                                                                */
/* ------------------------------------------------------------------------- */

/* Collective. Sends send_rows[p] rows of `send` to rank p, in rank order, and receives
 * receive_rows[p] rows of rank p into `receive`. Any dtype of at least one dimension.
 *   send [sum of send_rows, ...]; receive [sum of receive_rows, ...], out
 *   send_rows, receive_rows: [P] */
autoep_status autoep_all_to_all(autoep_comm comm, const autoep_tensor *send,
                                const int64_t *send_rows, const autoep_tensor *receive,
                                const int64_t *receive_rows, autoep_error *error);

/* Collective. Tells each rank p the number counts[p], and writes what rank p told here
 * to received[p]: the row counts that autoep_all_to_all needs. Both are [P]. */
autoep_status autoep_exchange_counts(autoep_comm comm, const int64_t *counts,
                                     int64_t *received, autoep_error *error);

/* Collective. data [...] f32 or f64 becomes its sum over the ranks, added in rank order:
 * the same bits on every rank. */
autoep_status autoep_all_reduce(autoep_comm comm, const autoep_tensor *data,
                                autoep_error *error);

/* Collective. Returns when every rank has entered. */
autoep_status autoep_barrier(autoep_comm comm, autoep_error *error);

/* ------------------------------------------------------------------------- */
/* The experts path                                                          */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_activation;
enum {
  AUTOEP_SILU = 1,
  AUTOEP_GELU = 2,          /* erf */
  AUTOEP_GELU_TANH = 3,
  AUTOEP_RELU_SQUARED = 4,
  AUTOEP_CLAMPED_SWIGLU = 5, /* gpt-oss, gated only: g = min(gate, limit),
                                u = clamp(up, -limit, limit): (u + 1) g sigmoid(alpha g) */
  AUTOEP_CLAMPED_SILU = 6    /* gated only, same g and u: u g sigmoid(g) */
};

typedef int32_t autoep_gate;
enum {
  AUTOEP_GATE_NONE = 1,         /* hidden = x W1; act(hidden) */
  AUTOEP_GATE_CONCATENATED = 2, /* hidden = [gate | up]; act(gate) * up */
  AUTOEP_GATE_INTERLEAVED = 3   /* hidden = gate, up, gate, up, ... */
};

typedef int32_t autoep_score_apply;
enum {
  AUTOEP_SCORE_AFTER = 1, /* y = sum of weight * expert(x) */
  AUTOEP_SCORE_BEFORE = 2 /* y = sum of expert(weight * x), as llama4 */
};

typedef struct autoep_experts_config {
  size_t struct_size; /* sizeof(autoep_experts_config) */
  int32_t num_experts;      /* E, of all ranks */
  int64_t hidden_size;      /* H */
  int64_t ffn_size;         /* F */
  autoep_dtype dtype;       /* of x, weights, y: f32, f64 or bf16 */
  autoep_activation activation;
  autoep_gate gate;
  autoep_weight_layout weight_layout;
  autoep_score_apply score_apply;
  double swiglu_alpha;      /* CLAMPED_SWIGLU only */
  double swiglu_limit;      /* CLAMPED_SWIGLU and CLAMPED_SILU only; > 0 */
} autoep_experts_config;

/* Where each routed copy goes: made by a rank for one set of choices, used by one forward
 * and any number of backwards. */
typedef uint64_t autoep_plan;

typedef struct autoep_plan_info {
  size_t struct_size; /* sizeof(autoep_plan_info); set by the caller */
  int64_t num_tokens;               /* T */
  int64_t rows_sent;                /* N */
  int64_t rows_received;            /* R */
  int64_t first_expert;             /* this rank's experts: [first_expert, */
  int64_t local_experts;            /*   first_expert + local_experts) */
  int64_t saved_rows;               /* S: R, or 0 where the experts read their rows from x: a rank
                                     *   alone, with weights applied after them */
  int64_t forward_workspace_bytes;
  int64_t backward_workspace_bytes; /* enough for any backward */
  int64_t gate_up_backward_workspace_bytes; /* for one with grad_weights->gate_up, in whose memory it
                                             *   works before it writes that gradient */
} autoep_plan_info;

/* The experts of one rank, when E experts are split over P ranks as torch.chunk (and DTensor's
 * Shard(0)) splits: ceil(E/P) each, the last ranks fewer or none. */
autoep_status autoep_expert_range(int32_t num_experts, int32_t num_ranks, int32_t rank,
                                  int64_t *first_expert, int64_t *local_experts,
                                  autoep_error *error);

/* Collective: sorts the choices and exchanges the counts. The plan keeps its communicator alive.
 * CPU contexts only; the experts on one GPU are below. Free with autoep_plan_free.
 *   topk_idx [T,K] i32 or i64, each in [0, E) */
autoep_status autoep_experts_plan(autoep_context context, autoep_comm comm,
                                  const autoep_experts_config *config,
                                  const autoep_tensor *topk_idx, autoep_plan *plan,
                                  autoep_plan_info *info, autoep_error *error);
autoep_status autoep_plan_free(autoep_plan plan, autoep_error *error);

/* tokens this rank sends to each expert [E], and receives for each of its own [e]. Either may
 * be NULL. */
autoep_status autoep_plan_tokens_per_expert(autoep_plan plan, int64_t *sent, int64_t *received,
                                            autoep_error *error);

/* The weights of this rank's experts. Biases are NULL for a model without. */
typedef struct autoep_experts_weights {
  size_t struct_size; /* sizeof(autoep_experts_weights) */
  const autoep_tensor *gate_up;      /* [e,G,H], or [e,H,G] for IN_OUT */
  const autoep_tensor *gate_up_bias; /* [e,G] or NULL */
  const autoep_tensor *down;         /* [e,H,F], or [e,F,H] for IN_OUT */
  const autoep_tensor *down_bias;    /* [e,H] or NULL */
} autoep_experts_weights;

/* Collective. y[t] = sum over k of topk_weights[t,k] * expert(topk_idx[t,k])(x[t]), summed in
 * f32 (f64) in k order: the same bits for every number of ranks.
 *   x            [T,H]
 *   topk_weights [T,K] f32, f64 or bf16
 *   rows         [S,H] out: what this rank received; backward needs it
 *   hidden       [R,G] out: the pre-activation; backward needs it
 *   expert_rows  [N,H] out: each copy's result, in expert order; backward needs it
 *   y            [T,H] out
 *   workspace    forward_workspace_bytes bytes, aligned to 64; may be NULL for 0 */
autoep_status autoep_experts_forward(autoep_context context, autoep_plan plan,
                                     const autoep_experts_weights *weights,
                                     const autoep_tensor *x, const autoep_tensor *topk_weights,
                                     const autoep_tensor *rows, const autoep_tensor *hidden,
                                     const autoep_tensor *expert_rows, const autoep_tensor *y,
                                     void *workspace, autoep_error *error);

/* Collective. Gradients of autoep_experts_forward, given what it saved. But for grad_hidden, what it writes
 * shares no memory with anything else that it is given. Where it fails, what it writes is undefined.
 *   grad_y            [T,H]
 *   x                 [T,H]; may be NULL for SCORE_AFTER where S = R
 *   grad_hidden       [R,G] out: the gradient of hidden; may be hidden itself, which is then overwritten
 *   grad_x            [T,H] out
 *   grad_topk_weights [T,K] dtype of topk_weights, out; or NULL
 *   grad_weights      shapes of the weights, out; each member NULL where no gradient is wanted. Until it
 *                     is made, the memory of gate_up's is worked in
 *   workspace         backward_workspace_bytes bytes, or with grad_weights->gate_up only
 *                     gate_up_backward_workspace_bytes, aligned to 64; may be NULL for 0 */
autoep_status autoep_experts_backward(autoep_context context, autoep_plan plan,
                                      const autoep_experts_weights *weights,
                                      const autoep_tensor *grad_y, const autoep_tensor *x,
                                      const autoep_tensor *topk_weights,
                                      const autoep_tensor *rows, const autoep_tensor *hidden,
                                      const autoep_tensor *expert_rows,
                                      const autoep_tensor *grad_hidden,
                                      const autoep_tensor *grad_x,
                                      const autoep_tensor *grad_topk_weights,
                                      const autoep_experts_weights *grad_weights,
                                      void *workspace, autoep_error *error);

/* ------------------------------------------------------------------------- */
/* The experts on one GPU                                                    */
/* ------------------------------------------------------------------------- */

/* All E experts of a layer on the device of a CUDA context, with no plan and no communicator. config
 * is that of the experts path, with f32, bf16 or f16. Calls only put work into the context's stream
 * and can be captured in a graph; the kernels are compiled or loaded by the first call with a config,
 * which therefore comes before the capture. A choice outside [0, E) is dropped: it contributes
 * nothing, and is told by the next call. */

typedef struct autoep_local_experts_info {
  size_t struct_size; /* sizeof(autoep_local_experts_info); set by the caller */
  int64_t routing_bytes;
  int64_t forward_workspace_bytes;
  int64_t backward_workspace_bytes;
  int64_t backward_scratch_bytes;
} autoep_local_experts_info;

/* The sizes of what the caller allocates on the device for T tokens and K choices a token. */
autoep_status autoep_local_experts_describe(autoep_context context,
                                            const autoep_experts_config *config,
                                            int64_t num_tokens, int32_t top_k,
                                            autoep_local_experts_info *info,
                                            autoep_error *error);

/* y[t] = sum over k of topk_weights[t,k] * expert(topk_idx[t,k])(x[t]), summed in f32 in k order.
 *   weights           as of the experts path, with e = E
 *   x                 [T,H]
 *   topk_idx          [T,K] i32 or i64
 *   topk_weights      [T,K] f32, bf16 or f16
 *   routing           routing_bytes bytes, aligned to 64, out; backward needs it
 *   hidden            [N,G] out: the pre-activation, in expert order; backward needs it
 *   tokens_per_expert [E] i32 out, or NULL
 *   y                 [T,H] out
 *   workspace         forward_workspace_bytes bytes, aligned to 64; may be NULL for 0 */
autoep_status autoep_local_experts_forward(
    autoep_context context, const autoep_experts_config *config,
    const autoep_experts_weights *weights, const autoep_tensor *x, const autoep_tensor *topk_idx,
    const autoep_tensor *topk_weights, void *routing, const autoep_tensor *hidden,
    const autoep_tensor *tokens_per_expert, const autoep_tensor *y, void *workspace,
    autoep_error *error);

/* Gradients of autoep_local_experts_forward, given what it was given and what it saved.
 *   grad_y            [T,H]
 *   grad_hidden       [N,G] out: the gradient of hidden, whose memory it may take
 *   activated         [N,F] out: what the activation gave, times each copy's weight; scratch, which may
 *                     be in the memory of grad_weights->gate_up unless that is added to
 *   grad_x            [T,H] out, or NULL
 *   grad_topk_weights [T,K] dtype of topk_weights, out, or NULL
 *   grad_weights      shapes of the weights, out, in their dtype or f32; each member NULL where no
 *                     gradient is wanted. An expert without tokens gets zeros
 *   accumulate        0; or 1 to add to the gradients that are in grad_weights, which are f32
 *   scratch           backward_scratch_bytes bytes, aligned to 64, which may be in the memory of
 *                     grad_x; may be NULL for 0
 *   workspace         backward_workspace_bytes bytes, aligned to 64; may be NULL for 0 */
autoep_status autoep_local_experts_backward(
    autoep_context context, const autoep_experts_config *config,
    const autoep_experts_weights *weights, const autoep_tensor *grad_y, const autoep_tensor *x,
    const autoep_tensor *topk_weights, const void *routing, const autoep_tensor *hidden,
    const autoep_tensor *grad_hidden, const autoep_tensor *activated,
    const autoep_tensor *grad_x, const autoep_tensor *grad_topk_weights,
    const autoep_experts_weights *grad_weights, int32_t accumulate, void *scratch,
    void *workspace, autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Statistics                                                                */
/* ------------------------------------------------------------------------- */

/* Counters of a context's experts path since it was made or reset. Bytes count row payloads. */
typedef struct autoep_statistics {
  size_t struct_size; /* sizeof(autoep_statistics); set by the caller */
  int64_t forward_calls;
  int64_t backward_calls;
  int64_t rows_sent;         /* copies this rank routed, wherever they went */
  int64_t rows_sent_remote;  /* those that went to another rank */
  int64_t rows_received;
  int64_t bytes_sent_remote; /* by dispatches and combines, forward and backward */
} autoep_statistics;

autoep_status autoep_context_statistics(autoep_context context, autoep_statistics *statistics,
                                        autoep_error *error);
autoep_status autoep_context_reset_statistics(autoep_context context, autoep_error *error);

#ifdef __cplusplus
}
#endif

#endif /* AUTOEP_H */

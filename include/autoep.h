/*
 * autoep.h: expert parallelism for Mixture-of-Experts layers.
 *
 * The whole C interface of libautoep.so. Each section can be used alone:
 *   errors and versions, context, communicators, routing, permutation,
 *   grouped GEMM, all-to-all, the layer, dispatch and combine, statistics.
 *
 * Shape legend, used in every comment:
 *   T tokens of this rank      H hidden size          F expert FFN size
 *   E experts                  K experts per token    N = T*K slots
 *   P ranks of a communicator  e experts of this rank R rows of this rank's experts
 *   A tokens that arrive on this rank with AUTOEP_DISPATCH_TOKENS, its own included
 *   G = 2F for gated experts (gate and up), F for plain ones
 * Slot t*K + k is the k-th choice of token t. A slot whose topk_idx is -1 has no expert and no row: it adds
 * nothing, its weight is never read, and the gradient of its weight is 0.
 *
 * Rules that hold for every function:
 *   - It returns an autoep_status. If `error` is not NULL, a failure writes to it the status and a
 *     message that says what is wrong, where, what was given and what was expected. A success
 *     leaves it unchanged.
 *   - Structs begin with struct_size, which the caller sets to sizeof. If a later version adds
 *     fields, they are zero for a caller built with an older header. AUTOEP_..._INIT macros set a
 *     config to its defaults.
 *   - No pointer is kept after the call returns, unless its comment says so. Tensors and buffers
 *     are borrowed. Handles are owned by the caller; the comment of the function that creates a
 *     handle names the function that frees it.
 *   - No input makes a function read or write outside the tensors and buffers it was given,
 *     and no failure ends the host process.
 *   - Output tensors are allocated by the caller and completely overwritten. Outputs must not overlap each
 *     other or any input, unless a comment allows it.
 *   - Functions may be called from any thread. Functions marked "Collective" must be called by all
 *     ranks of a communicator in the same order, one at a time per rank.
 *   - After fork(), the child must create its own contexts. It may free handles inherited from the parent,
 *     but must not use them.
 */
#ifndef AUTOEP_H
#define AUTOEP_H

/* Incremented with each change that requires callers to be rebuilt. */
#define AUTOEP_ABI_VERSION 3

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
  AUTOEP_ERROR_INVALID_ARGUMENT = 1, /* a value, shape, dtype or pointer is wrong */
  AUTOEP_ERROR_INVALID_HANDLE = 2,   /* a handle was freed, or is of another kind */
  AUTOEP_ERROR_UNSUPPORTED = 3,      /* well-formed, but not supported by this build */
  AUTOEP_ERROR_OUT_OF_MEMORY = 4,
  AUTOEP_ERROR_COMMUNICATION = 5,    /* a transport failed, or another rank reported a failure */
  AUTOEP_ERROR_TIMEOUT = 6,          /* a rank did not join an exchange before the deadline */
  AUTOEP_ERROR_MISSING_LIBRARY = 7,  /* an external library is not on this machine */
  AUTOEP_ERROR_INTERNAL = 8          /* a bug in this library */
};

#define AUTOEP_ERROR_MESSAGE_SIZE 1024
#define AUTOEP_ERROR_STEP_SIZE 64
#define AUTOEP_ERROR_MAX_RANKS 64

/* Owned by the caller, who initialises it with AUTOEP_ERROR_INIT. Strings end with NUL and are truncated if
 * they do not fit. */
typedef struct autoep_error {
  size_t struct_size;
  autoep_status status;
  int32_t num_ranks;                     /* how many ranks did not join or failed, if known */
  int32_t ranks[AUTOEP_ERROR_MAX_RANKS]; /* the first of them */
  char step[AUTOEP_ERROR_STEP_SIZE];     /* the exchange that failed, or "" */
  char message[AUTOEP_ERROR_MESSAGE_SIZE];
} autoep_error;
#define AUTOEP_ERROR_INIT {sizeof(autoep_error), AUTOEP_OK, 0, {0}, "", ""}

/* The library's version, "major.minor.patch". A static string. */
const char *autoep_version(void);

/* The AUTOEP_ABI_VERSION that the library was built with. */
int32_t autoep_abi_version(void);

/* The name of a status, such as "AUTOEP_ERROR_TIMEOUT"; never NULL. A static string. */
const char *autoep_status_name(autoep_status status);

/* ------------------------------------------------------------------------- */
/* Tensors                                                                   */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_dtype;
enum {
  AUTOEP_DTYPE_F32 = 1,
  AUTOEP_DTYPE_F64 = 2,
  AUTOEP_DTYPE_BF16 = 3,
  AUTOEP_DTYPE_F16 = 4, /* on CPUs router logits only; on GPUs all tensors */
  AUTOEP_DTYPE_I32 = 5,
  AUTOEP_DTYPE_I64 = 6
};

/* Device types have DLPack's values. */
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

/* Borrowed memory on the device of the call, aligned to 64 bytes. {NULL, 0} if no bytes are needed. */
typedef struct autoep_buffer {
  void *data;
  size_t bytes;
} autoep_buffer;

typedef int32_t autoep_layout;
enum {
  AUTOEP_LAYOUT_OUT_IN = 1, /* [E, out, in]: y = x W^T, as most HF families store it */
  AUTOEP_LAYOUT_IN_OUT = 2  /* [E, in, out]: y = x W, as gpt-oss, aria and llama4 do */
};

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
  /* CUDA: path of NVIDIA's run-time compiler, libnvrtc.so.13 or .12; used if AUTOEP_NVRTC is not
   * set and the process has not loaded one. NULL: the loader's search path. */
  const char *nvrtc_path;
} autoep_context_config;
#define AUTOEP_CONTEXT_CONFIG_INIT \
  {sizeof(autoep_context_config), AUTOEP_DEVICE_CPU, 0, 0, NULL, NULL}

/* A CUDA context is cheap: create one per stream. Its calls take tensors of its device, in f32, bf16
 * and (where stated) f16; they enqueue work on the stream and return without waiting for it. Invalid
 * data that this work finds (an index out of range, NaN logits) never causes an access out of bounds;
 * the next call on a context of that device returns AUTOEP_ERROR_INVALID_ARGUMENT.
 *
 * Free with autoep_context_free. config may be NULL for the defaults. Returns AUTOEP_ERROR_MISSING_LIBRARY
 * if this machine has no NVIDIA driver, or no compiler was found. */
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

/* One uneven all-to-all, as one rank sees it. Rank p gets send_rows[p] rows of row_bytes bytes, which follow
 * each other in `send` in rank order; `receive` gets receive_rows[p] rows from rank p in rank order. The rows
 * to and from the own rank are included. */
typedef struct autoep_exchange {
  size_t struct_size; /* sizeof(autoep_exchange); set by the library */
  const void *send;
  const int64_t *send_rows; /* [size] */
  void *receive;
  const int64_t *receive_rows; /* [size] */
  int64_t row_bytes;
} autoep_exchange;

/* A transport that the host supplies: one nonblocking exchange of host memory, from which the engine
 * builds every collective. `state` is passed to each function. All functions may be
 * called from any thread, one at a time. They return 0, or another number after
 * writing a text of at most AUTOEP_ERROR_MESSAGE_SIZE bytes (NUL included) to `message`. */
typedef struct autoep_transport {
  size_t struct_size; /* sizeof(autoep_transport) */
  void *state;
  int32_t rank;
  int32_t size;

  /* Starts an exchange. What it points to stays valid until `wait` returns. *request is passed to `wait`, which
   * is called once. */
  int32_t (*start)(void *state, const autoep_exchange *exchange, void **request, char *message);

  /* Waits until the exchange has ended on this rank, at most `timeout_seconds`. Returns 0
   * when it has, AUTOEP_ERROR_TIMEOUT after setting missing[p] = 1 for each rank p whose part did
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

typedef struct autoep_mpi_config {
  size_t struct_size;       /* sizeof(autoep_mpi_config) */
  const char *library_path; /* of libautoep_mpi.so */
  const int32_t *ranks;     /* [num_ranks] of MPI_COMM_WORLD; rank i of the group is ranks[i]. NULL: all */
  int32_t num_ranks;
  double timeout_seconds;   /* that an exchange waits for another rank */
} autoep_mpi_config;
#define AUTOEP_MPI_CONFIG_INIT {sizeof(autoep_mpi_config), NULL, NULL, 0, 600.0}

/* Makes a communicator over MPI. Collective over its ranks. MPI is initialised if nobody did. */
autoep_status autoep_comm_create_mpi(const autoep_mpi_config *config, autoep_comm *comm,
                                     autoep_error *error);

/* Ends MPI if autoep_comm_create_mpi began it. Call it once, after the last communicator
 * was freed. Does nothing where MPI was never used. */
autoep_status autoep_mpi_finalize(autoep_error *error);

#define AUTOEP_NCCL_ID_SIZE 128

typedef struct autoep_nccl_config {
  size_t struct_size;       /* sizeof(autoep_nccl_config) */
  const uint8_t *unique_id; /* [AUTOEP_NCCL_ID_SIZE], the same on all ranks; of autoep_nccl_unique_id */
  int32_t rank;
  int32_t size;
  int32_t device_id;        /* this rank's GPU, which no other rank has */
  double timeout_seconds;   /* that the making and an exchange wait for another rank */
  /* Where the host has NVIDIA's libnccl.so.2, 2.18 or newer; looked at when the process has not loaded one. NULL: the
   * loader's search. */
  const char *library_path;
} autoep_nccl_config;
#define AUTOEP_NCCL_CONFIG_INIT {sizeof(autoep_nccl_config), NULL, 0, 1, 0, 600.0, NULL}

/* Writes the AUTOEP_NCCL_ID_SIZE bytes by which the ranks of a new group find each other. One rank calls it, and
 * hands them to the others by a way of the host's; each group has bytes of its own. library_path as above. */
autoep_status autoep_nccl_unique_id(const char *library_path, uint8_t *unique_id,
                                    autoep_error *error);

/* Makes a communicator of ranks with a GPU each, on one host or several, over NCCL. Collective over its ranks.
 *
 * It moves the memory of its GPU, for layers there: their exchanges are enqueued on the stream of the context, and
 * return without waiting, but for autoep_layer_plan, which waits for the stream to count rows. It moves the host's
 * memory as well; the functions of the section "all-to-all" take that, and wait. Where a rank does not join before the
 * deadline, NCCL's work on the device ends, and every later call fails; what an exchange on a stream was to write
 * means nothing then. Freeing it leaves what is under way to end. */
autoep_status autoep_comm_create_nccl(const autoep_nccl_config *config, autoep_comm *comm,
                                      autoep_error *error);

typedef struct autoep_push_config {
  size_t struct_size;     /* sizeof(autoep_push_config) */
  int32_t device_id;      /* this rank's GPU, which no other rank has */
  int32_t slots;          /* chunks under way from one rank to another, 1 to 64; 0: the default, 4 */
  autoep_comm control;    /* a communicator of the same ranks, which moves the host's memory */
  double timeout_seconds; /* that the making and an exchange wait for another rank */
  int64_t chunk_bytes;    /* that are copied at a time, at most 2^30; 0: the default, 2^25 */
  const char *nvrtc_path; /* as in autoep_context_config */
} autoep_push_config;
#define AUTOEP_PUSH_CONFIG_INIT {sizeof(autoep_push_config), 0, 0, 0, 600.0, 0, NULL}

/* Makes a communicator of ranks whose GPUs are in one host and reach each other's memory, over NVLink. Collective over
 * the ranks of `control`; if it fails on one rank, it fails on all. The status is AUTOEP_ERROR_UNSUPPORTED if the ranks
 * are on several hosts, a GPU does not reach another's memory, or a process does not see another rank's GPU
 * (CUDA_VISIBLE_DEVICES): all ranks can then make a communicator over NCCL instead.
 *
 * The exchanges of layers on its GPU are enqueued on the stream of the context, and return without waiting, as over
 * NCCL. Those of host memory go over `control`, with the deadline of `control`. This communicator keeps `control` alive
 * even after its handle is freed. Each rank allocates slots * chunk_bytes bytes of its GPU's memory for each other
 * rank; slots and chunk_bytes are the same on all ranks. If a rank does not join an exchange before the deadline, the
 * work on the device ends, and every later call fails and names the rank. Freeing the communicator does not interrupt
 * exchanges that are under way. */
autoep_status autoep_comm_create_push(const autoep_push_config *config, autoep_comm *comm,
                                      autoep_error *error);

autoep_status autoep_comm_free(autoep_comm comm, autoep_error *error);

autoep_status autoep_comm_rank(autoep_comm comm, int32_t *rank, int32_t *size,
                               autoep_error *error);

/* Gives the group up on this rank: every later exchange fails at once with AUTOEP_ERROR_COMMUNICATION and
 * `reason` (a text of the caller, or NULL) in its message. The other ranks of a group inside this process fail
 * likewise; those of other processes find out at their deadline. May be called while another thread is in an
 * exchange, which ends no later than its deadline; on a GPU at once. A push communicator gives up its control as
 * well. */
autoep_status autoep_comm_abort(autoep_comm comm, const char *reason, autoep_error *error);

/* Writes the failure after which the group of this rank cannot be used any more to *health, status, step, ranks
 * and message; status AUTOEP_OK while there is none. Never waits. */
autoep_status autoep_comm_health(autoep_comm comm, autoep_error *health, autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Routing                                                                   */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_score;
enum {
  AUTOEP_SCORE_SOFTMAX = 1,      /* softmax over E, then top-k */
  AUTOEP_SCORE_TOPK_SOFTMAX = 2, /* top-k of the logits, then softmax over the K */
  AUTOEP_SCORE_SIGMOID = 3,      /* sigmoid, then top-k (DeepSeek-V3, arXiv:2412.19437) */
  AUTOEP_SCORE_SINKHORN = 4      /* top-k of Sinkhorn-normalised exp(logits) in training (S-BASE,
                                    arXiv:2202.01169), of the logits in eval; weights from
                                    sigmoid if K = 1, else from softmax over E */
};

typedef int32_t autoep_group_score;
enum {
  AUTOEP_GROUP_NONE = 0,
  AUTOEP_GROUP_MAX = 1,     /* a group's score is that of its best expert (DeepSeek-V2) */
  AUTOEP_GROUP_TOP2_SUM = 2 /* a group's score is the sum of its two best (DeepSeek-V3) */
};

typedef struct autoep_route_config {
  size_t struct_size; /* sizeof(autoep_route_config) */
  autoep_score score;
  int32_t top_k;                  /* K, 1 to E */
  int32_t normalize;              /* 1: weight / (sum of the K weights + normalize_epsilon); else 0 */
  double normalize_epsilon;
  double scale;                   /* multiplies the weights last; 1: no scaling; 0 is an error */
  autoep_group_score group_score; /* group-limited top-k; SOFTMAX and SIGMOID only */
  int32_t num_groups;             /* divides E; 1 with AUTOEP_GROUP_NONE */
  int32_t topk_groups;            /* groups a token may use; 1 to num_groups */
  int32_t training;               /* SINKHORN only: 0 chooses by plain top-k */
  int32_t sinkhorn_iterations;    /* SINKHORN only: 1 to 3 */
} autoep_route_config;
#define AUTOEP_ROUTE_CONFIG_INIT \
  {sizeof(autoep_route_config), AUTOEP_SCORE_SOFTMAX, 1, 0, 0.0, 1.0, AUTOEP_GROUP_NONE, 1, 1, 1, 3}

typedef struct autoep_route_args {
  size_t struct_size; /* sizeof(autoep_route_args) */
  const autoep_route_config *config;
  const autoep_tensor *logits;            /* [T,E] f32, f64, bf16 or f16 */
  const autoep_tensor *selection_bias;    /* [E] f32 or f64, added to the scores for the choice only, or NULL */
  const autoep_tensor *topk_idx;          /* [T,K] i32, out */
  const autoep_tensor *topk_weights;      /* [T,K] f32 (f64 for f64 logits), out */
  const autoep_tensor *tokens_per_expert; /* [E] i32, out, or NULL */
} autoep_route_args;

/* Chooses K experts per token, in descending order of score; ties go to the lowest index. Computed
 * in f32 (f64 for f64 logits). NaN and +inf logits, and rows without a finite logit, are errors that
 * name the token and the expert. */
autoep_status autoep_route(autoep_context context, const autoep_route_args *args,
                           autoep_error *error);

typedef struct autoep_router_forward_args {
  size_t struct_size; /* sizeof(autoep_router_forward_args) */
  const autoep_tensor *x;      /* [T,H] f32, f64 or bf16; on a GPU f32, bf16 or f16 */
  const autoep_tensor *router; /* [E,H] dtype of x */
  autoep_route_args route;     /* its logits, [T,E] in the dtype of x, are an output */
} autoep_router_forward_args;

/* Computes logits = x router^T, summed in f32 (f64 for f64) in a fixed order and rounded once, and then
 * routes as autoep_route does. A token's logits depend neither on T nor on the token's position. */
autoep_status autoep_router_forward(autoep_context context,
                                    const autoep_router_forward_args *args, autoep_error *error);

typedef struct autoep_route_backward_args {
  size_t struct_size; /* sizeof(autoep_route_backward_args) */
  const autoep_route_config *config;
  const autoep_tensor *logits;            /* [T,E] */
  const autoep_tensor *topk_idx;          /* [T,K] i32, as autoep_route wrote it */
  const autoep_tensor *grad_topk_weights; /* [T,K] dtype of topk_weights */
  const autoep_tensor *grad_logits;       /* [T,E] dtype of logits, out */
} autoep_route_backward_args;

/* Computes the gradient of the logits for the experts that autoep_route chose. */
autoep_status autoep_route_backward(autoep_context context, const autoep_route_backward_args *args,
                                    autoep_error *error);

/* The router z-loss, mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv:2202.08906).
 *   logits [T,E]; loss [1] f32 (f64 for f64 logits), out. T = 0 gives 0. */
autoep_status autoep_router_z_loss(autoep_context context, const autoep_tensor *logits,
                                   const autoep_tensor *loss, autoep_error *error);

/* grad_loss [1] dtype of loss; grad_logits [T,E] dtype of logits, out. */
autoep_status autoep_router_z_loss_backward(autoep_context context, const autoep_tensor *logits,
                                            const autoep_tensor *grad_loss,
                                            const autoep_tensor *grad_logits,
                                            autoep_error *error);

typedef struct autoep_jitter_args {
  size_t struct_size; /* sizeof(autoep_jitter_args) */
  const autoep_tensor *x; /* [T,H] f32, f64 or bf16; on a GPU f32, bf16 or f16 */
  double epsilon;         /* 0 <= epsilon < 1 */
  uint64_t seed;
  const autoep_tensor *y; /* like x, out; may be x itself */
} autoep_jitter_args;

/* Multiplies each element by noise drawn uniformly from [1 - epsilon, 1 + epsilon]
 * (Switch Transformers, arXiv:2101.03961). The noise depends on seed and element index
 * only, so the backward is the same call on the gradient. */
autoep_status autoep_jitter(autoep_context context, const autoep_jitter_args *args,
                            autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Permutation                                                               */
/* ------------------------------------------------------------------------- */

typedef struct autoep_sort_args {
  size_t struct_size; /* sizeof(autoep_sort_args) */
  const autoep_tensor *topk_idx;          /* [T,K] i32 or i64, each in [0, num_experts), or -1 */
  int32_t num_experts;
  const autoep_tensor *row_of_slot;       /* [T,K] i32, out; -1 for a slot without an expert */
  const autoep_tensor *tokens_per_expert; /* [num_experts] i32, out */
} autoep_sort_args;

/* Sorts the slots that have an expert by expert, then token, then k. A slot's position in that order is its
 * row. */
autoep_status autoep_sort_by_expert(autoep_context context, const autoep_sort_args *args,
                                    autoep_error *error);

/* rows[row_of_slot[t,k]] = x[t].
 *   x           [T,H] f32, f64 or bf16; on a GPU f32, bf16 or f16
 *   row_of_slot [T,K] i32; distinct rows in [0, R), or -1
 *   rows        [R,H] dtype of x, out; rows without a slot are left unchanged */
autoep_status autoep_permute(autoep_context context, const autoep_tensor *x,
                             const autoep_tensor *row_of_slot, const autoep_tensor *rows,
                             autoep_error *error);

/* grad_x[t] = sum over k of grad_rows[row_of_slot[t,k]], in k order, in f32.
 *   grad_rows [R,H]; row_of_slot [T,K]; grad_x [T,H], out */
autoep_status autoep_permute_backward(autoep_context context, const autoep_tensor *grad_rows,
                                      const autoep_tensor *row_of_slot,
                                      const autoep_tensor *grad_x, autoep_error *error);

typedef struct autoep_unpermute_args {
  size_t struct_size; /* sizeof(autoep_unpermute_args) */
  const autoep_tensor *rows;         /* [R,H] */
  const autoep_tensor *row_of_slot;  /* [T,K] i32 */
  const autoep_tensor *topk_weights; /* [T,K] f32, f64 or bf16 (on a GPU f32, bf16 or f16), or NULL for ones */
  const autoep_tensor *y;            /* [T,H] dtype of rows, out */
} autoep_unpermute_args;

/* y[t] = sum over k of topk_weights[t,k] * rows[row_of_slot[t,k]], in k order, in f32 (f64). */
autoep_status autoep_unpermute(autoep_context context, const autoep_unpermute_args *args,
                               autoep_error *error);

typedef struct autoep_unpermute_backward_args {
  size_t struct_size; /* sizeof(autoep_unpermute_backward_args) */
  const autoep_tensor *grad_y;            /* [T,H] */
  const autoep_tensor *rows;              /* [R,H]; may be NULL if topk_weights is NULL */
  const autoep_tensor *row_of_slot;       /* [T,K] i32 */
  const autoep_tensor *topk_weights;      /* [T,K], or NULL for ones */
  const autoep_tensor *grad_rows;         /* [R,H], out; rows without a slot are left unchanged */
  const autoep_tensor *grad_topk_weights; /* [T,K] dtype of topk_weights, out; NULL if topk_weights is NULL */
} autoep_unpermute_backward_args;

/* grad_rows[row_of_slot[t,k]] = topk_weights[t,k] * grad_y[t];
 * grad_topk_weights[t,k] = <grad_y[t], rows[row_of_slot[t,k]]>. */
autoep_status autoep_unpermute_backward(autoep_context context,
                                        const autoep_unpermute_backward_args *args,
                                        autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Grouped GEMM                                                              */
/* ------------------------------------------------------------------------- */

typedef struct autoep_grouped_gemm_args {
  size_t struct_size; /* sizeof(autoep_grouped_gemm_args) */
  const autoep_tensor *rows;           /* [R,in] f32, f64 or bf16; on a GPU f32, bf16 or f16 */
  const autoep_tensor *weights;        /* [E,out,in] or [E,in,out], by `layout` */
  autoep_layout layout;
  const autoep_tensor *rows_per_group; /* [E] i32 or i64, their sum is R; any may be 0 */
  const autoep_tensor *out;            /* [R,out], out */
} autoep_grouped_gemm_args;

/* out[r] = rows[r] times the weight of r's group; the groups are consecutive in `rows`. Accumulated in f32
 * (f64 for f64); a row's result does not depend on its position. The gradient of `rows` is the grouped GEMM of
 * the gradient of `out` with the same weights and the other layout. */
autoep_status autoep_grouped_gemm(autoep_context context, const autoep_grouped_gemm_args *args,
                                  autoep_error *error);

typedef struct autoep_grouped_gemm_weight_grad_args {
  size_t struct_size; /* sizeof(autoep_grouped_gemm_weight_grad_args) */
  const autoep_tensor *grad_out;       /* [R,out] */
  const autoep_tensor *rows;           /* [R,in] */
  autoep_layout layout;
  const autoep_tensor *rows_per_group; /* [E] i32 or i64 */
  const autoep_tensor *grad_weights;   /* [E,out,in] or [E,in,out], out */
} autoep_grouped_gemm_weight_grad_args;

/* Computes the gradient of the weights: for each group, the sum over its rows of the outer product
 * of grad_out[r] and rows[r], in row order. An empty group gets zeros. */
autoep_status autoep_grouped_gemm_weight_grad(autoep_context context,
                                              const autoep_grouped_gemm_weight_grad_args *args,
                                              autoep_error *error);

/* ------------------------------------------------------------------------- */
/* All-to-all                                                                */
/* ------------------------------------------------------------------------- */

typedef struct autoep_all_to_all_args {
  size_t struct_size; /* sizeof(autoep_all_to_all_args) */
  const autoep_tensor *send;    /* [sum of send_rows, ...], any dtype */
  const int64_t *send_rows;     /* [P] */
  const autoep_tensor *receive; /* [sum of receive_rows, ...], out */
  const int64_t *receive_rows;  /* [P] */
} autoep_all_to_all_args;

/* Collective. Sends send_rows[p] rows of `send` to rank p, in rank order, and receives
 * receive_rows[p] rows from rank p into `receive`. */
autoep_status autoep_all_to_all(autoep_comm comm, const autoep_all_to_all_args *args,
                                autoep_error *error);

/* Collective. Sends each rank p the number counts[p], and writes the number that rank p sent
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
/* The layer: plan, dispatch, experts, combine                               */
/* ------------------------------------------------------------------------- */

typedef int32_t autoep_activation;
enum {
  AUTOEP_ACTIVATION_SILU = 1,
  AUTOEP_ACTIVATION_GELU = 2,          /* erf */
  AUTOEP_ACTIVATION_GELU_TANH = 3,
  AUTOEP_ACTIVATION_RELU_SQUARED = 4,
  AUTOEP_ACTIVATION_CLAMPED_SWIGLU = 5, /* gpt-oss, gated only: g = min(gate, limit),
                                           u = clamp(up, -limit, limit): (u + 1) g sigmoid(alpha g) */
  AUTOEP_ACTIVATION_CLAMPED_SILU = 6    /* gated only, same g and u: u g sigmoid(g) */
};

typedef int32_t autoep_gate;
enum {
  AUTOEP_GATE_NONE = 1,         /* hidden = x W1; act(hidden) */
  AUTOEP_GATE_CONCATENATED = 2, /* hidden = [gate | up]; act(gate) * up */
  AUTOEP_GATE_INTERLEAVED = 3   /* hidden = gate, up, gate, up, ... */
};

typedef int32_t autoep_apply;
enum {
  AUTOEP_APPLY_AFTER = 1, /* y = sum of weight * expert(x) */
  AUTOEP_APPLY_BEFORE = 2 /* y = sum of expert(weight * x), as in llama4 */
};

/* The kind of rows that a layer sends to other ranks. */
typedef int32_t autoep_dispatch_kind;
enum {
  /* A row for each slot: results have the same bits for every number of ranks. */
  AUTOEP_DISPATCH_SLOTS = 1,
  /* A token once to each rank that has one of its experts; that rank sends back one row per token, the weighted sum of
   * its experts' rows in k order, rounded to dtype, and these are summed in rank order. Moves fewer bytes where a token
   * has several experts on one rank. Needs APPLY_AFTER. */
  AUTOEP_DISPATCH_TOKENS = 2
};

typedef uint64_t autoep_layer;

typedef struct autoep_layer_config {
  size_t struct_size;         /* sizeof(autoep_layer_config) */
  int32_t num_experts;        /* E, of all ranks */
  int32_t top_k;              /* K */
  int64_t hidden_size;        /* H */
  int64_t ffn_size;           /* F */
  autoep_dtype dtype;         /* of x, weights, y: f32, f64 or bf16; on a GPU f32, bf16 or f16 */
  autoep_activation activation;
  autoep_gate gate;
  autoep_layout weight_layout;
  autoep_apply apply_weights; /* where the topk_weights are applied */
  double swiglu_alpha;        /* CLAMPED_SWIGLU only */
  double swiglu_limit;        /* CLAMPED_SWIGLU and CLAMPED_SILU only; > 0 */
  autoep_dispatch_kind dispatch; /* read if comm has several ranks */
  autoep_comm comm;           /* the ranks that share the experts; 0: this rank has all of them */
} autoep_layer_config;
#define AUTOEP_LAYER_CONFIG_INIT                                                             \
  {sizeof(autoep_layer_config),  0,   0,   0, 0, AUTOEP_DTYPE_F32, AUTOEP_ACTIVATION_SILU,   \
   AUTOEP_GATE_CONCATENATED, AUTOEP_LAYOUT_OUT_IN, AUTOEP_APPLY_AFTER, 1.702, 7.0,           \
   AUTOEP_DISPATCH_SLOTS, 0}

typedef struct autoep_layer_info {
  size_t struct_size;           /* sizeof(autoep_layer_info); set by the caller */
  int64_t first_expert;         /* this rank's experts: [first_expert, */
  int64_t local_experts;        /*   first_expert + local_experts) */
  int32_t counts_rows;          /* 1: several ranks; call autoep_layer_plan first, which counts the rows.
                                 * 0: at most T*K rows; autoep_layer_forward can make the plan itself */
  int32_t backward_reads_x;     /* 0: autoep_layer_backward does not need x (NULL) */
  int64_t plan_bytes;           /* a plan for T tokens has plan_bytes + T * plan_bytes_per_token bytes */
  int64_t plan_bytes_per_token;
  int64_t saved_bytes;          /* a forward saves, for its backward, saved_bytes + */
  int64_t saved_bytes_per_row;  /*   rows_capacity * saved_bytes_per_row + */
  int64_t saved_bytes_per_token; /*  arriving_tokens * saved_bytes_per_token bytes */
} autoep_layer_info;

/* Creates a layer on the device of a context; its calls take any context of that device. The layer keeps its
 * communicator alive. This call neither compiles nor communicates, so ranks may make it at different times.
 * Free with autoep_layer_free. */
autoep_status autoep_layer_create(autoep_context context, const autoep_layer_config *config,
                                  autoep_layer *layer, autoep_layer_info *info,
                                  autoep_error *error);
autoep_status autoep_layer_free(autoep_layer layer, autoep_error *error);

typedef struct autoep_range {
  int64_t first;
  int64_t count;
} autoep_range;

/* The experts of one rank when E experts are sharded over P ranks as by torch.chunk (and DTensor's
 * Shard(0)): ceil(E/P) per rank, fewer or none on the last ranks. */
autoep_status autoep_expert_range(int32_t num_experts, int32_t num_ranks, int32_t rank,
                                  autoep_range *range, autoep_error *error);

typedef struct autoep_workspace_args {
  size_t struct_size;      /* sizeof(autoep_workspace_args) */
  int64_t num_tokens;      /* T */
  int64_t rows_capacity;   /* of the plan's autoep_plan_info; 0 if the forward makes the plan */
  int64_t arriving_tokens; /* likewise */
  /* For the backward: */
  int32_t overwrite_saved; /* as in autoep_backward_args */
  int32_t lends_gate_up;   /* 1: grad_weights->gate_up is given, and accumulate is 0 */
  int32_t lends_grad_x;    /* 1: grad_x is given */
} autoep_workspace_args;

typedef struct autoep_workspace_bytes {
  size_t struct_size; /* sizeof(autoep_workspace_bytes); set by the caller */
  int64_t plan;       /* of autoep_layer_plan */
  int64_t forward;    /* of autoep_layer_forward, including its plan if counts_rows is 0 */
  int64_t backward;   /* of autoep_layer_backward */
  int64_t dispatch;   /* of autoep_dispatch, autoep_combine and autoep_combine_backward */
} autoep_workspace_bytes;

/* The sizes of the workspaces of one pass. */
autoep_status autoep_layer_workspace(autoep_context context, autoep_layer layer,
                                     const autoep_workspace_args *args,
                                     autoep_workspace_bytes *bytes, autoep_error *error);

typedef struct autoep_plan_args {
  size_t struct_size; /* sizeof(autoep_plan_args) */
  const autoep_tensor *topk_idx;          /* [T,K] i32 or i64, each in [0, E), or -1: no expert */
  autoep_buffer plan;                     /* out: keep it until the last call that uses it */
  const autoep_tensor *tokens_per_expert; /* [E] i32 out, or NULL: slots of this rank per expert */
  const autoep_tensor *rows_per_expert;   /* [e] i32 out, or NULL: rows of each of this rank's experts. On a single
                                           * rank both are the same: set only one */
  autoep_buffer workspace;
} autoep_plan_args;

typedef struct autoep_plan_info {
  size_t struct_size;    /* sizeof(autoep_plan_info); set by the caller */
  int64_t rows;          /* R; -1 for a single rank on a GPU, where only the device knows it */
  int64_t rows_capacity; /* the rows that tensors must have room for: R, or T*K */
  int64_t arriving_tokens; /* A with AUTOEP_DISPATCH_TOKENS, else 0 */
  int64_t id;            /* of a plan of several ranks on GPUs: its number in this process; else 0 */
} autoep_plan_info;

/* Collective. Decides where each slot's row goes, and exchanges the counts. On CPUs, and with several ranks on GPUs, a
 * topk_idx outside [0, E) other than -1 is an error on every rank, before any rows are sent. With a single rank on a
 * GPU such a slot has no row, and the next call on the device returns AUTOEP_ERROR_INVALID_ARGUMENT. A plan can be used
 * for any number of passes of its layer. Bytes that are not a plan of this layer for T tokens are refused on CPUs; on a
 * GPU the host cannot check them, and the behaviour is undefined. */
autoep_status autoep_layer_plan(autoep_context context, autoep_layer layer,
                                const autoep_plan_args *args, autoep_plan_info *info,
                                autoep_error *error);

/* The weights of this rank's experts. Biases are NULL for a model without them. */
typedef struct autoep_experts_weights {
  size_t struct_size; /* sizeof(autoep_experts_weights) */
  const autoep_tensor *gate_up;      /* [e,G,H], or [e,H,G] for IN_OUT */
  const autoep_tensor *gate_up_bias; /* [e,G] or NULL */
  const autoep_tensor *down;         /* [e,H,F], or [e,F,H] for IN_OUT */
  const autoep_tensor *down_bias;    /* [e,H] or NULL */
} autoep_experts_weights;

typedef struct autoep_forward_args {
  size_t struct_size; /* sizeof(autoep_forward_args) */
  const autoep_experts_weights *weights;
  const autoep_tensor *x;                 /* [T,H] */
  const autoep_tensor *topk_weights;      /* [T,K] f32, f64 or bf16; on a GPU f32, bf16 or f16 */
  const autoep_tensor *topk_idx;          /* [T,K]: make the plan first (counts_rows 0); NULL: use `plan` */
  const autoep_tensor *tokens_per_expert; /* [E] i32 out, or NULL; with topk_idx only */
  autoep_buffer plan;                     /* written if topk_idx is given, else read */
  int64_t rows_capacity;                  /* of the plan; 0 with topk_idx */
  int64_t arriving_tokens;                /* likewise */
  int64_t plan_id;                        /* its id; 0: unknown, and on several GPUs the call waits for the stream */
  autoep_buffer saved;                    /* out: what the backward needs */
  const autoep_tensor *y;                 /* [T,H] out */
  autoep_buffer workspace;
} autoep_forward_args;

/* Collective. y[t] = sum over k of topk_weights[t,k] * expert(topk_idx[t,k])(x[t]), summed in
 * f32 (f64) in k order: the same bits for every number of ranks, except with AUTOEP_DISPATCH_TOKENS. On a GPU a layer
 * of one rank can be captured in a graph, after a first call outside the capture, which compiles or loads the
 * kernels. */
autoep_status autoep_layer_forward(autoep_context context, autoep_layer layer,
                                   const autoep_forward_args *args, autoep_error *error);

typedef struct autoep_backward_args {
  size_t struct_size; /* sizeof(autoep_backward_args) */
  const autoep_experts_weights *weights;
  const autoep_tensor *grad_y;            /* [T,H] */
  const autoep_tensor *x;                 /* [T,H], or NULL if backward_reads_x is 0 */
  const autoep_tensor *topk_weights;      /* [T,K] */
  autoep_buffer plan;
  int64_t rows_capacity;                  /* of the plan; 0 if the forward made it */
  int64_t arriving_tokens;                /* likewise */
  int64_t plan_id;                        /* its id; 0: unknown, and on several GPUs the call waits for the stream */
  autoep_buffer saved;                    /* of the forward */
  int32_t overwrite_saved;                /* 1: `saved` is used as scratch memory, which destroys it; else 0 */
  const autoep_tensor *grad_x;            /* [T,H] out; may be NULL (not wanted) on a single rank only */
  const autoep_tensor *grad_topk_weights; /* [T,K] dtype of topk_weights, out, or NULL on every rank */
  const autoep_experts_weights *grad_weights; /* out, with the shapes of the weights, in their dtype or f32; a
                                               * member is NULL if its gradient is not wanted */
  int32_t accumulate;                     /* 1: adds to grad_weights, which are f32 (f64 for f64); else 0 */
  autoep_buffer workspace;
} autoep_backward_args;

/* Collective. Computes the gradients of autoep_layer_forward from its arguments and from `saved`. An expert without
 * rows gets zeros. grad_x and, unless accumulate is 1, grad_weights->gate_up serve as scratch memory until they are
 * written. If the call fails, its outputs are undefined, and `saved` too if overwrite_saved is 1. */
autoep_status autoep_layer_backward(autoep_context context, autoep_layer layer,
                                    const autoep_backward_args *args, autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Dispatch and combine, for experts that the layer does not compute         */
/* ------------------------------------------------------------------------- */

typedef struct autoep_dispatch_args {
  size_t struct_size; /* sizeof(autoep_dispatch_args) */
  autoep_buffer plan;
  int64_t rows_capacity;             /* of the plan, as the next two */
  int64_t arriving_tokens;
  int64_t plan_id;
  const autoep_tensor *x;            /* [T,H] */
  const autoep_tensor *topk_weights; /* [T,K] factors of the copies, or NULL */
  const autoep_tensor *rows;         /* [rows_capacity,H] out; on a GPU rows from R on are left unchanged */
  autoep_buffer workspace;
} autoep_dispatch_args;

/* Collective. Writes the copies of x for this rank's experts to `rows`, ordered by expert, then rank, token and k.
 * The backward is autoep_combine without topk_weights. */
autoep_status autoep_dispatch(autoep_context context, autoep_layer layer,
                              const autoep_dispatch_args *args, autoep_error *error);

typedef struct autoep_combine_args {
  size_t struct_size; /* sizeof(autoep_combine_args) */
  autoep_buffer plan;
  int64_t rows_capacity;             /* of the plan, as the next two */
  int64_t arriving_tokens;
  int64_t plan_id;
  const autoep_tensor *rows;         /* [rows_capacity,H], in expert order */
  const autoep_tensor *topk_weights; /* [T,K], or NULL for ones */
  const autoep_tensor *y;            /* [T,H] out */
  autoep_buffer workspace;
} autoep_combine_args;

/* Collective. y[t] = sum over k, in k order, of topk_weights[t,k] times the row of slot (t,k); with
 * AUTOEP_DISPATCH_TOKENS the sum over ranks of these sums. */
autoep_status autoep_combine(autoep_context context, autoep_layer layer,
                             const autoep_combine_args *args, autoep_error *error);

typedef struct autoep_combine_backward_args {
  size_t struct_size; /* sizeof(autoep_combine_backward_args) */
  autoep_buffer plan;
  int64_t rows_capacity;             /* of the plan, as the next two */
  int64_t arriving_tokens;
  int64_t plan_id;
  const autoep_tensor *grad_y;            /* [T,H] */
  const autoep_tensor *rows;              /* [rows_capacity,H], as in autoep_combine */
  const autoep_tensor *topk_weights;      /* [T,K] */
  const autoep_tensor *grad_rows;         /* [rows_capacity,H] out; on a GPU rows from R on are left unchanged */
  const autoep_tensor *grad_topk_weights; /* [T,K] dtype of topk_weights, out */
  autoep_buffer workspace;
} autoep_combine_backward_args;

/* Collective. Computes the gradients of autoep_combine: of rows, and of topk_weights as <grad_y, row> at the expert. */
autoep_status autoep_combine_backward(autoep_context context, autoep_layer layer,
                                      const autoep_combine_backward_args *args,
                                      autoep_error *error);

/* ------------------------------------------------------------------------- */
/* Statistics                                                                */
/* ------------------------------------------------------------------------- */

/* Counters of a context's layer calls since its creation or the last reset. Bytes count row payloads. A row count
 * that only the device knows counts as T*K. */
typedef struct autoep_statistics {
  size_t struct_size; /* sizeof(autoep_statistics); set by the caller */
  int64_t forward_calls;
  int64_t backward_calls;
  int64_t rows_sent;         /* slots of this rank that have a row, on any rank; with AUTOEP_DISPATCH_TOKENS, tokens,
                              * counted once per rank that they go to */
  int64_t rows_sent_remote;  /* rows_sent that go to another rank */
  int64_t rows_received;     /* rows that this rank's experts receive; with AUTOEP_DISPATCH_TOKENS, A */
  int64_t bytes_sent_remote; /* rows of dispatches and combines, forward and backward */
} autoep_statistics;

autoep_status autoep_context_statistics(autoep_context context, autoep_statistics *statistics,
                                        autoep_error *error);
autoep_status autoep_context_reset_statistics(autoep_context context, autoep_error *error);

#ifdef __cplusplus
}
#endif

#endif /* AUTOEP_H */

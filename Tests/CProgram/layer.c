/* Runs one MoE layer over two ranks through the C interface alone, as a C program would: route, plan, forward and
 * backward, each rank with half of the experts and tokens of its own. Prints the largest error against plain loops.
 *
 * The ranks are threads of this process, connected by autoep_comm_create_local. Over MPI only `comm` differs:
 *
 *   autoep_mpi_config mpi = AUTOEP_MPI_CONFIG_INIT;
 *   mpi.library_path = "libautoep_mpi.so";
 *   autoep_comm_create_mpi(&mpi, &comm, &error);
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "autoep.h"

/* Tokens per rank, hidden size, expert FFN size, experts of all ranks, experts per token. */
enum { RANKS = 2, T = 7, H = 6, F = 4, E = 6, K = 2, LOCAL = E / RANKS };

static void check(autoep_status status, const autoep_error *error) {
  if (status == AUTOEP_OK) return;
  fprintf(stderr, "%s: %s\n", autoep_status_name(status), error->message);
  exit(1);
}

/* The shape must live as long as the tensor. */
static autoep_tensor tensor(void *data, autoep_dtype dtype, const int64_t *shape, int32_t ndim) {
  return (autoep_tensor){.data = data,
                         .shape = shape,
                         .ndim = ndim,
                         .dtype = dtype,
                         .device_type = AUTOEP_DEVICE_CPU};
}

static autoep_buffer buffer(int64_t bytes) {
  size_t size = ((size_t)bytes + 63) / 64 * 64;
  return (autoep_buffer){.data = size == 0 ? NULL : aligned_alloc(64, size), .bytes = size};
}

static const int64_t th[] = {T, H}, te[] = {T, E}, tk[] = {T, K};
static const int64_t gate_up_shape[] = {LOCAL, 2 * F, H}, down_shape[] = {LOCAL, H, F};

/* The whole layer, for the loops: rank r has the tokens [r] and LOCAL experts from r * LOCAL on. */
static double x[RANKS][T][H], logits[RANKS][T][E], gate_up[E][2 * F][H], down[E][H][F];
static double weights[RANKS][T][K], y[RANKS][T][H], grad_weights[RANKS][T][K];
static double grad_x[RANKS][T][H], grad_gate_up[E][2 * F][H], grad_down[E][H][F];
static int32_t idx[RANKS][T][K];
static autoep_comm comms[RANKS];

/* Pseudo-random numbers in [-1, 1), the same on every machine. */
static void fill(double *values, int count) {
  static uint32_t state = 12345;
  for (int i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    values[i] = (double)(state >> 8) / (1 << 23) - 1;
  }
}

/* One rank: sends its tokens to their experts, on any rank, and receives the results. */
static void *run_rank(void *argument) {
  int rank = (int)(intptr_t)argument;
  autoep_error error = AUTOEP_ERROR_INIT;
  autoep_context context;
  autoep_context_config cpu = AUTOEP_CONTEXT_CONFIG_INIT;
  cpu.num_threads = 1;
  check(autoep_context_create(&cpu, &context, &error), &error);

  autoep_tensor x_TH = tensor(x[rank], AUTOEP_DTYPE_F64, th, 2);
  autoep_tensor logits_TE = tensor(logits[rank], AUTOEP_DTYPE_F64, te, 2);
  autoep_tensor idx_TK = tensor(idx[rank], AUTOEP_DTYPE_I32, tk, 2);
  autoep_tensor weights_TK = tensor(weights[rank], AUTOEP_DTYPE_F64, tk, 2);
  autoep_tensor y_TH = tensor(y[rank], AUTOEP_DTYPE_F64, th, 2);
  autoep_tensor gate_up_eGH = tensor(gate_up[rank * LOCAL], AUTOEP_DTYPE_F64, gate_up_shape, 3);
  autoep_tensor down_eHF = tensor(down[rank * LOCAL], AUTOEP_DTYPE_F64, down_shape, 3);

  autoep_route_config route = AUTOEP_ROUTE_CONFIG_INIT;
  route.top_k = K;
  route.normalize = 1;
  autoep_route_args choose = {.struct_size = sizeof choose,
                              .config = &route,
                              .logits = &logits_TE,
                              .topk_idx = &idx_TK,
                              .topk_weights = &weights_TK};
  check(autoep_route(context, &choose, &error), &error);

  autoep_layer layer;
  autoep_layer_info info = {.struct_size = sizeof info};
  autoep_layer_config config = AUTOEP_LAYER_CONFIG_INIT;
  config.num_experts = E;
  config.top_k = K;
  config.hidden_size = H;
  config.ffn_size = F;
  config.dtype = AUTOEP_DTYPE_F64;
  config.comm = comms[rank];
  check(autoep_layer_create(context, &config, &layer, &info, &error), &error);

  /* The plan tells how many rows this rank's experts receive, and how many tokens arrive. */
  autoep_workspace_args pass = {.struct_size = sizeof pass, .num_tokens = T, .lends_gate_up = 1,
                                .lends_grad_x = 1, .overwrite_saved = 1};
  autoep_workspace_bytes needs = {.struct_size = sizeof needs};
  check(autoep_layer_workspace(context, layer, &pass, &needs, &error), &error);
  autoep_buffer plan_workspace = buffer(needs.plan);
  autoep_plan_args make_plan = {.struct_size = sizeof make_plan,
                                .topk_idx = &idx_TK,
                                .plan = buffer(info.plan_bytes + T * info.plan_bytes_per_token),
                                .workspace = plan_workspace};
  autoep_plan_info plan = {.struct_size = sizeof plan};
  check(autoep_layer_plan(context, layer, &make_plan, &plan, &error), &error);

  pass.rows_capacity = plan.rows_capacity;
  pass.arriving_tokens = plan.arriving_tokens;
  check(autoep_layer_workspace(context, layer, &pass, &needs, &error), &error);
  autoep_buffer saved =
      buffer(info.saved_bytes + plan.rows_capacity * info.saved_bytes_per_row +
             plan.arriving_tokens * info.saved_bytes_per_token);
  autoep_buffer forward_workspace = buffer(needs.forward);
  autoep_buffer backward_workspace = buffer(needs.backward);
  autoep_experts_weights experts = {
      .struct_size = sizeof experts, .gate_up = &gate_up_eGH, .down = &down_eHF};
  autoep_forward_args forward = {.struct_size = sizeof forward,
                                 .weights = &experts,
                                 .x = &x_TH,
                                 .topk_weights = &weights_TK,
                                 .plan = make_plan.plan,
                                 .rows_capacity = plan.rows_capacity,
                                 .arriving_tokens = plan.arriving_tokens,
                                 .plan_id = plan.id,
                                 .saved = saved,
                                 .y = &y_TH,
                                 .workspace = forward_workspace};
  check(autoep_layer_forward(context, layer, &forward, &error), &error);

  /* The gradients of the sum of all ranks' y. */
  double ones[T][H];
  for (int i = 0; i < T * H; i++) (&ones[0][0])[i] = 1;
  autoep_tensor grad_y_TH = tensor(ones, AUTOEP_DTYPE_F64, th, 2);
  autoep_tensor grad_x_TH = tensor(grad_x[rank], AUTOEP_DTYPE_F64, th, 2);
  autoep_tensor grad_weights_TK = tensor(grad_weights[rank], AUTOEP_DTYPE_F64, tk, 2);
  autoep_tensor grad_gate_up_eGH =
      tensor(grad_gate_up[rank * LOCAL], AUTOEP_DTYPE_F64, gate_up_shape, 3);
  autoep_tensor grad_down_eHF = tensor(grad_down[rank * LOCAL], AUTOEP_DTYPE_F64, down_shape, 3);
  autoep_experts_weights gradients = {
      .struct_size = sizeof gradients, .gate_up = &grad_gate_up_eGH, .down = &grad_down_eHF};
  autoep_backward_args backward = {.struct_size = sizeof backward,
                                   .weights = &experts,
                                   .grad_y = &grad_y_TH,
                                   .topk_weights = &weights_TK,
                                   .plan = make_plan.plan,
                                   .rows_capacity = plan.rows_capacity,
                                   .arriving_tokens = plan.arriving_tokens,
                                   .plan_id = plan.id,
                                   .saved = saved,
                                   .overwrite_saved = 1,
                                   .grad_x = &grad_x_TH,
                                   .grad_topk_weights = &grad_weights_TK,
                                   .grad_weights = &gradients,
                                   .workspace = backward_workspace};
  check(autoep_layer_backward(context, layer, &backward, &error), &error);

  free(plan_workspace.data);
  free(make_plan.plan.data);
  free(saved.data);
  free(forward_workspace.data);
  free(backward_workspace.data);
  check(autoep_layer_free(layer, &error), &error);
  check(autoep_context_free(context, &error), &error);
  return NULL;
}

/* y of one token by the formula. */
static double expected(int rank, int t, int h) {
  double sum = 0;
  for (int k = 0; k < K; k++) {
    int e = idx[rank][t][k];
    for (int f = 0; f < F; f++) {
      double gate = 0, up = 0;
      for (int i = 0; i < H; i++) {
        gate += x[rank][t][i] * gate_up[e][f][i];
        up += x[rank][t][i] * gate_up[e][F + f][i];
      }
      sum += weights[rank][t][k] * gate / (1 + exp(-gate)) * up * down[e][h][f];
    }
  }
  return sum;
}

int main(void) {
  autoep_error error = AUTOEP_ERROR_INIT;
  fill(&x[0][0][0], RANKS * T * H);
  fill(&logits[0][0][0], RANKS * T * E);
  fill(&gate_up[0][0][0], E * 2 * F * H);
  fill(&down[0][0][0], E * H * F);

  check(autoep_comm_create_local(RANKS, 60.0, comms, &error), &error);
  pthread_t threads[RANKS];
  for (intptr_t rank = 0; rank < RANKS; rank++)
    pthread_create(&threads[rank], NULL, run_rank, (void *)rank);
  for (int rank = 0; rank < RANKS; rank++) pthread_join(threads[rank], NULL);
  for (int rank = 0; rank < RANKS; rank++) check(autoep_comm_free(comms[rank], &error), &error);

  /* y is linear in the topk_weights, and in down: weighted by either, its gradients sum to the sum of y. */
  double worst = 0, loss = 0, by_weights = 0, by_down = 0;
  for (int rank = 0; rank < RANKS; rank++)
    for (int t = 0; t < T; t++) {
      for (int h = 0; h < H; h++) {
        worst = fmax(worst, fabs(y[rank][t][h] - expected(rank, t, h)));
        loss += y[rank][t][h];
      }
      for (int k = 0; k < K; k++) by_weights += weights[rank][t][k] * grad_weights[rank][t][k];
    }
  for (int i = 0; i < E * H * F; i++) by_down += (&down[0][0][0])[i] * (&grad_down[0][0][0])[i];
  worst = fmax(worst, fmax(fabs(loss - by_weights), fabs(loss - by_down)));
  printf("autoep %s: largest error %.1e\n", autoep_version(), worst);
  return worst <= 1e-12 ? 0 : 1;
}

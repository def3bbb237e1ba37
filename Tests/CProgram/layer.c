/* Runs one MoE layer through the C interface alone, as a C programmer would: route, then the
 * experts path with one rank, forward and backward; prints the largest error against plain loops. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "autoep.h"

enum { T = 7, H = 6, F = 4, E = 5, K = 2, N = T * K };

static void check(autoep_status status, const autoep_error *error) {
  if (status == AUTOEP_OK) return;
  fprintf(stderr, "%s: %s\n", autoep_status_name(status), error->message);
  exit(1);
}

static autoep_tensor tensor(void *data, autoep_dtype dtype, const int64_t *shape, int32_t ndim) {
  return (autoep_tensor){.data = data,
                         .shape = shape,
                         .ndim = ndim,
                         .dtype = dtype,
                         .device_type = AUTOEP_DEVICE_CPU};
}

/* In [-1, 1), the same everywhere. */
static double draw(void) {
  static uint32_t state = 12345;
  state = state * 1664525u + 1013904223u;
  return (double)(state >> 8) / (1 << 23) - 1;
}

static void fill(double *values, int count) {
  for (int i = 0; i < count; i++) values[i] = draw();
}

static double x[T][H], logits[T][E], gate_up[E][2 * F][H], down[E][H][F], weights[T][K];
static double y[T][H], grad_x[T][H], grad_weights[T][K];
static double grad_gate_up[E][2 * F][H], grad_down[E][H][F];
static int32_t idx[T][K], tokens_per_expert[E];

/* The layer by its formula. */
static double expected(int t, int h) {
  double sum = 0;
  for (int k = 0; k < K; k++) {
    int e = idx[t][k];
    for (int f = 0; f < F; f++) {
      double gate = 0, up = 0;
      for (int i = 0; i < H; i++) {
        gate += x[t][i] * gate_up[e][f][i];
        up += x[t][i] * gate_up[e][F + f][i];
      }
      sum += weights[t][k] * gate / (1 + exp(-gate)) * up * down[e][h][f];
    }
  }
  return sum;
}

int main(void) {
  autoep_error error;
  autoep_context context;
  autoep_comm comm;
  check(autoep_context_create(NULL, &context, &error), &error);
  check(autoep_comm_create_self(&comm, &error), &error);

  fill(&x[0][0], T * H);
  fill(&logits[0][0], T * E);
  fill(&gate_up[0][0][0], E * 2 * F * H);
  fill(&down[0][0][0], E * H * F);

  const int64_t th[] = {T, H}, te[] = {T, E}, tk[] = {T, K}, e1[] = {E};
  autoep_tensor x_TH = tensor(x, AUTOEP_F64, th, 2);
  autoep_tensor logits_TE = tensor(logits, AUTOEP_F64, te, 2);
  autoep_tensor idx_TK = tensor(idx, AUTOEP_I32, tk, 2);
  autoep_tensor weights_TK = tensor(weights, AUTOEP_F64, tk, 2);
  autoep_tensor load_E = tensor(tokens_per_expert, AUTOEP_I32, e1, 1);
  autoep_route_config route = {.struct_size = sizeof route,
                               .score = AUTOEP_SCORE_SOFTMAX,
                               .top_k = K,
                               .normalize = 1,
                               .scale = 1,
                               .num_groups = 1,
                               .topk_groups = 1};
  check(autoep_route(context, &route, &logits_TE, NULL, &idx_TK, &weights_TK, &load_E, &error),
        &error);

  autoep_experts_config config = {.struct_size = sizeof config,
                                  .num_experts = E,
                                  .hidden_size = H,
                                  .ffn_size = F,
                                  .dtype = AUTOEP_F64,
                                  .activation = AUTOEP_SILU,
                                  .gate = AUTOEP_GATE_CONCATENATED,
                                  .weight_layout = AUTOEP_WEIGHT_OUT_IN,
                                  .score_apply = AUTOEP_SCORE_AFTER};
  autoep_plan plan;
  autoep_plan_info info = {.struct_size = sizeof info};
  check(autoep_experts_plan(context, comm, &config, &idx_TK, &plan, &info, &error), &error);

  const int64_t sh[] = {info.saved_rows, H}, rg[] = {info.rows_received, 2 * F};
  const int64_t nh[] = {info.rows_sent, H}, gate_up_shape[] = {E, 2 * F, H};
  const int64_t down_shape[] = {E, H, F};
  static double rows[N][H], hidden[N][2 * F], expert_rows[N][H];
  autoep_tensor rows_SH = tensor(rows, AUTOEP_F64, sh, 2);
  autoep_tensor hidden_RG = tensor(hidden, AUTOEP_F64, rg, 2);
  autoep_tensor expert_rows_NH = tensor(expert_rows, AUTOEP_F64, nh, 2);
  autoep_tensor gate_up_EGH = tensor(gate_up, AUTOEP_F64, gate_up_shape, 3);
  autoep_tensor down_EHF = tensor(down, AUTOEP_F64, down_shape, 3);
  autoep_tensor y_TH = tensor(y, AUTOEP_F64, th, 2);
  autoep_experts_weights experts = {
      .struct_size = sizeof experts, .gate_up = &gate_up_EGH, .down = &down_EHF};

  int64_t bytes = info.forward_workspace_bytes > info.backward_workspace_bytes
                      ? info.forward_workspace_bytes
                      : info.backward_workspace_bytes;
  void *workspace = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
  check(autoep_experts_forward(context, plan, &experts, &x_TH, &weights_TK, &rows_SH, &hidden_RG,
                               &expert_rows_NH, &y_TH, workspace, &error),
        &error);
  double worst = 0;
  for (int t = 0; t < T; t++)
    for (int h = 0; h < H; h++) worst = fmax(worst, fabs(y[t][h] - expected(t, h)));

  /* For the loss sum(y), the gradient to weights[t][k] is the sum of expert k's result, so that
   * all of them, weighted, sum to the loss. */
  static double ones[T][H];
  double loss = 0, weighted = 0;
  for (int i = 0; i < T * H; i++) (&ones[0][0])[i] = 1;
  autoep_tensor grad_y_TH = tensor(ones, AUTOEP_F64, th, 2);
  autoep_tensor grad_x_TH = tensor(grad_x, AUTOEP_F64, th, 2);
  autoep_tensor grad_weights_TK = tensor(grad_weights, AUTOEP_F64, tk, 2);
  autoep_tensor grad_gate_up_EGH = tensor(grad_gate_up, AUTOEP_F64, gate_up_shape, 3);
  autoep_tensor grad_down_EHF = tensor(grad_down, AUTOEP_F64, down_shape, 3);
  autoep_experts_weights gradients = {
      .struct_size = sizeof gradients, .gate_up = &grad_gate_up_EGH, .down = &grad_down_EHF};
  check(autoep_experts_backward(context, plan, &experts, &grad_y_TH, &x_TH, &weights_TK, &rows_SH,
                                &hidden_RG, &expert_rows_NH, &hidden_RG, &grad_x_TH,
                                &grad_weights_TK, &gradients, workspace, &error),
        &error);
  for (int i = 0; i < T * H; i++) loss += (&y[0][0])[i];
  for (int i = 0; i < N; i++) weighted += (&weights[0][0])[i] * (&grad_weights[0][0])[i];
  worst = fmax(worst, fabs(loss - weighted));

  free(workspace);
  check(autoep_plan_free(plan, &error), &error);
  check(autoep_comm_free(comm, &error), &error);
  check(autoep_context_free(context, &error), &error);
  printf("autoep %s: largest error %.1e\n", autoep_version(), worst);
  return worst <= 1e-12 ? 0 : 1;
}

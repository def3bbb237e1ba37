/* Plans and the experts path. */
#include "_engine.h"

FUNCTION(expert_range) {
  int32_t num_experts, num_ranks, rank;
  if (!PyArg_ParseTuple(args, "iii:expert_range", &num_experts, &num_ranks, &rank)) return NULL;
  int64_t first_expert = 0, local_experts = 0;
  RUN(autoep_expert_range(num_experts, num_ranks, rank, &first_expert, &local_experts, &error));
  return Py_BuildValue("LL", (long long)first_expert, (long long)local_experts);
}

int experts_config_read(PyObject *object, void *argument) {
  autoep_experts_config *config = argument;
  long long hidden_size, ffn_size;
  if (!PyTuple_Check(object)) return raise_invalid("expected a tuple of the experts' options");
  if (!PyArg_ParseTuple(object, "iLLiiiiidd", &config->num_experts, &hidden_size, &ffn_size,
                        &config->dtype, &config->activation, &config->gate,
                        &config->weight_layout, &config->score_apply, &config->swiglu_alpha,
                        &config->swiglu_limit))
    return 0;
  config->struct_size = sizeof *config;
  config->hidden_size = hidden_size;
  config->ffn_size = ffn_size;
  return 1;
}

/* The object of a new plan, and what Python wants to know of it. */
static PyObject *plan_new(autoep_plan plan, const autoep_plan_info *info, int32_t num_experts,
                          Handle *context, Handle *comm) {
  PyObject *needs = PyTuple_Pack(2, context, comm);
  Handle *handle = handle_new(PLAN, plan, needs);
  Py_XDECREF(needs);
  if (handle == NULL) return NULL;
  handle->num_experts = num_experts;
  handle->info = *info;
  return Py_BuildValue("N(LLLLLLLLL)", handle, (long long)info->num_tokens,
                       (long long)info->rows_sent, (long long)info->rows_received,
                       (long long)info->first_expert, (long long)info->local_experts,
                       (long long)info->saved_rows, (long long)info->forward_workspace_bytes,
                       (long long)info->backward_workspace_bytes,
                       (long long)info->gate_up_backward_workspace_bytes);
}

FUNCTION(experts_plan) {
  Handle *context, *comm;
  autoep_experts_config config;
  INPUT(topk_idx);
  if (!PyArg_ParseTuple(args, "O&O&O&O&:experts_plan", context_read, &context, communicator_read,
                        &comm, experts_config_read, &config, tensor_read, &topk_idx))
    return NULL;
  autoep_plan plan = 0;
  autoep_plan_info info = {.struct_size = sizeof info};
  RUN(autoep_experts_plan(context->id, comm->id, &config, &topk_idx.view, &plan, &info, &error));
  return plan_new(plan, &info, config.num_experts, context, comm);
}

FUNCTION(plan_tokens_per_expert) {
  Handle *plan;
  if (!PyArg_ParseTuple(args, "O&:plan_tokens_per_expert", plan_read, &plan)) return NULL;
  Counts sent FREED_BY(counts_release) = {.count = plan->num_experts};
  Counts received FREED_BY(counts_release) = {.count = (Py_ssize_t)plan->info.local_experts};
  sent.values = PyMem_Calloc((size_t)sent.count + 1, sizeof(int64_t));
  received.values = PyMem_Calloc((size_t)received.count + 1, sizeof(int64_t));
  if (sent.values == NULL || received.values == NULL) return PyErr_NoMemory();
  RUN(autoep_plan_tokens_per_expert(plan->id, sent.values, received.values, &error));
  return Py_BuildValue("NN", counts_list(sent.values, sent.count),
                       counts_list(received.values, received.count));
}

void weights_release(Weights *weights) {
  tensor_release(&weights->gate_up);
  tensor_release(&weights->gate_up_bias);
  tensor_release(&weights->down);
  tensor_release(&weights->down_bias);
}

int weights_read(PyObject *object, void *argument) {
  Weights *weights = argument;
  if (!PyTuple_Check(object)) return raise_invalid("expected a tuple of the experts' weights");
  if (!PyArg_ParseTuple(object, "O&O&O&O&", tensor_read, &weights->gate_up, tensor_read,
                        &weights->gate_up_bias, tensor_read, &weights->down, tensor_read,
                        &weights->down_bias))
    return 0;
  weights->view = (autoep_experts_weights){
      .struct_size = sizeof weights->view,
      .gate_up = tensor_view(&weights->gate_up),
      .gate_up_bias = tensor_view(&weights->gate_up_bias),
      .down = tensor_view(&weights->down),
      .down_bias = tensor_view(&weights->down_bias),
  };
  return 1;
}

FUNCTION(experts_forward) {
  Handle *context, *plan;
  WEIGHTS(weights);
  INPUT(x);
  INPUT(topk_weights);
  OUTPUT(rows);
  OUTPUT(hidden);
  OUTPUT(expert_rows);
  OUTPUT(y);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&O&O&:experts_forward", context_read, &context,
                        plan_read, &plan, weights_read, &weights, tensor_read, &x, tensor_read,
                        &topk_weights, tensor_read, &rows, tensor_read, &hidden, tensor_read,
                        &expert_rows, tensor_read, &y, tensor_read, &workspace) ||
      !bytes_check(&workspace, plan->info.forward_workspace_bytes, context))
    return NULL;
  RUN(autoep_experts_forward(context->id, plan->id, &weights.view, &x.view, &topk_weights.view,
                             &rows.view, &hidden.view, &expert_rows.view, &y.view,
                             workspace.view.data, &error));
  Py_RETURN_NONE;
}

FUNCTION(experts_backward) {
  Handle *context, *plan;
  WEIGHTS(weights);
  INPUT(grad_y);
  OPTIONAL_INPUT(x);
  INPUT(topk_weights);
  INPUT(rows);
  INPUT(hidden);
  OPTIONAL_INPUT(expert_rows);
  OUTPUT(grad_hidden);
  OUTPUT(grad_x);
  OPTIONAL_OUTPUT(grad_topk_weights);
  WEIGHT_GRADIENTS(grad_weights);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&O&O&O&O&O&O&:experts_backward", context_read,
                        &context, plan_read, &plan, weights_read, &weights, tensor_read, &grad_y,
                        tensor_read, &x, tensor_read, &topk_weights, tensor_read, &rows,
                        tensor_read, &hidden, tensor_read, &expert_rows, tensor_read, &grad_hidden,
                        tensor_read, &grad_x, tensor_read, &grad_topk_weights, weights_read,
                        &grad_weights, tensor_read, &workspace))
    return NULL;
  int64_t bytes = grad_weights.view.gate_up == NULL ? plan->info.backward_workspace_bytes
                                                    : plan->info.gate_up_backward_workspace_bytes;
  if (!bytes_check(&workspace, bytes, context)) return NULL;
  RUN(autoep_experts_backward(context->id, plan->id, &weights.view, &grad_y.view, tensor_view(&x),
                              &topk_weights.view, &rows.view, &hidden.view,
                              tensor_view(&expert_rows), &grad_hidden.view, &grad_x.view,
                              tensor_view(&grad_topk_weights), &grad_weights.view,
                              workspace.view.data, &error));
  Py_RETURN_NONE;
}

PyMethodDef experts_methods[] = {
    METHOD(expert_range, "(num_experts, num_ranks, rank) -> (first_expert, local_experts)"),
    METHOD(experts_plan, "(context, comm, config, topk_idx) -> (Handle, plan info)"),
    METHOD(plan_tokens_per_expert, "(plan) -> (sent, received)"),
    METHOD(experts_forward,
           "(context, plan, weights, x, topk_weights, rows, hidden, expert_rows, y, workspace)"),
    METHOD(experts_backward,
           "(context, plan, weights, grad_y, x, topk_weights, rows, hidden, expert_rows, "
           "grad_hidden, grad_x, grad_topk_weights, grad_weights, workspace)"),
    {0},
};

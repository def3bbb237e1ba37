/* The layer: its plan, its passes, and dispatch and combine alone. */
#include "engine.h"

FUNCTION(expert_range) {
  int32_t num_experts, num_ranks, rank;
  if (!PyArg_ParseTuple(args, "iii:expert_range", &num_experts, &num_ranks, &rank)) return NULL;
  autoep_range range = {0};
  RUN(autoep_expert_range(num_experts, num_ranks, rank, &range, &error));
  return Py_BuildValue("LL", (long long)range.first, (long long)range.count);
}

/* Reads the members of autoep_layer_config between struct_size and comm, in their order. */
static int layer_config_read(PyObject *object, void *argument) {
  autoep_layer_config *config = argument;
  *config = (autoep_layer_config)AUTOEP_LAYER_CONFIG_INIT;
  long long hidden_size, ffn_size;
  if (!PyTuple_Check(object)) return raise_invalid("expected a tuple of a layer's options");
  if (!PyArg_ParseTuple(object, "iiLLiiiiiddi", &config->num_experts, &config->top_k, &hidden_size,
                        &ffn_size, &config->dtype, &config->activation, &config->gate,
                        &config->weight_layout, &config->apply_weights, &config->swiglu_alpha,
                        &config->swiglu_limit, &config->dispatch))
    return 0;
  config->hidden_size = hidden_size;
  config->ffn_size = ffn_size;
  return 1;
}

FUNCTION(layer_create) {
  Handle *context, *comm;
  autoep_layer_config config;
  if (!PyArg_ParseTuple(args, "O&O&O&:layer_create", context_read, &context, layer_config_read,
                        &config, optional_communicator_read, &comm))
    return NULL;
  if (comm != NULL) config.comm = comm->id;
  autoep_layer layer = 0;
  autoep_layer_info info = {.struct_size = sizeof info};
  RUN(autoep_layer_create(context->id, &config, &layer, &info, &error));
  Handle *handle = handle_new(LAYER, layer);
  if (handle == NULL) return NULL;
  return Py_BuildValue("N(LLiiLLLLL)", handle, (long long)info.first_expert,
                       (long long)info.local_experts, (int)info.counts_rows,
                       (int)info.backward_reads_x, (long long)info.plan_bytes,
                       (long long)info.plan_bytes_per_token, (long long)info.saved_bytes,
                       (long long)info.saved_bytes_per_row, (long long)info.saved_bytes_per_token);
}

FUNCTION(layer_workspace) {
  Handle *context, *layer;
  long long num_tokens, rows_capacity, arriving_tokens;
  autoep_workspace_args call = {.struct_size = sizeof call};
  if (!PyArg_ParseTuple(args, "O&O&LLLiii:layer_workspace", context_read, &context, layer_read,
                        &layer, &num_tokens, &rows_capacity, &arriving_tokens,
                        &call.overwrite_saved, &call.lends_gate_up, &call.lends_grad_x))
    return NULL;
  call.num_tokens = num_tokens;
  call.rows_capacity = rows_capacity;
  call.arriving_tokens = arriving_tokens;
  autoep_workspace_bytes bytes = {.struct_size = sizeof bytes};
  RUN(autoep_layer_workspace(context->id, layer->id, &call, &bytes, &error));
  return Py_BuildValue("LLLL", (long long)bytes.plan, (long long)bytes.forward,
                       (long long)bytes.backward, (long long)bytes.dispatch);
}

FUNCTION(layer_plan) {
  Handle *context, *layer;
  INPUT(topk_idx);
  BYTES(plan);
  OPTIONAL_OUTPUT(tokens_per_expert);
  OPTIONAL_OUTPUT(rows_per_expert);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&:layer_plan", context_read, &context, layer_read,
                        &layer, tensor_read, &topk_idx, tensor_read, &plan, tensor_read,
                        &tokens_per_expert, tensor_read, &rows_per_expert, tensor_read,
                        &workspace) ||
      !buffer_check(&plan, context) || !buffer_check(&workspace, context))
    return NULL;
  autoep_plan_args call = {
      .struct_size = sizeof call,
      .topk_idx = &topk_idx.view,
      .plan = tensor_buffer(&plan),
      .tokens_per_expert = tensor_view(&tokens_per_expert),
      .rows_per_expert = tensor_view(&rows_per_expert),
      .workspace = tensor_buffer(&workspace),
  };
  autoep_plan_info info = {.struct_size = sizeof info};
  RUN(autoep_layer_plan(context->id, layer->id, &call, &info, &error));
  return Py_BuildValue("LLLL", (long long)info.rows, (long long)info.rows_capacity,
                       (long long)info.arriving_tokens, (long long)info.id);
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

FUNCTION(layer_forward) {
  Handle *context, *layer;
  WEIGHTS(weights);
  INPUT(x);
  INPUT(topk_weights);
  OPTIONAL_INPUT(topk_idx);
  OPTIONAL_OUTPUT(tokens_per_expert);
  BYTES(plan);
  long long rows_capacity, arriving_tokens, plan_id;
  BYTES(saved);
  OUTPUT(y);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&LLLO&O&O&:layer_forward", context_read, &context,
                        layer_read, &layer, weights_read, &weights, tensor_read, &x, tensor_read,
                        &topk_weights, tensor_read, &topk_idx, tensor_read, &tokens_per_expert,
                        tensor_read, &plan, &rows_capacity, &arriving_tokens, &plan_id, tensor_read,
                        &saved, tensor_read, &y, tensor_read, &workspace) ||
      !buffer_check(&plan, context) || !buffer_check(&saved, context) ||
      !buffer_check(&workspace, context))
    return NULL;
  autoep_forward_args call = {
      .struct_size = sizeof call,
      .weights = &weights.view,
      .x = &x.view,
      .topk_weights = &topk_weights.view,
      .topk_idx = tensor_view(&topk_idx),
      .tokens_per_expert = tensor_view(&tokens_per_expert),
      .plan = tensor_buffer(&plan),
      .rows_capacity = rows_capacity,
      .arriving_tokens = arriving_tokens,
      .plan_id = plan_id,
      .saved = tensor_buffer(&saved),
      .y = &y.view,
      .workspace = tensor_buffer(&workspace),
  };
  RUN(autoep_layer_forward(context->id, layer->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(layer_backward) {
  Handle *context, *layer;
  WEIGHTS(weights);
  INPUT(grad_y);
  OPTIONAL_INPUT(x);
  INPUT(topk_weights);
  BYTES(plan);
  long long rows_capacity, arriving_tokens, plan_id;
  BYTES(saved);
  int overwrite_saved;
  OPTIONAL_OUTPUT(grad_x);
  OPTIONAL_OUTPUT(grad_topk_weights);
  WEIGHT_GRADIENTS(grad_weights);
  int accumulate;
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&LLLO&iO&O&O&iO&:layer_backward", context_read,
                        &context, layer_read, &layer, weights_read, &weights, tensor_read, &grad_y,
                        tensor_read, &x, tensor_read, &topk_weights, tensor_read, &plan,
                        &rows_capacity, &arriving_tokens, &plan_id, tensor_read, &saved,
                        &overwrite_saved, tensor_read, &grad_x, tensor_read, &grad_topk_weights,
                        weights_read, &grad_weights, &accumulate, tensor_read, &workspace) ||
      !buffer_check(&plan, context) || !buffer_check(&saved, context) ||
      !buffer_check(&workspace, context))
    return NULL;
  autoep_backward_args call = {
      .struct_size = sizeof call,
      .weights = &weights.view,
      .grad_y = &grad_y.view,
      .x = tensor_view(&x),
      .topk_weights = &topk_weights.view,
      .plan = tensor_buffer(&plan),
      .rows_capacity = rows_capacity,
      .arriving_tokens = arriving_tokens,
      .plan_id = plan_id,
      .saved = tensor_buffer(&saved),
      .overwrite_saved = overwrite_saved,
      .grad_x = tensor_view(&grad_x),
      .grad_topk_weights = tensor_view(&grad_topk_weights),
      .grad_weights = &grad_weights.view,
      .accumulate = accumulate,
      .workspace = tensor_buffer(&workspace),
  };
  RUN(autoep_layer_backward(context->id, layer->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(dispatch) {
  Handle *context, *layer;
  BYTES(plan);
  long long rows_capacity, arriving_tokens, plan_id;
  INPUT(x);
  OPTIONAL_INPUT(topk_weights);
  OUTPUT(rows);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&LLLO&O&O&O&:dispatch", context_read, &context, layer_read,
                        &layer, tensor_read, &plan, &rows_capacity, &arriving_tokens, &plan_id,
                        tensor_read, &x, tensor_read, &topk_weights, tensor_read, &rows,
                        tensor_read, &workspace) ||
      !buffer_check(&plan, context) || !buffer_check(&workspace, context))
    return NULL;
  autoep_dispatch_args call = {
      .struct_size = sizeof call,
      .plan = tensor_buffer(&plan),
      .rows_capacity = rows_capacity,
      .arriving_tokens = arriving_tokens,
      .plan_id = plan_id,
      .x = &x.view,
      .topk_weights = tensor_view(&topk_weights),
      .rows = &rows.view,
      .workspace = tensor_buffer(&workspace),
  };
  RUN(autoep_dispatch(context->id, layer->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(combine) {
  Handle *context, *layer;
  BYTES(plan);
  long long rows_capacity, arriving_tokens, plan_id;
  INPUT(rows);
  OPTIONAL_INPUT(topk_weights);
  OUTPUT(y);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&LLLO&O&O&O&:combine", context_read, &context, layer_read,
                        &layer, tensor_read, &plan, &rows_capacity, &arriving_tokens, &plan_id,
                        tensor_read, &rows, tensor_read, &topk_weights, tensor_read, &y,
                        tensor_read, &workspace) ||
      !buffer_check(&plan, context) || !buffer_check(&workspace, context))
    return NULL;
  autoep_combine_args call = {
      .struct_size = sizeof call,
      .plan = tensor_buffer(&plan),
      .rows_capacity = rows_capacity,
      .arriving_tokens = arriving_tokens,
      .plan_id = plan_id,
      .rows = &rows.view,
      .topk_weights = tensor_view(&topk_weights),
      .y = &y.view,
      .workspace = tensor_buffer(&workspace),
  };
  RUN(autoep_combine(context->id, layer->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(combine_backward) {
  Handle *context, *layer;
  BYTES(plan);
  long long rows_capacity, arriving_tokens, plan_id;
  INPUT(grad_y);
  INPUT(rows);
  INPUT(topk_weights);
  OUTPUT(grad_rows);
  OUTPUT(grad_topk_weights);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&LLLO&O&O&O&O&O&:combine_backward", context_read, &context,
                        layer_read, &layer, tensor_read, &plan, &rows_capacity, &arriving_tokens,
                        &plan_id, tensor_read, &grad_y, tensor_read, &rows, tensor_read,
                        &topk_weights, tensor_read, &grad_rows, tensor_read, &grad_topk_weights,
                        tensor_read, &workspace) ||
      !buffer_check(&plan, context) || !buffer_check(&workspace, context))
    return NULL;
  autoep_combine_backward_args call = {
      .struct_size = sizeof call,
      .plan = tensor_buffer(&plan),
      .rows_capacity = rows_capacity,
      .arriving_tokens = arriving_tokens,
      .plan_id = plan_id,
      .grad_y = &grad_y.view,
      .rows = &rows.view,
      .topk_weights = &topk_weights.view,
      .grad_rows = &grad_rows.view,
      .grad_topk_weights = &grad_topk_weights.view,
      .workspace = tensor_buffer(&workspace),
  };
  RUN(autoep_combine_backward(context->id, layer->id, &call, &error));
  Py_RETURN_NONE;
}

PyMethodDef layer_methods[] = {
    METHOD(expert_range, "(num_experts, num_ranks, rank) -> (first_expert, local_experts)"),
    METHOD(layer_create,
           "(context, config, comm or None) -> (Handle, the layer's info in the header's order)"),
    METHOD(layer_workspace,
           "(context, layer, num_tokens, rows_capacity, arriving_tokens, overwrite_saved, "
           "lends_gate_up, "
           "lends_grad_x) -> (plan, forward, backward, dispatch), in bytes"),
    METHOD(layer_plan,
           "(context, layer, topk_idx, plan, tokens_per_expert, rows_per_expert, workspace) -> "
           "(rows, rows_capacity, arriving_tokens, id)"),
    METHOD(layer_forward,
           "(context, layer, weights, x, topk_weights, topk_idx, tokens_per_expert, plan, "
           "rows_capacity, arriving_tokens, plan_id, saved, y, workspace)"),
    METHOD(layer_backward,
           "(context, layer, weights, grad_y, x, topk_weights, plan, rows_capacity, "
           "arriving_tokens, plan_id, saved, "
           "overwrite_saved, grad_x, grad_topk_weights, grad_weights, accumulate, workspace)"),
    METHOD(dispatch,
           "(context, layer, plan, rows_capacity, arriving_tokens, plan_id, x, topk_weights, rows, "
           "workspace)"),
    METHOD(combine,
           "(context, layer, plan, rows_capacity, arriving_tokens, plan_id, rows, topk_weights, y, "
           "workspace)"),
    METHOD(combine_backward,
           "(context, layer, plan, rows_capacity, arriving_tokens, plan_id, grad_y, rows, "
           "topk_weights, grad_rows, "
           "grad_topk_weights, workspace)"),
    {0},
};

/* The experts on one GPU. */
#include "_engine.h"

FUNCTION(local_experts_describe) {
  Handle *context;
  autoep_experts_config config;
  long long num_tokens;
  int32_t top_k;
  if (!PyArg_ParseTuple(args, "O&O&Li:local_experts_describe", context_read, &context,
                        experts_config_read, &config, &num_tokens, &top_k))
    return NULL;
  autoep_local_experts_info info = {.struct_size = sizeof info};
  RUN(autoep_local_experts_describe(context->id, &config, num_tokens, top_k, &info, &error));
  return Py_BuildValue("LLLL", (long long)info.routing_bytes,
                       (long long)info.forward_workspace_bytes,
                       (long long)info.backward_workspace_bytes,
                       (long long)info.backward_scratch_bytes);
}

/* What plain memory a call with slots [T,K] needs. Slots of another shape need none: the call itself
 * refuses them. */
static autoep_status describe(const Handle *context, const autoep_experts_config *config,
                              const Tensor *slots, autoep_local_experts_info *info,
                              autoep_error *error) {
  *info = (autoep_local_experts_info){.struct_size = sizeof *info};
  const autoep_tensor *view = &slots->view;
  if (view->ndim != 2 || view->shape[1] > INT32_MAX) return AUTOEP_OK;
  return autoep_local_experts_describe(context->id, config, view->shape[0],
                                       (int32_t)view->shape[1], info, error);
}

FUNCTION(local_experts_forward) {
  Handle *context;
  autoep_experts_config config;
  WEIGHTS(weights);
  INPUT(x);
  INPUT(topk_idx);
  INPUT(topk_weights);
  BYTES(routing);
  OUTPUT(hidden);
  OPTIONAL_OUTPUT(tokens_per_expert);
  OUTPUT(y);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&O&O&O&:local_experts_forward", context_read,
                        &context, experts_config_read, &config, weights_read, &weights,
                        tensor_read, &x, tensor_read, &topk_idx, tensor_read, &topk_weights,
                        tensor_read, &routing, tensor_read, &hidden, tensor_read,
                        &tokens_per_expert, tensor_read, &y, tensor_read, &workspace))
    return NULL;
  autoep_local_experts_info info;
  RUN(describe(context, &config, &topk_idx, &info, &error));
  if (!bytes_check(&routing, info.routing_bytes, context) ||
      !bytes_check(&workspace, info.forward_workspace_bytes, context))
    return NULL;
  RUN(autoep_local_experts_forward(context->id, &config, &weights.view, &x.view, &topk_idx.view,
                                   &topk_weights.view, routing.view.data, &hidden.view,
                                   tensor_view(&tokens_per_expert), &y.view, workspace.view.data,
                                   &error));
  Py_RETURN_NONE;
}

FUNCTION(local_experts_backward) {
  Handle *context;
  autoep_experts_config config;
  WEIGHTS(weights);
  INPUT(grad_y);
  INPUT(x);
  INPUT(topk_weights);
  BYTES(routing);
  INPUT(hidden);
  OUTPUT(grad_hidden);
  OUTPUT(activated);
  OPTIONAL_OUTPUT(grad_x);
  OPTIONAL_OUTPUT(grad_topk_weights);
  WEIGHT_GRADIENTS(grad_weights);
  int accumulate;
  BYTES(scratch);
  BYTES(workspace);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&O&O&O&O&O&pO&O&:local_experts_backward",
                        context_read, &context, experts_config_read, &config, weights_read,
                        &weights, tensor_read, &grad_y, tensor_read, &x, tensor_read,
                        &topk_weights, tensor_read, &routing, tensor_read, &hidden, tensor_read,
                        &grad_hidden, tensor_read, &activated, tensor_read, &grad_x, tensor_read,
                        &grad_topk_weights, weights_read, &grad_weights, &accumulate, tensor_read,
                        &scratch, tensor_read, &workspace))
    return NULL;
  autoep_local_experts_info info;
  RUN(describe(context, &config, &topk_weights, &info, &error));
  if (!bytes_check(&routing, info.routing_bytes, context) ||
      !bytes_check(&scratch, info.backward_scratch_bytes, context) ||
      !bytes_check(&workspace, info.backward_workspace_bytes, context))
    return NULL;
  RUN(autoep_local_experts_backward(context->id, &config, &weights.view, &grad_y.view, &x.view,
                                    &topk_weights.view, routing.view.data, &hidden.view,
                                    &grad_hidden.view, &activated.view, tensor_view(&grad_x),
                                    tensor_view(&grad_topk_weights), &grad_weights.view,
                                    accumulate, scratch.view.data, workspace.view.data, &error));
  Py_RETURN_NONE;
}

PyMethodDef local_experts_methods[] = {
    METHOD(local_experts_describe,
           "(context, config, num_tokens, top_k) -> (routing_bytes, forward_workspace_bytes, "
           "backward_workspace_bytes, backward_scratch_bytes)"),
    METHOD(local_experts_forward,
           "(context, config, weights, x, topk_idx, topk_weights, routing, hidden, "
           "tokens_per_expert, y, workspace)"),
    METHOD(local_experts_backward,
           "(context, config, weights, grad_y, x, topk_weights, routing, hidden, grad_hidden, "
           "activated, grad_x, grad_topk_weights, grad_weights, accumulate, scratch, workspace)"),
    {0},
};

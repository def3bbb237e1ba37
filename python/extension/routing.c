/* Routing, its gradient, the z-loss and the jitter. */
#include "engine.h"

/* Reads (score, top_k, normalize, normalize_epsilon, scale, group_score, num_groups,
 * topk_groups, training, sinkhorn_iterations). */
static int route_config_read(PyObject *object, void *argument) {
  autoep_route_config *config = argument;
  *config = (autoep_route_config)AUTOEP_ROUTE_CONFIG_INIT;
  if (!PyTuple_Check(object)) return raise_invalid("expected a tuple of routing options");
  return PyArg_ParseTuple(object, "iiiddiiiii", &config->score, &config->top_k,
                          &config->normalize, &config->normalize_epsilon, &config->scale,
                          &config->group_score, &config->num_groups, &config->topk_groups,
                          &config->training, &config->sinkhorn_iterations);
}

FUNCTION(route) {
  Handle *context;
  autoep_route_config config;
  INPUT(logits);
  OPTIONAL_INPUT(selection_bias);
  OUTPUT(topk_idx);
  OUTPUT(topk_weights);
  OPTIONAL_OUTPUT(tokens_per_expert);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&:route", context_read, &context, route_config_read,
                        &config, tensor_read, &logits, tensor_read, &selection_bias, tensor_read,
                        &topk_idx, tensor_read, &topk_weights, tensor_read, &tokens_per_expert))
    return NULL;
  autoep_route_args call = {
      .struct_size = sizeof call,
      .config = &config,
      .logits = &logits.view,
      .selection_bias = tensor_view(&selection_bias),
      .topk_idx = &topk_idx.view,
      .topk_weights = &topk_weights.view,
      .tokens_per_expert = tensor_view(&tokens_per_expert),
  };
  RUN(autoep_route(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(router_forward) {
  Handle *context;
  autoep_route_config config;
  INPUT(x);
  INPUT(router);
  OPTIONAL_INPUT(selection_bias);
  OUTPUT(logits);
  OUTPUT(topk_idx);
  OUTPUT(topk_weights);
  OPTIONAL_OUTPUT(tokens_per_expert);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&O&:router_forward", context_read, &context,
                        route_config_read, &config, tensor_read, &x, tensor_read, &router,
                        tensor_read, &selection_bias, tensor_read, &logits, tensor_read,
                        &topk_idx, tensor_read, &topk_weights, tensor_read, &tokens_per_expert))
    return NULL;
  autoep_router_forward_args call = {
      .struct_size = sizeof call,
      .x = &x.view,
      .router = &router.view,
      .route =
          {
              .struct_size = sizeof call.route,
              .config = &config,
              .logits = &logits.view,
              .selection_bias = tensor_view(&selection_bias),
              .topk_idx = &topk_idx.view,
              .topk_weights = &topk_weights.view,
              .tokens_per_expert = tensor_view(&tokens_per_expert),
          },
  };
  RUN(autoep_router_forward(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(route_backward) {
  Handle *context;
  autoep_route_config config;
  INPUT(logits);
  INPUT(topk_idx);
  INPUT(grad_topk_weights);
  OUTPUT(grad_logits);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&:route_backward", context_read, &context,
                        route_config_read, &config, tensor_read, &logits, tensor_read, &topk_idx,
                        tensor_read, &grad_topk_weights, tensor_read, &grad_logits))
    return NULL;
  autoep_route_backward_args call = {
      .struct_size = sizeof call,
      .config = &config,
      .logits = &logits.view,
      .topk_idx = &topk_idx.view,
      .grad_topk_weights = &grad_topk_weights.view,
      .grad_logits = &grad_logits.view,
  };
  RUN(autoep_route_backward(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(router_z_loss) {
  Handle *context;
  INPUT(logits);
  OUTPUT(loss);
  if (!PyArg_ParseTuple(args, "O&O&O&:router_z_loss", context_read, &context, tensor_read,
                        &logits, tensor_read, &loss))
    return NULL;
  RUN(autoep_router_z_loss(context->id, &logits.view, &loss.view, &error));
  Py_RETURN_NONE;
}

FUNCTION(router_z_loss_backward) {
  Handle *context;
  INPUT(logits);
  INPUT(grad_loss);
  OUTPUT(grad_logits);
  if (!PyArg_ParseTuple(args, "O&O&O&O&:router_z_loss_backward", context_read, &context,
                        tensor_read, &logits, tensor_read, &grad_loss, tensor_read, &grad_logits))
    return NULL;
  RUN(autoep_router_z_loss_backward(context->id, &logits.view, &grad_loss.view,
                                    &grad_logits.view, &error));
  Py_RETURN_NONE;
}

FUNCTION(jitter) {
  Handle *context;
  INPUT(x);
  double epsilon;
  uint64_t seed;
  OUTPUT(y);
  if (!PyArg_ParseTuple(args, "O&O&dO&O&:jitter", context_read, &context, tensor_read, &x,
                        &epsilon, uint64_read, &seed, tensor_read, &y))
    return NULL;
  autoep_jitter_args call = {
      .struct_size = sizeof call,
      .x = &x.view,
      .epsilon = epsilon,
      .seed = seed,
      .y = &y.view,
  };
  RUN(autoep_jitter(context->id, &call, &error));
  Py_RETURN_NONE;
}

PyMethodDef routing_methods[] = {
    METHOD(route, "(context, config, logits, selection_bias, topk_idx, topk_weights, counts)"),
    METHOD(router_forward, "(context, config, x, router, selection_bias, logits, topk_idx, "
                           "topk_weights, counts)"),
    METHOD(route_backward, "(context, config, logits, topk_idx, grad_topk_weights, grad_logits)"),
    METHOD(router_z_loss, "(context, logits, loss)"),
    METHOD(router_z_loss_backward, "(context, logits, grad_loss, grad_logits)"),
    METHOD(jitter, "(context, x, epsilon, seed, y)"),
    {0},
};

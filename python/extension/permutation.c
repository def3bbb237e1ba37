/* Permutation and grouped GEMM. */
#include "engine.h"

FUNCTION(sort_by_expert) {
  Handle *context;
  INPUT(topk_idx);
  int32_t num_experts;
  OUTPUT(row_of_slot);
  OUTPUT(tokens_per_expert);
  if (!PyArg_ParseTuple(args, "O&O&iO&O&:sort_by_expert", context_read, &context, tensor_read,
                        &topk_idx, &num_experts, tensor_read, &row_of_slot, tensor_read,
                        &tokens_per_expert))
    return NULL;
  autoep_sort_args call = {
      .struct_size = sizeof call,
      .topk_idx = &topk_idx.view,
      .num_experts = num_experts,
      .row_of_slot = &row_of_slot.view,
      .tokens_per_expert = &tokens_per_expert.view,
  };
  RUN(autoep_sort_by_expert(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(permute) {
  Handle *context;
  INPUT(x);
  INPUT(row_of_slot);
  OUTPUT(rows);
  if (!PyArg_ParseTuple(args, "O&O&O&O&:permute", context_read, &context, tensor_read, &x,
                        tensor_read, &row_of_slot, tensor_read, &rows))
    return NULL;
  RUN(autoep_permute(context->id, &x.view, &row_of_slot.view, &rows.view, &error));
  Py_RETURN_NONE;
}

FUNCTION(permute_backward) {
  Handle *context;
  INPUT(grad_rows);
  INPUT(row_of_slot);
  OUTPUT(grad_x);
  if (!PyArg_ParseTuple(args, "O&O&O&O&:permute_backward", context_read, &context, tensor_read,
                        &grad_rows, tensor_read, &row_of_slot, tensor_read, &grad_x))
    return NULL;
  RUN(autoep_permute_backward(context->id, &grad_rows.view, &row_of_slot.view, &grad_x.view,
                              &error));
  Py_RETURN_NONE;
}

FUNCTION(unpermute) {
  Handle *context;
  INPUT(rows);
  INPUT(row_of_slot);
  OPTIONAL_INPUT(topk_weights);
  OUTPUT(y);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&:unpermute", context_read, &context, tensor_read, &rows,
                        tensor_read, &row_of_slot, tensor_read, &topk_weights, tensor_read, &y))
    return NULL;
  autoep_unpermute_args call = {
      .struct_size = sizeof call,
      .rows = &rows.view,
      .row_of_slot = &row_of_slot.view,
      .topk_weights = tensor_view(&topk_weights),
      .y = &y.view,
  };
  RUN(autoep_unpermute(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(unpermute_backward) {
  Handle *context;
  INPUT(grad_y);
  OPTIONAL_INPUT(rows);
  INPUT(row_of_slot);
  OPTIONAL_INPUT(topk_weights);
  OUTPUT(grad_rows);
  OPTIONAL_OUTPUT(grad_topk_weights);
  if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&:unpermute_backward", context_read, &context,
                        tensor_read, &grad_y, tensor_read, &rows, tensor_read, &row_of_slot,
                        tensor_read, &topk_weights, tensor_read, &grad_rows, tensor_read,
                        &grad_topk_weights))
    return NULL;
  autoep_unpermute_backward_args call = {
      .struct_size = sizeof call,
      .grad_y = &grad_y.view,
      .rows = tensor_view(&rows),
      .row_of_slot = &row_of_slot.view,
      .topk_weights = tensor_view(&topk_weights),
      .grad_rows = &grad_rows.view,
      .grad_topk_weights = tensor_view(&grad_topk_weights),
  };
  RUN(autoep_unpermute_backward(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(grouped_gemm) {
  Handle *context;
  INPUT(rows);
  INPUT(weights);
  int32_t layout;
  INPUT(rows_per_group);
  OUTPUT(out);
  if (!PyArg_ParseTuple(args, "O&O&O&iO&O&:grouped_gemm", context_read, &context, tensor_read,
                        &rows, tensor_read, &weights, &layout, tensor_read, &rows_per_group,
                        tensor_read, &out))
    return NULL;
  autoep_grouped_gemm_args call = {
      .struct_size = sizeof call,
      .rows = &rows.view,
      .weights = &weights.view,
      .layout = layout,
      .rows_per_group = &rows_per_group.view,
      .out = &out.view,
  };
  RUN(autoep_grouped_gemm(context->id, &call, &error));
  Py_RETURN_NONE;
}

FUNCTION(grouped_gemm_weight_grad) {
  Handle *context;
  INPUT(grad_out);
  INPUT(rows);
  int32_t layout;
  INPUT(rows_per_group);
  OUTPUT(grad_weights);
  if (!PyArg_ParseTuple(args, "O&O&O&iO&O&:grouped_gemm_weight_grad", context_read, &context,
                        tensor_read, &grad_out, tensor_read, &rows, &layout, tensor_read,
                        &rows_per_group, tensor_read, &grad_weights))
    return NULL;
  autoep_grouped_gemm_weight_grad_args call = {
      .struct_size = sizeof call,
      .grad_out = &grad_out.view,
      .rows = &rows.view,
      .layout = layout,
      .rows_per_group = &rows_per_group.view,
      .grad_weights = &grad_weights.view,
  };
  RUN(autoep_grouped_gemm_weight_grad(context->id, &call, &error));
  Py_RETURN_NONE;
}

PyMethodDef permutation_methods[] = {
    METHOD(sort_by_expert, "(context, topk_idx, num_experts, row_of_slot, tokens_per_expert)"),
    METHOD(permute, "(context, x, row_of_slot, rows)"),
    METHOD(permute_backward, "(context, grad_rows, row_of_slot, grad_x)"),
    METHOD(unpermute, "(context, rows, row_of_slot, topk_weights, y)"),
    METHOD(unpermute_backward,
           "(context, grad_y, rows, row_of_slot, topk_weights, grad_rows, grad_topk_weights)"),
    METHOD(grouped_gemm, "(context, rows, weights, layout, rows_per_group, out)"),
    METHOD(grouped_gemm_weight_grad,
           "(context, grad_out, rows, layout, rows_per_group, grad_weights)"),
    {0},
};

// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_grouped_gemm") @implementation
public func autoep_grouped_gemm(
  _ context: autoep_context, _ rows: UnsafePointer<autoep_tensor>!,
  _ weights: UnsafePointer<autoep_tensor>!, _ layout: autoep_weight_layout,
  _ rows_per_group: UnsafePointer<autoep_tensor>!, _ out: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let layout = try check.layout(layout, "layout")
    let rows = try unsafe check.tensor(rows, "rows", ["R", "in"], floatTypes)
    let weights = try unsafe check.tensor(
      weights, "weights", layout.dimensions("E", input: "in", output: "out"), [rows.dtype])
    let groups = try unsafe check.tensor(rows_per_group, "rows_per_group", ["E"], indexTypes)
    let out = try unsafe check.tensor(out, "out", ["R", "out"], [rows.dtype])
    try backend.groupedGEMM(
      rows, weights: weights, layout: layout, bias: nil,
      rowsPerGroup: groups, into: out)
  }
}

@_cdecl("autoep_grouped_gemm_weight_grad") @implementation
public func autoep_grouped_gemm_weight_grad(
  _ context: autoep_context, _ grad_out: UnsafePointer<autoep_tensor>!,
  _ rows: UnsafePointer<autoep_tensor>!, _ layout: autoep_weight_layout,
  _ rows_per_group: UnsafePointer<autoep_tensor>!, _ grad_weights: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let layout = try check.layout(layout, "layout")
    let gradOut = try unsafe check.tensor(grad_out, "grad_out", ["R", "out"], floatTypes)
    let rows = try unsafe check.tensor(rows, "rows", ["R", "in"], [gradOut.dtype])
    let groups = try unsafe check.tensor(rows_per_group, "rows_per_group", ["E"], indexTypes)
    let gradWeights = try unsafe check.tensor(
      grad_weights, "grad_weights", layout.dimensions("E", input: "in", output: "out"),
      [rows.dtype])
    try backend.groupedGEMMWeightGradient(
      gradOut: gradOut, rows: rows, layout: layout,
      rowsPerGroup: groups, into: gradWeights)
  }
}

extension TensorChecker {
  /// A weight layout of the caller.
  func layout(_ value: Int32, _ name: String) throws(EngineError) -> WeightLayout {
    try choice(
      value, name, WeightLayout.self, "AUTOEP_WEIGHT_OUT_IN (1), AUTOEP_WEIGHT_IN_OUT (2)")
  }
}

extension WeightLayout {
  /// The names of a weight's dimensions.
  func dimensions(_ experts: String, input: String, output: String) -> [String] {
    self == .outIn ? [experts, output, input] : [experts, input, output]
  }
}

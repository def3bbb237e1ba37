// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_grouped_gemm") @implementation
public func autoep_grouped_gemm(
  _ context: autoep_context, _ args: UnsafePointer<autoep_grouped_gemm_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let layout = try unsafe check.layout(args.layout, "layout")
    let rows = try unsafe check.tensor(args.rows, "rows", ["R", "in"], check.place.floatTypes)
    let weights = try unsafe check.tensor(
      args.weights, "weights", layout.dimensions("E", input: "in", output: "out"), [rows.dtype])
    let counts = try unsafe check.tensor(
      args.rows_per_group, "rows_per_group", ["E"], indexTypes)
    let out = try unsafe check.tensor(args.out, "out", ["R", "out"], [rows.dtype])
    try backend.groupedGEMM(
      ExpertRows(rows), weights: weights, layout: layout, bias: nil, groups: .counts(counts),
      into: ExpertRows(out))
  }
}

@_cdecl("autoep_grouped_gemm_weight_grad") @implementation
public func autoep_grouped_gemm_weight_grad(
  _ context: autoep_context, _ args: UnsafePointer<autoep_grouped_gemm_weight_grad_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let layout = try unsafe check.layout(args.layout, "layout")
    let gradOut = try unsafe check.tensor(
      args.grad_out, "grad_out", ["R", "out"], check.place.floatTypes)
    let rows = try unsafe check.tensor(args.rows, "rows", ["R", "in"], [gradOut.dtype])
    let counts = try unsafe check.tensor(
      args.rows_per_group, "rows_per_group", ["E"], indexTypes)
    let gradWeights = try unsafe check.tensor(
      args.grad_weights, "grad_weights", layout.dimensions("E", input: "in", output: "out"),
      [rows.dtype])
    try backend.groupedGEMMWeightGradient(
      gradOut: ExpertRows(gradOut), rows: ExpertRows(rows), layout: layout,
      groups: .counts(counts), into: gradWeights, accumulate: false)
  }
}

extension TensorChecker {
  /// Checks a weight layout.
  func layout(_ value: Int32, _ name: String) throws(EngineError) -> WeightLayout {
    try enumValue(
      value, name, WeightLayout.self, "AUTOEP_LAYOUT_OUT_IN (1), _IN_OUT (2)")
  }
}

extension WeightLayout {
  /// The names of a weight's dimensions.
  func dimensions(_ experts: String, input: String, output: String) -> [String] {
    self == .outIn ? [experts, output, input] : [experts, input, output]
  }
}

import AutoEPCore
import AutoEPSystem
import CAutoEP

extension TensorChecker {
  /// Checks the weights of this rank's experts.
  mutating func weights(
    _ weights: UnsafePointer<autoep_experts_weights>?, _ configuration: ExpertsConfiguration
  ) throws(EngineError) -> ExpertsWeights {
    let weights = try unsafe structure(weights, "weights")
    let shapes = Shapes(configuration.weightLayout)
    let dtypes = [configuration.dtype]
    return try unsafe ExpertsWeights(
      gateUp: tensor(weights.gate_up, "weights.gate_up", shapes.gateUp, dtypes),
      gateUpBias: optional(weights.gate_up_bias, "weights.gate_up_bias", ["e", "G"], dtypes),
      down: tensor(weights.down, "weights.down", shapes.down, dtypes),
      downBias: optional(weights.down_bias, "weights.down_bias", ["e", "H"], dtypes))
  }

  /// Checks the targets of the weights' gradients: in the weights' dtype or the sum type; only the latter can be
  /// accumulated into.
  mutating func gradients(
    _ gradients: UnsafePointer<autoep_experts_weights>?, _ configuration: ExpertsConfiguration,
    accumulate: Bool
  ) throws(EngineError) -> ExpertsGradients {
    let gradients = try unsafe structure(gradients, "grad_weights")
    let sums = configuration.dtype.sumType
    let dtypes = accumulate ? [sums] : [configuration.dtype, sums]
    let shapes = Shapes(configuration.weightLayout)
    return try unsafe ExpertsGradients(
      gateUp: optional(gradients.gate_up, "grad_weights.gate_up", shapes.gateUp, dtypes),
      gateUpBias: optional(
        gradients.gate_up_bias, "grad_weights.gate_up_bias", ["e", "G"], dtypes),
      down: optional(gradients.down, "grad_weights.down", shapes.down, dtypes),
      downBias: optional(gradients.down_bias, "grad_weights.down_bias", ["e", "H"], dtypes),
      accumulate: accumulate)
  }

  private struct Shapes {
    let gateUp: [String]
    let down: [String]

    init(_ layout: WeightLayout) {
      gateUp = layout.dimensions("e", input: "H", output: "G")
      down = layout.dimensions("e", input: "F", output: "H")
    }
  }
}

import AutoEPCore
import AutoEPSystem
import CAutoEP

extension TensorChecker {
  /// A checker that knows the sizes of a plan.
  init(_ plan: ExpertsPlan, _ function: StaticString = #function) {
    self.init(at: .cpu, function)
    let configuration = plan.configuration
    bind("T", plan.plan.numTokens, from: "the plan")
    bind("K", plan.plan.topK, from: "the plan")
    bind("N", plan.plan.rowsSent, from: "the plan")
    bind("R", plan.plan.rowsReceived, from: "the plan")
    bind("S", plan.savedRows, from: "the plan")
    bind("e", plan.plan.localExperts.count, from: "the plan")
    bind("H", configuration.hiddenSize, from: "the plan's config")
    bind("F", configuration.ffnSize, from: "the plan's config")
    bind("G", configuration.gateUpSize, from: "the plan's config")
  }

  /// Memory that the caller gives by its address alone, of the size that an info struct told.
  func arena(
    _ memory: UnsafeMutableRawPointer?, _ name: String, _ byteCount: Int
  ) throws(EngineError) -> Arena {
    guard unsafe byteCount == 0 || memory != nil else {
      throw error(name, "is NULL; expected \(byteCount) bytes, as the info says")
    }
    guard UInt(bitPattern: memory) % UInt(Arena.alignment) == 0 else {
      throw error(name, "is not aligned to \(Arena.alignment) bytes")
    }
    return unsafe Arena(base: memory, byteCount: byteCount)
  }

  /// The weights of this rank's experts.
  mutating func weights(
    _ weights: UnsafePointer<autoep_experts_weights>?, _ configuration: ExpertsConfiguration
  ) throws(EngineError) -> ExpertsWeights {
    let weights = try unsafe config(weights, "weights")
    let shapes = Shapes(configuration.weightLayout)
    let dtypes = [configuration.dtype]
    return try unsafe ExpertsWeights(
      gateUp: tensor(weights.gate_up, "weights.gate_up", shapes.gateUp, dtypes),
      gateUpBias: optional(weights.gate_up_bias, "weights.gate_up_bias", ["e", "G"], dtypes),
      down: tensor(weights.down, "weights.down", shapes.down, dtypes),
      downBias: optional(weights.down_bias, "weights.down_bias", ["e", "H"], dtypes))
  }

  /// Where the gradients of the weights go, of one of some dtypes.
  mutating func gradients(
    _ gradients: UnsafePointer<autoep_experts_weights>?, _ configuration: ExpertsConfiguration,
    _ dtypes: [DataType]
  ) throws(EngineError) -> ExpertsGradients {
    let gradients = try unsafe config(gradients, "grad_weights")
    let shapes = Shapes(configuration.weightLayout)
    return try unsafe ExpertsGradients(
      gateUp: optional(gradients.gate_up, "grad_weights.gate_up", shapes.gateUp, dtypes),
      gateUpBias: optional(
        gradients.gate_up_bias, "grad_weights.gate_up_bias", ["e", "G"], dtypes),
      down: optional(gradients.down, "grad_weights.down", shapes.down, dtypes),
      downBias: optional(gradients.down_bias, "grad_weights.down_bias", ["e", "H"], dtypes))
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

import AutoEPCore
import AutoEPSystem
import CAutoEP

/// The checks that all calls of a layer share: context, sizes, plan and workspace.
struct LayerCall {
  let context: EngineContext
  let layer: Layer
  let placed: PlacedLayer
  var check: TensorChecker

  /// Looks up context and layer, which must be on one device, and binds the layer's dimensions.
  init(
    _ context: autoep_context, _ layer: autoep_layer, _ function: StaticString = #function
  ) throws(EngineError) {
    self.context = try contexts.find(context)
    self.layer = try layers.find(layer)
    check = TensorChecker(on: self.context, function)
    guard self.context.place == self.layer.place else {
      throw check.error(
        "context",
        "is of \(self.context.place.name); expected one of \(self.layer.place.name), where the layer"
          + " computes")
    }
    // With several ranks, faults are checked while a plan is made, where all ranks fail together. Here one rank would
    // throw, and the others would wait for it.
    placed = self.layer.on(try self.context.backend(checksFaults: !self.layer.countsRows))
    let configuration = self.layer.configuration
    check.bind("E", configuration.numExperts, from: "the layer's config")
    check.bind("e", placed.dispatcher.experts.count, from: "the layer's ranks")
    check.bind("K", configuration.topK, from: "the layer's config")
    check.bind("H", configuration.hiddenSize, from: "the layer's config")
    check.bind("F", configuration.ffnSize, from: "the layer's config")
    check.bind("G", configuration.gateUpSize, from: "the layer's config")
  }

  var configuration: ExpertsConfiguration { layer.configuration }
  /// The dtypes allowed for x, the weights and y.
  var dtype: [DataType] { [configuration.dtype] }

  /// T, once a tensor has bound it. Throws if T·K exceeds 32 bits.
  func numTokens() throws(EngineError) -> Int {
    let numTokens = try check.size("T")
    try check.slotCount(numTokens, configuration.topK)
    return numTokens
  }

  /// Checks `rows_capacity` and `arriving_tokens` against the plan's kind.
  mutating func rowCount(
    _ capacity: Int64, _ tokens: Int64, plan: Int64 = 0, numTokens: Int
  ) throws(EngineError) -> RowCount {
    let slots = numTokens * configuration.topK
    guard !layer.countsRows else {
      guard (0...Int64(Int32.max)).contains(capacity) else {
        throw check.error(
          "rows_capacity", "is \(capacity); expected rows_capacity of the plan's autoep_plan_info")
      }
      // Each token that arrives has at least one row.
      let most = placed.dispatcher.delivery == .tokens ? capacity : 0
      guard (0...most).contains(tokens) else {
        throw check.error(
          "arriving_tokens",
          "is \(tokens); expected arriving_tokens of the plan's autoep_plan_info")
      }
      check.bind("R", Int(capacity), from: "rows_capacity")
      return .exact(Int(capacity), tokens: Int(tokens), plan: Int(plan))
    }
    guard tokens == 0 else {
      throw check.error("arriving_tokens", "is \(tokens); expected 0 for a single rank")
    }
    guard capacity == 0 || capacity == Int64(slots) else {
      throw check.error(
        "rows_capacity", "is \(capacity); expected 0 or T * K = \(slots)")
    }
    check.bind("R", slots, from: "T * K")
    return .atMost(slots)
  }

  /// Checks the memory of a plan for T tokens.
  func planMemory(_ buffer: autoep_buffer, numTokens: Int) throws(EngineError) -> Arena {
    try unsafe check.buffer(buffer, "plan", placed.dispatcher.planBytes.of(numTokens))
  }

  /// Checks the buffer in which a forward saves what its backward needs.
  func saved(_ buffer: autoep_buffer, rows: RowCount) throws(EngineError) -> Arena {
    try unsafe check.buffer(buffer, "saved", placed.experts.savedBytes(rows))
  }

  /// The rows and the bytes per row that a pass adds to the statistics.
  func traffic(_ plan: DispatchPlan) -> (DispatchTraffic, rowBytes: Int) {
    (
      placed.dispatcher.traffic(plan),
      rowBytes: configuration.hiddenSize * configuration.dtype.byteCount
    )
  }
}

extension TensorChecker {
  /// Checks a buffer of at least `byteCount` bytes.
  func buffer(
    _ buffer: autoep_buffer, _ name: String, _ byteCount: Int
  ) throws(EngineError) -> Arena {
    let (data, given) = unsafe (buffer.data, buffer.bytes)
    guard given >= byteCount, unsafe byteCount == 0 || data != nil else {
      let what = unsafe data == nil ? "is NULL" : "has \(given) bytes"
      throw error(name, "\(what); expected \(byteCount) bytes")
    }
    guard UInt(bitPattern: data) % UInt(Arena.alignment) == 0 else {
      throw error(name, "is not aligned to \(Arena.alignment) bytes")
    }
    return unsafe Arena(base: place.storage(data), byteCount: byteCount)
  }
}

import AutoEPCore
import AutoEPSystem
import CKernels
import FakeCUDA
import Testing

@testable import AutoEPCUDA

/// Every launch of the backend, on a driver that reads the kernels' parameters from their images: a wrong
/// number or size of arguments fails the launch.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct LaunchTests {
  @Test("every kernel is launched with its own arguments")
  func everyKernel() throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    // Hopper's products: each epilogue, each layout, each output of the weights' gradients.
    for layout in [WeightLayout.outIn, .inOut] {
      try Layer(layout: layout).run(on: backend)
    }
    try Layer(hasBiases: true, gradients: .f32).run(on: backend)
    try Layer(tokens: 2000, applyWeights: .before, gradients: .f32, accumulate: true).run(
      on: backend)
    // The portable products.
    try Layer(hasBiases: true, dtype: .f32).run(on: backend)
    try Layer(
      hasBiases: true, applyWeights: .before, dtype: .f16, gradients: .f32, accumulate: true
    )
    .run(on: backend)
    try Layer(hasBiases: true, dtype: .bf16, gradients: .f32, hasTopkGradient: false)
      .run(on: backend)
    try runOperations(on: backend, .f16)
    try runPush(on: backend.device)
    let missing = kernelNames.filter { fake.launches(of: $0) == 0 }
    #expect(missing.isEmpty)
  }

  /// In a group of one rank, which waits for nobody.
  private func runPush(on device: CUDADevice) throws {
    let kernels = try PushKernels(device)
    var words = [UInt64](repeating: 0, count: 1024)
    try words.withUnsafeMutableBytes { bytes in
      var call = PushCall()
      call.memory = UInt64(UInt(bitPattern: bytes.baseAddress))
      (call.ranks, call.slots) = (1, 1)
      try kernels.signalAndWait(call, on: 0)
      try kernels.giveBackAndWait(call, on: 0)
    }
  }

  /// The names of all kernels in their sources.
  private var kernelNames: [String] {
    KernelSource.all.flatMap { source in
      String(decoding: source.text, as: UTF8.self)
        .matches(of: /__global__ void(?:\s+__\w+__\([^)]*\))*\s+(\w+)\(/).map { String($0.1) }
    }
  }

  @Test("partial sums and products of rows need no slots")
  func withoutSlots() throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    let memory = FakeMemory()
    let (sums, column) = (memory.tensor([40, 3], .f32), memory.tensor([40, 1], .f32))
    let rows = memory.tensor([40, 24], .bf16)
    let slots = memory.tensor([20, 2], .i32)
    let (x, values) = (memory.tensor([20, 24], .bf16), memory.tensor([20, 2], .f32))

    try backend.sumPartials(sums, into: column)
    #expect(addresses(of: fake, 3) == [sums, nil, column].map(address))
    #expect(fake.argument(3, as: Int64.self) == 40)
    try backend.gatherFromRows(sums, rowOfSlot: slots, into: values)
    #expect(addresses(of: fake, 3) == [sums, slots, values].map(address))
    #expect(fake.launches(of: "gather_from_rows") == 2)

    let groups = RowGroups(.offsets(memory.tensor([7], .i32)))
    try backend.rowDot(
      ExpertRows(rows), ExpertRows(rows), groups: groups, into: ExpertRows(column))
    #expect(addresses(of: fake, 4) == [rows, rows, nil, column].map(address))
    try backend.slotDot(x, rows, rowOfSlot: slots, into: values)
    #expect(addresses(of: fake, 4) == [x, rows, slots, values].map(address))
    #expect(fake.launches(of: "slot_dot") == 2)
  }

  @Test("placed rows, and tensors that kernels do not support, are refused")
  func placedRows() throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    let memory = FakeMemory()
    let places = memory.tensor([40], .i32)
    let rows = ExpertRows(memory.tensor([40, 24], .bf16), .indexed(places))
    let groups = RowGroups(.counts(memory.tensor([6], .i32)))
    let error = #expect(throws: EngineError.self) {
      try backend.groupedRowSum(
        rows, weights: nil, groups: groups, into: memory.tensor([6, 24], .f32), accumulate: false)
    }
    #expect(error?.message.contains("expert order") == true)
    let doubles = memory.tensor([20, 2], .f64)
    let unsupported = #expect(throws: EngineError.self) {
      try backend.scatterToRows(
        doubles, rowOfSlot: memory.tensor([20, 2], .i32), into: memory.tensor([40, 1], .f32))
    }
    #expect(unsupported?.kind == .unsupported)
    #expect(fake.state.pointee.launches == 0)
  }

  @Test(
    "a sort uses one block for few slots or without scratch memory, else three launches")
  func sorts() throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    let memory = FakeMemory()
    func sort(_ tokens: Int, byteCount: Int, hasOffsets: Bool = true) throws {
      var arena = memory.arena(byteCount)
      try backend.sort(
        memory.tensor([tokens, 2], .i32), numExperts: 6,
        into: SlotSort(
          offsets: hasOffsets ? memory.tensor([7], .i32) : nil,
          rowOfSlot: memory.tensor([tokens, 2], .i32), slotOfRow: nil, tokensPerExpert: nil),
        &arena)
      #expect(arena.used == 0)
    }
    let enough = backend.sortScratchBytes(numExperts: 6)
    try sort(1024, byteCount: enough)
    try sort(4096, byteCount: enough - 1)
    try sort(4096, byteCount: enough, hasOffsets: false)
    #expect(fake.launches(of: "sort_in_one_block") == 3)
    #expect(fake.launches(of: "sort_place") == 0)
    try sort(4096, byteCount: enough)
    #expect(fake.launches(of: "sort_in_one_block") == 3)
    for name in ["sort_count", "sort_scan", "sort_place"] {
      #expect(fake.launches(of: name) == 1, "\(name)")
    }
  }

  private func addresses(of fake: FakeDevice, _ count: Int) -> [UInt64] {
    (0..<count).map { fake.argument($0, as: UInt64.self) }
  }

  private func address(_ tensor: TensorView?) -> UInt64 { tensor?.address.bits ?? 0 }

  /// Runs the operations that a layer's pass does not contain.
  private func runOperations(on backend: CUDABackend, _ dtype: DataType) throws {
    let (tokens, experts, width) = (40, 6, 24)
    let memory = FakeMemory()
    let logits = memory.tensor([tokens, experts], dtype)
    let (idx, weights) = (memory.tensor([tokens, 2], .i32), memory.tensor([tokens, 2], .f32))
    let (x, router) = (
      memory.tensor([tokens, width], dtype), memory.tensor([experts, width], dtype)
    )
    try backend.routerLogits(x, router: router, into: logits)
    let configuration = RouteConfiguration(score: .softmax, topK: 2)
    try backend.route(
      configuration, logits: logits, selectionBias: memory.tensor([experts], .f32), topkIdx: idx,
      topkWeights: weights, tokensPerExpert: memory.tensor([experts], .i32))
    try backend.routeBackward(
      configuration, logits: logits, topkIdx: idx, gradTopkWeights: weights, into: logits)
    let loss = memory.tensor([1], .f32)
    try backend.routerZLoss(logits: logits, into: loss)
    try backend.routerZLossBackward(logits: logits, gradLoss: loss, into: logits)
    try backend.jitter(x, epsilon: 0.01, seed: 7, into: x)
    var arena = memory.arena(backend.sortScratchBytes(numExperts: experts))
    try backend.sort(
      memory.tensor([tokens, 2], .i64), numExperts: experts,
      into: SlotSort(
        offsets: nil, rowOfSlot: idx, slotOfRow: nil,
        tokensPerExpert: memory.tensor([experts], .i32)), &arena)
    let groups = RowGroups(.counts(memory.tensor([experts], .i64)))
    let matrices = memory.tensor([experts, 16, width], dtype)
    let rows = ExpertRows(x)
    let out = ExpertRows(memory.tensor([tokens, 16], dtype))
    try backend.groupedGEMM(
      rows, weights: matrices, layout: .outIn, bias: nil, groups: groups, into: out)
    try backend.groupedGEMMWeightGradient(
      gradOut: out, rows: rows, layout: .outIn, groups: groups, into: matrices, accumulate: false)
    try backend.groupedRowSum(
      out, weights: ExpertRows(memory.tensor([tokens, 1], .f32)), groups: groups,
      into: memory.tensor([experts, 16], dtype), accumulate: false)
    let column = memory.tensor([tokens, 1], .f32)
    try backend.rowDot(rows, rows, groups: groups, into: ExpertRows(column))
    try backend.sumPartials(memory.tensor([tokens, 3], .f32), into: column)
    try backend.arrivalPlaces(
      received: memory.tensor([2, experts], .i32), into: memory.tensor([tokens], .i32))
    let ranks = memory.tensor([tokens, 2], .i32)
    for dtype in [DataType.i32, .i64] {
      let chosen = memory.tensor([tokens, 3], dtype)
      try backend.ranksOfTokens(chosen, numExperts: experts, into: ranks)
      try backend.choicesOfRanks(
        chosen, numExperts: experts, rowOfSlot: ranks, into: memory.tensor([tokens * 2, 3], .i32))
    }
  }
}

/// A layer's plan, forward and backward on addresses without memory.
private struct Layer {
  var tokens = 300
  var layout = WeightLayout.outIn
  var hasBiases = false
  var applyWeights = ExpertsConfiguration.ApplyWeights.after
  var dtype = DataType.bf16
  /// The dtype of the weights' gradients; nil for the layer's.
  var gradients: DataType?
  var accumulate = false
  var hasTopkGradient = true

  private var configuration: ExpertsConfiguration {
    var configuration = ExpertsConfiguration(
      numExperts: 6, topK: 2, hiddenSize: 264, ffnSize: 392, dtype: dtype)
    configuration.weightLayout = layout
    configuration.applyWeights = applyWeights
    return configuration
  }

  /// Runs all calls, each with exactly the memory that it asks for.
  func run(on backend: CUDABackend) throws {
    let configuration = configuration
    let (topK, width) = (configuration.topK, configuration.hiddenSize)
    let dispatcher = LocalDispatcher(backend: backend, configuration: configuration, layer: 1)
    let layer = ExpertsLayer(configuration, backend: backend, dispatcher: dispatcher)
    let memory = FakeMemory()
    let bytes = memory.arena(dispatcher.planBytes.of(tokens))
    var arena = memory.arena(dispatcher.planScratchBytes(numTokens: tokens))
    let rowCount = try dispatcher.plan(
      memory.tensor([tokens, topK], .i64),
      counts: PlanCounts(tokensPerExpert: memory.tensor([configuration.numExperts], .i32)),
      in: bytes, &arena)
    #expect(rowCount == .atMost(tokens * topK))
    #expect(dispatcher.openBytes(rowCount) == 0)
    let plan = try dispatcher.open(bytes, numTokens: tokens, rowCount: rowCount, &arena)
    #expect(plan.rowsInUse == nil)

    let (weights, x) = (weights(dtype, memory), memory.tensor([tokens, width], dtype))
    let topkWeights = memory.tensor([tokens, topK], .f32)
    let saved = memory.arena(layer.savedBytes(rowCount))
    arena = memory.arena(
      layer.forwardBytes(numTokens: tokens, rowCount))
    try layer.forward(
      plan,
      ExpertsLayer.Forward(
        weights: weights, x: x, topkWeights: topkWeights, saved: saved,
        y: memory.tensor([tokens, width], dtype)), &arena)

    let results = self.weights(gradients ?? dtype, memory)
    let pass = ExpertsLayer.Backward(
      weights: weights, gradY: x, x: x, topkWeights: topkWeights, saved: saved,
      overwritesSaved: true, gradX: memory.tensor([tokens, width], dtype),
      gradTopkWeights: hasTopkGradient ? memory.tensor([tokens, topK], .f32) : nil,
      gradients: ExpertsGradients(
        gateUp: results.gateUp, gateUpBias: results.gateUpBias, down: results.down,
        downBias: results.downBias, accumulate: accumulate))
    arena = memory.arena(
      try layer.backwardBytes(
        numTokens: tokens, rowCount, pass.needs))
    try layer.backward(plan, pass, &arena)
  }

  private func weights(_ dtype: DataType, _ memory: FakeMemory) -> ExpertsWeights {
    let (experts, width, inner) = (
      configuration.numExperts, configuration.hiddenSize, configuration.ffnSize
    )
    func matrix(_ out: Int, _ in: Int) -> TensorView {
      memory.tensor(layout == .outIn ? [experts, out, `in`] : [experts, `in`, out], dtype)
    }
    return ExpertsWeights(
      gateUp: matrix(2 * inner, width),
      gateUpBias: hasBiases ? memory.tensor([experts, 2 * inner], dtype) : nil,
      down: matrix(width, inner),
      downBias: hasBiases ? memory.tensor([experts, width], dtype) : nil
    )
  }
}

/// Device addresses that nothing reads.
private final class FakeMemory {
  private var next: UInt64 = 1 << 20

  func tensor(_ shape: [Int], _ dtype: DataType) -> TensorView {
    TensorView(take(shape.reduce(dtype.byteCount, *)), shape: shape, dtype: dtype)
  }

  func arena(_ byteCount: Int) -> Arena { Arena(base: take(byteCount), byteCount: byteCount) }

  private func take(_ byteCount: Int) -> Storage {
    defer { next += UInt64((byteCount + 255) / 256 * 256) }
    return .device(DeviceAddress(next))
  }
}

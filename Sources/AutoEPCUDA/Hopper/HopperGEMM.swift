import AutoEPCore
import AutoEPSystem
import CCUDA
import CKernels

/// The grouped GEMMs of sm_90 in bf16: TMA, WGMMA, one launch for all experts. Rows are in expert order.
struct HopperGEMM {
  let backend: CUDABackend
  let expertOffsets: TensorView
  let tiles: RowTiles

  /// Whether these kernels support rows and weights of such widths: the TMA needs rows of whole 16-byte units.
  static func takes(_ dtype: DataType, widths: [Int]) -> Bool {
    dtype == .bf16 && widths.allSatisfy { $0 % 8 == 0 }
  }

  /// Whether the TMA can access these tensors: it needs addresses that are multiples of 16.
  static func reaches(_ tensors: [TensorView]) -> Bool {
    tensors.allSatisfy { $0.address.bits % 16 == 0 }
  }

  /// out [R,n] = rows [R,k] times the weights of their experts (+ bias).
  func product(
    _ rows: TensorView, _ weights: TensorView, _ layout: WeightLayout, bias: TensorView?,
    into out: TensorView
  ) throws(EngineError) {
    try launch(
      .store, rows: rows,
      HopperWeights(weights, layout, halves: 1), columns: TILE_N,
      HopperStoreArguments(
        out: target(out, halves: 1), bias: bias.bits, columns: Int32(out.shape[1])))
  }

  /// hidden [R,2F] = rows times the gate and up weights; activated [R,F] = silu(gate) · up.
  func swiGLU(
    _ rows: TensorView, _ weights: TensorView, _ layout: WeightLayout, hidden: TensorView,
    into activated: TensorView
  ) throws(EngineError) {
    try launch(
      .swiGLU, rows: rows,
      HopperWeights(weights, layout, halves: 2), columns: TILE_N / 2,
      HopperSwiGLUArguments(
        hidden: target(hidden, halves: 2), out: target(activated, halves: 1),
        columns: Int32(activated.shape[1])))
  }

  /// Computes the gradient of hidden [R,2F] from that of the experts' outputs [R,H], before the rows' weights multiply.
  /// Writes each row's weight times its activation to activated [R,F], and the parts of that weight's gradient to
  /// dots [R, tiles of F].
  func swiGLUBackward(
    _ gradRows: TensorView, _ down: TensorView, _ layout: WeightLayout, hidden: TensorView,
    rowWeights: TensorView, into gradHidden: TensorView, activated: TensorView, dots: TensorView
  ) throws(EngineError) {
    try launch(
      .swiGLUBackward, rows: gradRows,
      HopperWeights(down, layout.transposed, halves: 1), columns: TILE_N,
      HopperSwiGLUBackwardArguments(
        hidden: hidden.bits, gradHidden: gradHidden.bits, scaled: activated.bits,
        rowWeights: rowWeights.bits, dots: dots.bits,
        columns: Int32(activated.shape[1])))
  }

  /// The number of column tiles of F; each writes one part of the dots.
  static func dotCount(ffnSize: Int) -> Int { (ffnSize + TILE_N - 1) / TILE_N }

  /// gradWeights [E,out,in] or [E,in,out] = Σ over an expert's rows of gradOut [R,out] ⊗ rows [R,in]; zeros for an
  /// expert without rows. Written in the dtype of gradWeights, or added to f32 with `accumulate`. If the rows are not
  /// in place yet, `ahead` has the tokens to copy them from.
  func weightGradient(
    gradOut: TensorView, rows: TensorView, ahead: RowsAhead?, _ layout: WeightLayout,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    let (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
    let (m, n) = (left.shape[1], right.shape[1])
    let output: HopperGradientOutput =
      gradWeights.dtype == .bf16 ? .bf16 : accumulate ? .addedToF32 : .f32
    let out =
      output == .bf16
      ? try map(gradWeights, sizes: [n, m, gradWeights.shape[0]], box: [CHUNK_N, SLAB_M, 1])
      : cuda_tensor_map()
    let (leftMap, rightMap) = (
      try map(left, sizes: [m, left.shape[0]], box: [BOX, TILE_K]),
      try map(right, sizes: [n, right.shape[0]], box: [BOX, TILE_K])
    )
    func launch(
      _ source: HopperRowSource, _ arguments: some KernelArgument
    ) throws(EngineError) {
      try backend.kernel(
        .hopperWeightGradient, "sm90_bf16_weight_grad", output.defines + source.defines
      ).launch(
        grid: grid, block: LaunchSize(SM90_THREADS),
        sharedBytes: HopperGradientOutput.memory.byteCount, on: backend.stream, leftMap, rightMap,
        out, gradWeights, expertOffsets, Int32(gradWeights.shape[0]), Int32(m), Int32(n), arguments)
    }
    if let ahead {
      try backend.clear(ahead.counters)
      try launch(.copiedAhead, ahead.arguments)
    } else {
      try launch(.inPlace, HopperInPlaceArguments())
    }
  }

  private func launch(
    _ epilogue: HopperEpilogue, rows: TensorView, _ weights: HopperWeights, columns: Int,
    _ arguments: some KernelArgument
  ) throws(EngineError) {
    let depth = rows.shape[1]
    let weightMap = try map(weights.tensor, sizes: weights.sizes, box: weights.box)
    try backend.kernel(
      .hopperGEMM, "sm90_bf16_grouped_gemm", epilogue.defines(isDepthInner: weights.isDepthInner)
    ).launch(
      grid: grid, block: LaunchSize(SM90_THREADS), sharedBytes: epilogue.memory.byteCount,
      on: backend.stream,
      try map(rows, sizes: [depth, rows.shape[0]], box: [TILE_K, BOX]), weightMap,
      tiles.pairs, tiles.tailTilesBefore, tiles.pairCount,
      Int32((depth + TILE_K - 1) / TILE_K),
      Int32((weights.columns + columns - 1) / columns), arguments)
  }

  /// One persistent block per multiprocessor; two blocks form a cluster.
  private var grid: LaunchSize { LaunchSize(backend.device.processorCount / CLUSTER * CLUSTER) }

  /// An output of `halves` matrices side by side.
  private func target(_ out: TensorView, halves: Int) throws(EngineError) -> HopperTarget {
    let sizes: InlineArray<3, Int> = [out.shape[1] / halves, halves, out.shape[0]]
    return HopperTarget(
      chunks: try map(out, sizes: sizes, box: [CHUNK_N, 1, SLAB_M]),
      rows: try map(out, sizes: sizes, box: [CHUNK_N, 1, 1]))
  }

  private func map<let rank: Int>(
    _ tensor: TensorView, sizes: InlineArray<rank, Int>, box: InlineArray<rank, Int>
  ) throws(EngineError) -> cuda_tensor_map {
    // Encoding a map needs a current context, which an autograd thread may not have.
    try backend.device.context.run { () throws(EngineError) in
      try TensorMap(
        backend.device.driver, at: tensor.address, dtype: .bf16, sizes: sizes, box: box,
        swizzle: .bytes128)
    }.bits
  }
}

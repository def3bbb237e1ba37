import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let permute = KernelSource(
    "permute.cu", PackageResources.permute_cu,
    axes: [KernelVariant.rows, KernelVariant.weightsOrNone])

  static let unpermute = KernelSource(
    "unpermute.cu", PackageResources.unpermute_cu,
    axes: [KernelVariant.rows, KernelVariant.weightsOrNone])

  static let slotDot = KernelSource(
    "slot_dot.cu", PackageResources.slot_dot_cu,
    axes: [KernelVariant.rows, KernelVariant.weights])
}

extension CUDABackend {
  /// rows[rowOfSlot[t,k]] = weights[t,k] · x[t]; slots without a row are skipped.
  public func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError) {
    try moveTokens(
      .permute, "permute", vectorsPerLane: PERMUTE_PER_LANE, tokens: x, rowOfSlot: rowOfSlot,
      weights: weights,
      rows: rows, arguments: { ($0, $1) })
  }

  /// y[t] = Σ_k weights[t,k] · rows[rowOfSlot[t,k]]; slots without a row add nothing.
  public func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError) {
    try moveTokens(
      .unpermute, "unpermute", vectorsPerLane: UNPERMUTE_PER_LANE, tokens: y, rowOfSlot: rowOfSlot,
      weights: weights, rows: rows, arguments: { ($1, $0) })
  }

  /// products[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩; 0 for slots without a row.
  public func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into products: TensorView
  ) throws(EngineError) {
    try dot(x, rows, rowOfSlot: rowOfSlot, topK: rowOfSlot.shape[1], into: products)
  }

  private func dot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView?, topK: Int,
    into products: TensorView
  ) throws(EngineError) {
    let layout = try RowLayout(x, [rows], "the gradient of topk_weights")
    try KernelVariant.check(products.dtype, for: "the gradient of topk_weights")
    let slots = products.elementCount
    try kernel(.slotDot, "slot_dot", layout.defines + KernelVariant.weight(products.dtype)).launch(
      grid: LaunchSize(blocks(warps: slots)), block: 256, on: stream, x, rows, rowOfSlot, products,
      Int64(slots), kernelInt(topK, "K"), kernelInt(rows.shape[0], "R"), layout.vectorCount)
  }

  /// Checks nothing: the host cannot read the rows.
  public func check(rowOfSlot: TensorView, rowCount: Int, areDistinct: Bool) {}

  /// products[r] = ⟨left[r], right[r]⟩.
  public func rowDot(
    _ left: ExpertRows, _ right: ExpertRows, groups: RowGroups, into products: ExpertRows
  ) throws(EngineError) {
    let (left, right) = (try inOrder(left), try inOrder(right))
    try dot(left, right, rowOfSlot: nil, topK: 1, into: inOrder(products))
  }

  /// Moves data between tokens [T,H] and rows [R,H]; `arguments` orders the two for the kernel.
  private func moveTokens(
    _ source: KernelSource, _ name: String, vectorsPerLane: Int, tokens: TensorView,
    rowOfSlot: TensorView, weights: TensorView?, rows: TensorView,
    arguments: (_ tokens: TensorView, _ rows: TensorView) -> (TensorView, TensorView)
  ) throws(EngineError) {
    let layout = try RowLayout(tokens, [rows], name)
    if let weights { try KernelVariant.check(weights.dtype, for: name) }
    let segments = layout.segments(vectorsPerLane: vectorsPerLane)
    let (first, last) = arguments(tokens, rows)
    try kernel(source, name, layout.defines + KernelVariant.weight(weights?.dtype)).launch(
      grid: LaunchSize(blocks(warps: tokens.shape[0], sharedBy: segments), segments), block: 256,
      on: stream, first, rowOfSlot, weights, last, Int64(tokens.shape[0]),
      kernelInt(rowOfSlot.shape[1], "K"), kernelInt(rows.shape[0], "R"), layout.vectorCount)
  }

  /// The number of eight-warp blocks for one warp per item, but no more than fill the device some ten times. With
  /// fewer, some blocks end long before others.
  func blocks(warps: Int, sharedBy segments: Int = 1) -> Int {
    let most = max(1, device.processorCount * 64 / max(segments, 1))
    return min((warps + 7) / 8, most)
  }
}

/// The access pattern for rows of one width.
struct RowLayout {
  let defines: KernelSource.Defines
  /// The elements per access.
  let vector: Int
  let vectorCount: Int32

  /// The layout of a tensor's rows, and of further tensors with its dtype and width.
  init(_ rows: TensorView, _ others: [TensorView?], _ operation: String) throws(EngineError) {
    try KernelVariant.check(rows.dtype, for: operation)
    let width = rows.rowElementCount
    vector = KernelVariant.vector(rows.dtype, widths: [width], [rows] + others)
    defines = KernelVariant.rows(rows.dtype, vector)
    vectorCount = try kernelInt(width / vector, "the width of a row")
  }

  /// The number of segments of a row, each for one warp, if each lane takes `vectorsPerLane` vectors.
  func segments(vectorsPerLane: Int) -> Int {
    (Int(vectorCount) + 32 * vectorsPerLane - 1) / (32 * vectorsPerLane)
  }
}

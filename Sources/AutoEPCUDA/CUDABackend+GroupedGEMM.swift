import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let groupedGEMM = KernelSource(
    "portable_grouped_gemm.cu", PackageResources.portable_grouped_gemm_cu,
    axes: [ProductTile.axis, RowGroups.axis, [WeightLayout.outIn, .inOut].map(\.defines)])

  static let weightGradient = KernelSource(
    "portable_weight_gradient.cu", PackageResources.portable_weight_gradient_cu,
    axes: [ProductTile.axis, RowGroups.axis, KernelVariant.sums])
}

extension WeightLayout {
  fileprivate var defines: KernelSource.Defines {
    KernelVariant.define("LAYOUT", self == .outIn ? LAYOUT_OUT_IN : LAYOUT_IN_OUT)
  }
}

extension CUDABackend {
  /// out[r] = rows[r] · W[group of r] (+ bias); rows outside all groups are left unchanged.
  public func groupedGEMM(
    _ rows: ExpertRows, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: RowGroups, into out: ExpertRows
  ) throws(EngineError) {
    let (rows, out) = (try inOrder(rows), try inOrder(out))
    if let hopper = try hopperGEMM(
      groups, rows: rows.shape[0], widths: [rows.shape[1], out.shape[1]], [rows, weights, out])
    {
      return try hopper.product(rows, weights, layout, bias: bias, into: out)
    }
    let (depth, columns) = (rows.shape[1], out.shape[1])
    let tile = try ProductTile(
      rows.dtype, widths: [depth, columns], [rows, weights, out], "the grouped GEMM")
    let rowTiles = (rows.shape[0] + tile.side - 1) / tile.side + groups.count
    try kernel(
      .groupedGEMM, "portable_grouped_gemm", tile.defines + groups.defines + layout.defines
    ).launch(
      grid: tileGrid(rowTiles * tile.count(columns)), block: 256, sharedBytes: tile.sharedBytes,
      on: stream, rows, weights, bias, groups.tensor, out, kernelInt(groups.count, "E"),
      Int64(rows.shape[0]), kernelInt(columns, "the output width"),
      kernelInt(depth, "the input width"))
  }

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r].
  public func groupedGEMMWeightGradient(
    gradOut: ExpertRows, rows: ExpertRows, layout: WeightLayout, groups: RowGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    let (gradOut, rows) = (try inOrder(gradOut), try inOrder(rows))
    let widths = [gradOut.shape[1], rows.shape[1]]
    if let hopper = try hopperGEMM(
      groups, rows: rows.shape[0], widths: widths, [gradOut, rows, gradWeights])
    {
      return try hopper.weightGradient(
        gradOut: gradOut, rows: rows, ahead: nil, layout, into: gradWeights,
        accumulate: accumulate)
    }
    // For [in, out], the outer product's operands are swapped.
    let (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
    let (leftWidth, rightWidth) = (left.shape[1], right.shape[1])
    let tile = try ProductTile(
      rows.dtype, widths: [leftWidth, rightWidth], [left, right],
      "the gradient of the grouped GEMM")
    let tiles = groups.count * tile.count(leftWidth) * tile.count(rightWidth)
    try kernel(
      .weightGradient, "portable_weight_gradient",
      tile.defines + groups.defines + KernelVariant.sum(gradWeights.dtype, accumulate: accumulate)
    ).launch(
      grid: tileGrid(tiles), block: 256, sharedBytes: tile.sharedBytes, on: stream, left, right,
      groups.tensor, gradWeights, kernelInt(groups.count, "E"), Int64(rows.shape[0]),
      kernelInt(leftWidth, "a weight's width"), kernelInt(rightWidth, "a weight's width"))
  }

  /// A grid of persistent blocks, which loop over all tiles: two per multiprocessor.
  private func tileGrid(_ tiles: Int) -> LaunchSize {
    LaunchSize(min(tiles, 2 * device.processorCount))
  }
}

/// A tile of a portable GEMM: tensor cores for bf16 and f16, plain multiply-adds for f32.
struct ProductTile {
  static let axis =
    [defines(.f32, isAligned: false)]
    + [DataType.bf16, .f16].flatMap { dtype in
      [false, true].map { defines(dtype, isAligned: $0) }
    }

  let defines: KernelSource.Defines
  private let isPlain: Bool

  /// The tile for operands of these widths and alignments.
  init(
    _ dtype: DataType, widths: [Int], _ operands: [TensorView], _ operation: String
  ) throws(EngineError) {
    try KernelVariant.check(dtype, for: operation)
    isPlain = dtype == .f32
    let isAligned = KernelVariant.vector(dtype, widths: widths, operands) > 1
    defines = Self.defines(dtype, isAligned: isAligned && !isPlain)
  }

  /// Rows and columns of a tile.
  var side: Int { isPlain ? F32_TILE : TENSOR_CORE_TILE }
  var sharedBytes: Int {
    isPlain ? F32_TILE_SHARED_BYTES : TENSOR_CORE_TILE_SHARED_BYTES
  }

  func count(_ width: Int) -> Int { (width + side - 1) / side }

  private static func defines(_ dtype: DataType, isAligned: Bool) -> KernelSource.Defines {
    KernelVariant.define("ELEMENT", KernelVariant.code(dtype))
      + KernelVariant.define("ALIGNED", isAligned ? 1 : 0)
  }
}

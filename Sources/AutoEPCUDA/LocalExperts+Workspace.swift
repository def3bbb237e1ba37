import AutoEPCore

extension LocalExperts {
  /// Bytes of `routing`.
  public var routingByteCount: Int {
    RoutingMetadata.byteCount(
      numTokens: numTokens, topK: topK, numExperts: configuration.numExperts)
  }

  /// Bytes that `forward` takes from its arena: the rows, their activation, and Hopper's tiles.
  public var forwardWorkspaceByteCount: Int {
    bytes(rowsShape) + bytes(activatedShape) + tilesByteCount
  }

  /// Bytes that `backward` takes from its arena: the rows, and what Hopper's products take.
  public var backwardWorkspaceByteCount: Int {
    let forHopper =
      mayUseHopper
      ? Arena.footprint(rowWeightsShape, .f32) + Arena.footprint(dotsShape, .f32) : 0
    return bytes(rowsShape) + tilesByteCount + forHopper
  }

  /// N.
  var rowCount: Int { numTokens * topK }
  /// [N,H].
  var rowsShape: [Int] { [rowCount, configuration.hiddenSize] }
  /// [N,F].
  var activatedShape: [Int] { [rowCount, configuration.ffnSize] }
  /// [N].
  var rowWeightsShape: [Int] { [rowCount] }
  /// [N, tiles of F].
  var dotsShape: [Int] { [rowCount, HopperGEMM.dotCount(ffnSize: configuration.ffnSize)] }

  private var tilesByteCount: Int {
    mayUseHopper
      ? RowTiles.byteCount(rows: rowCount, numExperts: configuration.numExperts) : 0
  }

  private func bytes(_ shape: [Int]) -> Int { Arena.footprint(shape, configuration.dtype) }
}

import AutoEPCore

extension LocalExperts {
  /// Bytes of `routing`.
  public var routingByteCount: Int {
    RoutingMetadata.byteCount(
      numTokens: numTokens, topK: topK, numExperts: configuration.numExperts,
      hasTiles: fitsHopper)
  }

  /// Bytes that `forward` takes from its arena: the sort's, the rows, and their activation.
  public var forwardWorkspaceByteCount: Int {
    SortCounts.byteCount(numExperts: configuration.numExperts) + bytes(rowsShape)
      + bytes(activatedShape)
  }

  /// Bytes that `backward` takes from its arena: the rows, and what a product needs to write them.
  public var backwardWorkspaceByteCount: Int {
    bytes(rowsShape) + (fitsHopper ? RowsAhead.byteCount(rows: rowCount) : 0)
  }

  /// Bytes that `backward` has done with before it writes the gradient of x: what Hopper's products
  /// are told of each row, and tell.
  public var backwardScratchByteCount: Int {
    fitsHopper
      ? Arena.footprint(rowWeightsShape, .f32) + Arena.footprint(dotsShape, .f32) : 0
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

  private func bytes(_ shape: [Int]) -> Int { Arena.footprint(shape, configuration.dtype) }
}

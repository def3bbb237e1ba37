import AutoEPCore

extension LocalExperts {
  /// Bytes of `routing`.
  public var routingByteCount: Int {
    RoutingMetadata.byteCount(
      numTokens: numTokens, topK: topK, numExperts: configuration.numExperts)
  }

  /// Bytes that `forward` takes from its arena: the rows, and their activation.
  public var forwardWorkspaceByteCount: Int { bytes(rowsShape) + bytes(activatedShape) }

  /// Bytes that `backward` takes from its arena: the rows, the gradient of their activation, and
  /// that of the pre-activation.
  public var backwardWorkspaceByteCount: Int {
    bytes(rowsShape) + bytes(activatedShape) + bytes(hiddenShape)
  }

  /// [N,H].
  var rowsShape: [Int] { [numTokens * topK, configuration.hiddenSize] }
  /// [N,F].
  var activatedShape: [Int] { [numTokens * topK, configuration.ffnSize] }
  /// [N,G].
  var hiddenShape: [Int] { [numTokens * topK, configuration.gateUpSize] }

  private func bytes(_ shape: [Int]) -> Int { Arena.footprint(shape, configuration.dtype) }
}

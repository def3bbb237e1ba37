import AutoEPCore
import AutoEPSystem

extension KernelSource {
  static let arrivalPlaces = KernelSource(
    "arrival_places.cu", PackageResources.arrival_places_cu)
}

/// Rows that came from other ranks, and the counts that tell of them.
extension CUDABackend {
  /// places[r] = where the r-th row in expert order stands among those that arrive.
  public func arrivalPlaces(
    received: TensorView, into places: TensorView
  ) throws(EngineError) {
    let (ranks, experts) = (received.shape[0], received.shape[1])
    guard places.elementCount > 0 else { return }
    try kernel(.arrivalPlaces, "arrival_places").launch(
      grid: LaunchSize(experts, ranks), block: 256, on: stream, received, places,
      kernelInt(ranks, "the number of ranks"), kernelInt(experts, "e"),
      kernelInt(places.elementCount, "R"))
  }

  /// The numbers of an i32 tensor; waits for the stream.
  public func numbers(of tensor: TensorView) throws(EngineError) -> [Int32] {
    var numbers = [Int32](repeating: 0, count: tensor.elementCount)
    var failure: EngineError?
    unsafe numbers.withUnsafeMutableBytes { bytes in
      do throws(EngineError) {
        try unsafe device.context.read(tensor.address, into: bytes, on: stream)
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return numbers
  }

  /// Sets the numbers of an i32 tensor on the stream.
  public func store(_ numbers: [Int32], in tensor: TensorView) throws(EngineError) {
    var failure: EngineError?
    unsafe numbers.withUnsafeBytes { bytes in
      do throws(EngineError) {
        try unsafe device.context.copy(bytes, to: tensor.address, on: stream)
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
  }
}

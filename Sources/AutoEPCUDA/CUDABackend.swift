import AutoEPCore
import AutoEPSystem

extension KernelSource {
  static let clear = KernelSource("clear.cu", PackageResources.clear_cu)
}

/// The steps of an MoE layer on one stream of one GPU. Calls launch kernels and return: they neither
/// wait nor allocate, so that they can be captured in a graph.
public final class CUDABackend: ComputeBackend {
  /// Where the work is done.
  public let device: CUDADevice
  let stream: CUDAStream

  /// A backend for a stream of the host program, which outlives it; nil for the default stream.
  public init(_ device: CUDADevice, stream: UnsafeMutableRawPointer?) {
    self.device = device
    unsafe self.stream = CUDAStream(stream)
  }

  /// The device's memory.
  public var space: MemorySpace { .device(device.ordinal) }
  /// The stream.
  public var queue: WorkQueue { .stream(stream.bits) }
  /// Products read rows one after the other.
  public var readsPlacedRows: Bool { false }

  /// Throws what a kernel of an earlier call has found wrong with its data.
  public func checkFaults() throws(EngineError) { try device.faults.check() }

  /// A kernel of this device.
  func kernel(
    _ source: KernelSource, _ name: String, _ defines: KernelSource.Choice = []
  ) throws(EngineError) -> CUDAKernel {
    try device.kernel(source, name, defines)
  }

  /// counts [n] i32 = 0.
  func clear(_ counts: TensorView) throws(EngineError) {
    try kernel(.clear, "clear").launch(
      grid: LaunchSize((counts.elementCount + 255) / 256), block: 256, on: stream, counts,
      kernelInt(counts.elementCount, "the number of counts"))
  }
}

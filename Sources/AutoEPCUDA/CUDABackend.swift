import AutoEPCore
import AutoEPSystem

extension KernelSource {
  static let clear = KernelSource("clear.cu", PackageResources.clear_cu)
}

/// The steps of an MoE layer on one stream of one GPU. Calls only launch kernels: they neither wait nor allocate, so
/// they can be captured in a graph.
public final class CUDABackend: ComputeBackend {
  /// The GPU.
  public let device: CUDADevice
  let stream: CUDAStream

  /// Makes a backend for a stream of the host, which must outlive it; nil for the default stream.
  public init(_ device: CUDADevice, stream: UnsafeMutableRawPointer?) {
    self.device = device
    unsafe self.stream = CUDAStream(stream)
  }

  /// The GPU's memory.
  public var space: MemorySpace { .device(device.ordinal) }
  /// The stream.
  public var queue: WorkQueue { .stream(stream.bits) }
  /// False: products read rows in order.
  public var readsPlacedRows: Bool { false }

  /// Throws invalid data that a kernel of an earlier call reported.
  public func checkFaults() throws(EngineError) { try device.faults.check() }

  /// Loads a kernel on this device.
  func kernel(
    _ source: KernelSource, _ name: String, _ defines: KernelSource.Defines = []
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

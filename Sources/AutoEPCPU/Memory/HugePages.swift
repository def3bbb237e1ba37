import AutoEPCore
import Glibc

extension TensorView {
  private static var hugePage: Int { 2 << 20 }

  /// Asks for huge pages before a large tensor is written for the first time: fresh memory then comes in
  /// two thousand times fewer page faults, which else cost as much as the products. Memory that is there
  /// already stays as it is.
  func preferHugePages() {
    guard let data = unsafe hostPointer else { return }
    let first = (UInt(bitPattern: data) + UInt(Self.hugePage) - 1) / UInt(Self.hugePage)
    let end = (UInt(bitPattern: data) + UInt(byteCount)) / UInt(Self.hugePage)
    guard first < end else { return }
    // A system without huge pages refuses, and all is as it would have been.
    _ = unsafe madvise(
      UnsafeMutableRawPointer(bitPattern: first * UInt(Self.hugePage)),
      Int(end - first) * Self.hugePage, MADV_HUGEPAGE)
  }
}

extension CPUBackend {
  /// Prepares tensors that are about to be written.
  func prepareOutputs(_ outputs: TensorView?...) {
    for output in outputs { output?.preferHugePages() }
  }
}

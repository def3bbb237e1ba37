import AutoEPCore
import Glibc

extension TensorView {
  private static var hugePage: Int { 2 << 20 }

  /// Requests huge pages before the first write to a large tensor. Fresh memory then causes two thousand times
  /// fewer page faults, which otherwise cost as much as the products. Pages that already exist do not change.
  func preferHugePages() {
    guard let data = unsafe hostPointer else { return }
    let first = (UInt(bitPattern: data) + UInt(Self.hugePage) - 1) / UInt(Self.hugePage)
    let end = (UInt(bitPattern: data) + UInt(byteCount)) / UInt(Self.hugePage)
    guard first < end else { return }
    // Systems without huge pages return an error, which has no consequence.
    _ = unsafe madvise(
      UnsafeMutableRawPointer(bitPattern: first * UInt(Self.hugePage)),
      Int(end - first) * Self.hugePage, MADV_HUGEPAGE)
  }
}

extension CPUBackend {
  /// Prepares tensors for their first write.
  func prepareOutputs(_ outputs: TensorView?...) {
    for output in outputs { output?.preferHugePages() }
  }
}

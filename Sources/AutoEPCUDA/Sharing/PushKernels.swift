import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let push = KernelSource("push.cu", PackageResources.push_cu)
}

/// The kernels that set and await the flags of a push group.
package struct PushKernels: Sendable {
  private let signalAndWait: CUDAKernel
  private let giveBackAndWait: CUDAKernel

  /// Compiles and loads the kernels, unless that has been done.
  package init(_ device: CUDADevice) throws(EngineError) {
    signalAndWait = try device.kernel(.push, "push_signal_and_wait")
    giveBackAndWait = try device.kernel(.push, "push_give_back_and_wait")
  }

  /// Tells the peers of the chunks that the stream has copied to them, and waits for theirs.
  package func signalAndWait(_ call: PushCall, on stream: UInt) throws(EngineError) {
    try launch(signalAndWait, call, stream)
  }

  /// Gives back the slots that the stream has copied out, and waits for room for the next chunks.
  package func giveBackAndWait(_ call: PushCall, on stream: UInt) throws(EngineError) {
    try launch(giveBackAndWait, call, stream)
  }

  private func launch(
    _ kernel: CUDAKernel, _ call: PushCall, _ stream: UInt
  ) throws(EngineError) {
    try kernel.launch(
      grid: 1, block: LaunchSize(PUSH_MOST_RANKS), on: CUDAStream(bits: stream), call)
  }
}

extension PushCall: KernelArgument {
  var bits: PushCall { self }
}

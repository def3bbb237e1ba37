// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCPU
import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CAutoEP

/// The size of the first autoep_context_config, which ended before `stream`.
private let oldestSize = 24

@_cdecl("autoep_context_create") @implementation
public func autoep_context_create(
  _ config: UnsafePointer<autoep_context_config>!, _ context: UnsafeMutablePointer<autoep_context>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(context, "context")
    guard unsafe config != nil else {
      unsafe target.pointee = contexts.insert(EngineContext(try CPUBackend(numThreads: nil)))
      return
    }
    let given = try unsafe check.structure(config, "config", oldest: oldestSize)
    unsafe target.pointee = contexts.insert(try check.context(given))
  }
}

@_cdecl("autoep_context_free") @implementation
public func autoep_context_free(
  _ context: autoep_context, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in try contexts.remove(context) }
}

@_cdecl("autoep_context_num_threads") @implementation
public func autoep_context_num_threads(
  _ context: autoep_context, _ num_threads: UnsafeMutablePointer<Int32>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let target = try unsafe TensorChecker().pointer(num_threads, "num_threads")
    unsafe target.pointee = try Int32(contexts.find(context).numThreads)
  }
}

extension TensorChecker {
  /// Creates the context that a config describes.
  fileprivate func context(_ config: autoep_context_config) throws(EngineError) -> EngineContext {
    switch unsafe DevicePlace.Kind(rawValue: config.device_type) {
    case .cpu: return EngineContext(try unsafe cpu(config))
    case .cuda: return EngineContext(try unsafe cuda(config))
    case nil:
      throw unsafe error(
        "config.device_type",
        "is \(config.device_type); expected AUTOEP_DEVICE_CPU (\(AUTOEP_DEVICE_CPU)) or"
          + " AUTOEP_DEVICE_CUDA (\(AUTOEP_DEVICE_CUDA))", .unsupported)
    }
  }

  private func cpu(_ config: autoep_context_config) throws(EngineError) -> CPUBackend {
    guard unsafe config.device_id == 0 else {
      throw unsafe error("config.device_id", "is \(config.device_id); expected 0 for the CPU")
    }
    guard unsafe config.stream == nil else {
      throw error("config.stream", "is not NULL; the CPU has no streams")
    }
    let most: Int32 = 1024
    let numThreads = unsafe config.num_threads
    guard (0...most).contains(numThreads) else {
      throw error("config.num_threads", "is \(numThreads); expected 0 to \(most)")
    }
    return try CPUBackend(numThreads: numThreads == 0 ? nil : Int(numThreads))
  }

  private func cuda(_ config: autoep_context_config) throws(EngineError) -> CUDABackend {
    guard unsafe config.num_threads == 0 else {
      throw unsafe error(
        "config.num_threads", "is \(config.num_threads); expected 0 for a CUDA device")
    }
    let nvrtcPath = unsafe config.nvrtc_path.map { unsafe String(cString: $0) }
    let device = try unsafe CUDADevice.shared(Int(config.device_id), nvrtcPath: nvrtcPath)
    return unsafe CUDABackend(device, stream: config.stream)
  }
}

// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCPU
import AutoEPCore
import CAutoEP

@_cdecl("autoep_context_create") @implementation
public func autoep_context_create(
  _ config: UnsafePointer<autoep_context_config>!, _ context: UnsafeMutablePointer<autoep_context>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(context, "context")
    var numThreads: Int?
    if let config = unsafe config {
      numThreads = try unsafe check.numThreads(check.config(config, "config"))
    }
    let backend = try CPUBackend(numThreads: numThreads)
    unsafe target.pointee = contexts.insert(
      EngineContext(backend: backend, numThreads: backend.numThreads))
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
  /// The threads a config asks for, nil for the default.
  fileprivate func numThreads(_ config: autoep_context_config) throws(EngineError) -> Int? {
    guard config.device_type == AUTOEP_DEVICE_CPU else {
      throw error(
        "config.device_type",
        "is \(config.device_type); this build computes on CPUs:"
          + " expected AUTOEP_DEVICE_CPU (\(AUTOEP_DEVICE_CPU))", .unsupported)
    }
    guard config.device_id == 0 else {
      throw error("config.device_id", "is \(config.device_id); expected 0 for the CPU")
    }
    let most: Int32 = 1024
    guard (0...most).contains(config.num_threads) else {
      throw error("config.num_threads", "is \(config.num_threads); expected 0 to \(most)")
    }
    return config.num_threads == 0 ? nil : Int(config.num_threads)
  }
}

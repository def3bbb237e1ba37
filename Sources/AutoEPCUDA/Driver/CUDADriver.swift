import AutoEPCore
import AutoEPSystem
import CCUDA

/// NVIDIA's driver, opened and initialised once per process.
@safe
public final class CUDADriver: Sendable {
  static let soname = "libcuda.so.1"
  private static let opened = Locked<CUDADriver?>(nil)

  let functions: DriverFunctions

  /// The driver of this machine; throws `.missingLibrary` if there is none.
  public static func shared() throws(EngineError) -> CUDADriver {
    try opened.withLock { opened throws(EngineError) in
      if let opened { return opened }
      let driver = try CUDADriver(opening: soname)
      opened = driver
      return driver
    }
  }

  /// Initialises the driver that the loader finds under a name.
  package init(opening name: String) throws(EngineError) {
    do throws(LoaderError) {
      functions = try DriverFunctions(DynamicLibrary(opening: name))
    } catch {
      throw EngineError(
        .missingLibrary,
        """
        cannot compute on a CUDA device: \(error.reason). \(Self.soname) comes with NVIDIA's \
        driver: install one for CUDA 12.0 or newer (start a container with its GPUs), or compute \
        on the CPU
        """)
    }
    try check("cuInit", functions.initialise(0))
  }

  /// The driver's CUDA version, such as 13000 for CUDA 13.0.
  func version() throws(EngineError) -> Int {
    var version: Int32 = 0
    try check("cuDriverGetVersion", unsafe functions.driverGetVersion(&version))
    return Int(version)
  }

  /// Turns the result of a driver call into an `EngineError`; every call goes through this function.
  func check(_ call: @autoclosure () -> String, _ result: cuda_result) throws(EngineError) {
    guard result != cuda_success else { return }
    let kind: EngineError.Kind =
      switch result {
      case cuda_error_out_of_memory: .outOfMemory
      case cuda_error_no_device: .unsupported
      default: .internal
      }
    throw EngineError(kind, "\(call()): \(text(of: result))")
  }

  private func text(of result: cuda_result) -> String {
    var name: UnsafePointer<CChar>?
    var text: UnsafePointer<CChar>?
    guard unsafe functions.getErrorName(result, &name) == cuda_success,
      unsafe functions.getErrorString(result, &text) == cuda_success,
      let name = unsafe name, let text = unsafe text
    else { return "the unknown error \(result)" }
    return unsafe "\(String(cString: name)), \(String(cString: text))"
  }
}

import AutoEPSystem
import CNCCL

/// NVIDIA's library of collectives. Once opened it stays so until the process ends.
@safe
struct NCCLLibrary: @unchecked Sendable {
  static let soname = "libnccl.so.2"

  let name: String
  let commInitRankConfig: ncclCommInitRankConfig_t
  let commGetAsyncError: ncclCommGetAsyncError_t
  let commDestroy: ncclCommDestroy_t
  let commAbort: ncclCommAbort_t
  let groupStart: ncclGroupStart_t
  let groupEnd: ncclGroupEnd_t
  let send: ncclSend_t
  let receive: ncclRecv_t
  private let getUniqueID: ncclGetUniqueId_t
  private let getErrorString: ncclGetErrorString_t
  private let getLastError: ncclGetLastError_t

  /// Takes what the process has loaded, as PyTorch has, else `path`, else what the loader finds: one process must
  /// not use two.
  static func find(path: String?) throws(EngineError) -> NCCLLibrary {
    do throws(LoaderError) {
      if let library = try? DynamicLibrary(loaded: soname) { return try NCCLLibrary(library) }
      return try NCCLLibrary(DynamicLibrary(opening: path ?? soname))
    } catch {
      throw EngineError(
        .missingLibrary,
        """
        cannot exchange rows between GPUs: \(error.reason). \(soname) is NVIDIA's NCCL, 2.18 or newer, \
        which comes with PyTorch's CUDA packages and with `pip install nvidia-nccl-cu12` (or -cu13): \
        import torch first, or hand the library's path in
        """)
    }
  }

  init(_ library: DynamicLibrary) throws(LoaderError) {
    name = library.name
    unsafe commInitRankConfig = try library.function("ncclCommInitRankConfig")
    unsafe commGetAsyncError = try library.function("ncclCommGetAsyncError")
    unsafe commDestroy = try library.function("ncclCommDestroy")
    unsafe commAbort = try library.function("ncclCommAbort")
    unsafe groupStart = try library.function("ncclGroupStart")
    unsafe groupEnd = try library.function("ncclGroupEnd")
    unsafe send = try library.function("ncclSend")
    unsafe receive = try library.function("ncclRecv")
    unsafe getUniqueID = try library.function("ncclGetUniqueId")
    unsafe getErrorString = try library.function("ncclGetErrorString")
    unsafe getLastError = try library.function("ncclGetLastError")
    let getVersion: ncclGetVersion_t = unsafe try library.function("ncclGetVersion")
    var version: Int32 = 0
    guard unsafe getVersion(&version) == nccl_success, version >= nccl_oldest_version else {
      throw LoaderError(
        reason: "\(library.name) is NCCL \(version / 10000).\(version / 100 % 100)")
    }
  }

  /// The bytes by which the ranks of a new group find each other.
  func uniqueID() throws(EngineError) -> [UInt8] {
    var id = nccl_unique_id()
    try check("ncclGetUniqueId", unsafe getUniqueID(&id))
    return unsafe withUnsafeBytes(of: &id) { unsafe Array($0) }
  }

  /// Every result of NCCL passes here: turns a failure into our error. A call that goes on in the background is none.
  ///
  /// - Parameter handle: The communicator whose last error says more.
  func check(
    _ call: @autoclosure () -> String, _ result: nccl_result,
    of handle: NCCLHandle? = nil
  ) throws(EngineError) {
    guard result != nccl_success, result != nccl_in_progress else { return }
    let kind: EngineError.Kind =
      switch result {
      case nccl_system_error, nccl_remote_error: .communication
      default: .internal
      }
    let name =
      unsafe getErrorString(result).map { unsafe String(cString: $0) } ?? "error \(result)"
    let details = unsafe getLastError(handle?.communicator).map { unsafe String(cString: $0) } ?? ""
    throw EngineError(kind, "\(call()): \(name)" + (details.isEmpty ? "" : " (\(details))"))
  }
}

import AutoEPCore
import CAutoEP
import Glibc

/// The functions of libautoep_mpi.so, whose declarations are in `CMPI/autoep_mpi.h`. Once opened it
/// stays so until the process ends.
@safe
struct MPILibrary: @unchecked Sendable {
  typealias Open =
    @convention(c) (
      UnsafePointer<Int32>?, Int32, Double, UnsafeMutablePointer<autoep_transport>?,
      UnsafeMutablePointer<CChar>?
    ) -> Int32
  typealias Close = @convention(c) (Double, UnsafeMutablePointer<CChar>?) -> Int32

  let path: String
  let open: Open
  let close: Close

  init(path: String) throws(EngineError) {
    // Open MPI opens plugins that look for its symbols among the process's.
    guard let handle = unsafe dlopen(path, RTLD_NOW | RTLD_GLOBAL) else {
      throw missing(path, lastLoaderError())
    }
    self.path = path
    unsafe open = unsafeBitCast(try symbol("autoep_mpi_open", of: handle, path), to: Open.self)
    unsafe close = unsafeBitCast(try symbol("autoep_mpi_close", of: handle, path), to: Close.self)
  }
}

private func symbol(
  _ name: String, of handle: UnsafeMutableRawPointer, _ path: String
) throws(EngineError) -> UnsafeMutableRawPointer {
  guard let address = unsafe dlsym(handle, name) else { throw missing(path, lastLoaderError()) }
  return unsafe address
}

private func lastLoaderError() -> String {
  guard let text = unsafe dlerror() else { return "no reason given" }
  return unsafe String(cString: text)
}

private func missing(_ path: String, _ reason: String) -> EngineError {
  EngineError(
    .missingLibrary,
    """
    cannot use MPI: \(reason) (library: \(path)). AutoEP builds it where it finds MPI's compiler, \
    mpicc: install MPI (Debian and Ubuntu: openmpi-bin and libopenmpi-dev) and then AutoEP again
    """)
}

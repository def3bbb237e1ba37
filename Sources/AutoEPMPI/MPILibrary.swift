import AutoEPCore
import AutoEPSystem
import CAutoEP

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
    self.path = path
    do throws(LoaderError) {
      // Open MPI opens plugins that look for its symbols among the process's.
      let library = try DynamicLibrary(opening: path, global: true)
      unsafe open = try library.function("autoep_mpi_open")
      unsafe close = try library.function("autoep_mpi_close")
    } catch {
      throw missing(path, error.reason)
    }
  }
}

private func missing(_ path: String, _ reason: String) -> EngineError {
  EngineError(
    .missingLibrary,
    """
    cannot use MPI: \(reason) (library: \(path)). AutoEP builds it where it finds MPI's compiler, \
    mpicc: install MPI (Debian and Ubuntu: openmpi-bin and libopenmpi-dev) and then AutoEP again
    """)
}

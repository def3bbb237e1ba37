import AutoEPCore
import AutoEPMPI
import AutoEPSystem
import AutoEPTransportLaws
import Foundation

/// Checks with an MPI that the program itself has initialised.
extension MPICheck {
  /// Groups work, and MPI stays initialised until the program finalises it.
  func hostOwnsMPI() throws {
    let host = try HostMPI(library: library)
    try host.initialise(threadLevel: HostMPI.serialized)
    try open().barrier()
    try MPITransport.finalize()
    try expect(!host.isFinalised, "MPI was finalised by a library that did not initialise it")
    host.finalise()
    let late = try failure(of: "open") { () throws(EngineError) in
      _ = try MPITransport.open(library: library, ranks: nil, timeout: 1)
    }
    try expect(late.message.contains("MPI was finalised"), "\(late)")
  }

  /// An MPI that does not allow threads is refused.
  func singleThreadedHost() throws {
    let host = try HostMPI(library: library)
    try host.initialise(threadLevel: HostMPI.single)
    let refused = try failure(of: "open") { () throws(EngineError) in
      _ = try MPITransport.open(library: library, ranks: nil, timeout: 1)
    }
    try expect(refused.kind == .unsupported, "\(refused.kind), \(refused)")
    try expect(refused.message.contains("MPI_THREAD_SERIALIZED"), "\(refused)")
    host.finalise()
  }
}

/// MPI's functions, as a program linked with it would call them.
private struct HostMPI {
  static let single: CInt = 0
  static let serialized: CInt = 2

  private typealias InitThread =
    @convention(c) (
      UnsafeMutableRawPointer?, UnsafeMutableRawPointer?, CInt, UnsafeMutablePointer<CInt>
    ) -> CInt
  private typealias Finalize = @convention(c) () -> CInt
  private typealias Finalized = @convention(c) (UnsafeMutablePointer<CInt>) -> CInt

  private let handle: UnsafeMutableRawPointer

  init(library: String) throws {
    guard let handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL) else {
      throw BrokenLaw("cannot open \(library)")
    }
    self.handle = handle
  }

  func initialise(threadLevel: CInt) throws {
    var provided: CInt = -1
    let code = function("MPI_Init_thread", InitThread.self)?(nil, nil, threadLevel, &provided)
    try expect(code == 0, "MPI_Init_thread returned \(String(describing: code))")
    try expect(provided == threadLevel, "asked for thread level \(threadLevel), got \(provided)")
  }

  var isFinalised: Bool {
    var flag: CInt = -1
    _ = function("MPI_Finalized", Finalized.self)?(&flag)
    return flag == 1
  }

  func finalise() { _ = function("MPI_Finalize", Finalize.self)?() }

  private func function<Function>(_ name: String, _ type: Function.Type) -> Function? {
    dlsym(handle, name).map { unsafeBitCast($0, to: type) }
  }
}

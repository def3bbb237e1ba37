import AutoEPCore
import AutoEPMPI
import AutoEPSystem
import AutoEPTransportLaws
import Testing

@Suite(
  "MPI transport", .serialized,
  .enabled(if: MPILaunch.isPossible, "needs mpicc and mpirun, which are not on this machine"))
struct MPITests {
  @Test(arguments: [
    ("laws", 1), ("laws", 2), ("laws", 4), ("dispatcher", 2), ("dispatcher", 3), ("groups", 1),
    ("groups", 4), ("mismatch", 2),
    ("mismatch", 3), ("missing-rank", 2), ("missing-rank", 3), ("missing-opener", 2),
    ("host-owns-mpi", 2), ("single-threaded-host", 1),
  ])
  func everyRankEndsWell(check: String, ranks: Int) throws {
    let (status, output) = try MPILaunch.run(check, ranks: ranks)
    #expect(status == 0, "\(output)")
    #expect(output.split(separator: "\n").count { $0.hasSuffix("\(check): well") } == ranks)
  }

  @Test(arguments: ["rows-in-flight", "missing-at-end"])
  func desertedRankEndsTheJob(check: String) throws {
    let (status, output) = try MPILaunch.run(check, ranks: 2)
    #expect(output.contains("\(check): well"), "\(output)")
    #expect(status != 0 && status != 124, "mpirun must end the rank that deserted: \(output)")
  }
}

@Suite("MPI library")
struct MPILibraryTests {
  @Test func absentLibraryIsNamed() throws {
    let error = try failure(of: "open") { () throws(EngineError) in
      _ = try MPITransport.open(library: "/nowhere/libautoep_mpi.so", ranks: nil, timeout: 1)
    }
    #expect(error.kind == .missingLibrary)
    #expect(error.message.contains("/nowhere/libautoep_mpi.so"))
    #expect(error.message.contains("libopenmpi-dev"))
  }

  @Test func otherLibraryIsRefused() throws {
    let error = try failure(of: "open") { () throws(EngineError) in
      _ = try MPITransport.open(library: "libc.so.6", ranks: nil, timeout: 1)
    }
    #expect(error.kind == .missingLibrary)
    #expect(error.message.contains("autoep_mpi_open"))
  }

  @Test func endingWithoutBeginningDoesNothing() throws {
    try MPITransport.finalize()
  }
}

// Runs one check on every rank of an mpirun: AutoEPMPILaws <libautoep_mpi.so> <check>.
import Foundation

let arguments = CommandLine.arguments
guard arguments.count == 3, let check = MPICheck.named[arguments[2]] else {
  print("usage: \(arguments[0]) <libautoep_mpi.so> <\(MPICheck.named.keys.sorted())>")
  exit(2)
}
do {
  try check(MPICheck(library: arguments[1]))
  print("\(arguments[2]): well")
} catch {
  print("\(arguments[2]): \(error)")
  exit(1)
}

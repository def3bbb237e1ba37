// Runs the laws of transports and dispatchers on one rank of several, each a process with a GPU of its own:
//   AutoEPNCCLLaws <rank> <ranks> <file> <libnccl.so.2> <libnvrtc.so.*> [part of a check's name]
// Rank 0 writes the groups' unique ids to the file, and the others wait for it: it must not be there before. Rank r
// takes GPU r. For two ranks, from a shell:
//   for r in 0 1; do AutoEPNCCLLaws $r 2 /tmp/ids $NCCL $NVRTC & done; wait
// With NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 and another NCCL_HOSTID for each rank, NCCL takes them for ranks of several
// hosts, and uses the network. Prints a line per check; exits 1 if one failed.
import AutoEPSystem
import Glibc

let arguments = Array(CommandLine.arguments.dropFirst())
guard arguments.count >= 5, let rank = Int(arguments[0]), let size = Int(arguments[1]) else {
  print(
    "usage: AutoEPNCCLLaws <rank> <ranks> <file> <libnccl.so.2> <libnvrtc.so.*> [part of a name]")
  exit(2)
}
do {
  let check = try NCCLCheck(
    rank: rank, size: size, idFile: arguments[2], nccl: arguments[3], nvrtc: arguments[4])
  exit(try check.run(filter: arguments.dropFirst(5).first ?? "") ? 0 : 1)
} catch {
  print("rank \(rank): \(error)")
  exit(1)
}

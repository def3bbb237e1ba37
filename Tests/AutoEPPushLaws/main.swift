// Runs the laws of transports and dispatchers over memory that the GPUs of a host share, on one rank of several, each a
// process with a GPU of its own, and measures the rates:
//   AutoEPPushLaws <rank> <ranks> <file> <libnccl.so.2> <libnvrtc.so.*> [part of a check's name]
// NCCL moves the host's memory. Rank 0 writes the groups' unique ids to the file, and the others wait for it: it must not
// be there before. Rank r takes GPU r, and sees the others'. For two ranks, from a shell:
//   for r in 0 1; do AutoEPPushLaws $r 2 /tmp/ids $NCCL $NVRTC & done; wait
// Prints a line per check; exits 1 if one failed.
import AutoEPSystem
import Glibc

let arguments = Array(CommandLine.arguments.dropFirst())
guard arguments.count >= 5, let rank = Int(arguments[0]), let size = Int(arguments[1]) else {
  print(
    "usage: AutoEPPushLaws <rank> <ranks> <file> <libnccl.so.2> <libnvrtc.so.*> [part of a name]")
  exit(2)
}
do {
  let check = try PushCheck(
    rank: rank, size: size, idFile: arguments[2], nccl: arguments[3], nvrtc: arguments[4])
  exit(try check.run(filter: arguments.dropFirst(5).first ?? "") ? 0 : 1)
} catch {
  print("rank \(rank): \(error)")
  exit(1)
}

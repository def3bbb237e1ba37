import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import Glibc

/// The random numbers by which the ranks of a group pass descriptors to each other; rank 0 draws them.
struct PushSecrets {
  let name: UInt64
  let key: [UInt64]
}

extension PushOpening {
  /// Exchanges the ranks' places. Throws unless all ranks are on one host and their GPUs reach each other's memory.
  func meet(
    at place: PushPlace, _ device: CUDADevice, _ rings: PushRings
  ) throws(EngineError) -> PushSecrets {
    let drawn = (0..<3).map { _ in UInt64.random(in: 0 ... .max) }
    let sizes = [UInt64(rings.slots), UInt64(rings.chunkBytes)]
    let all = try gather(drawn + sizes + place.words)
    let secrets = PushSecrets(name: all[0][0], key: Array(all[0][1..<3]))
    try onEveryRank { () throws(EngineError) in
      for (rank, words) in all.enumerated() {
        guard words[3..<5] == all[0][3..<5] else {
          throw EngineError(
            .invalidArgument,
            "rank \(rank) has \(words[3]) slots of \(words[4]) bytes, and rank 0 \(all[0][3]) of"
              + " \(all[0][4]); expected the same on all ranks")
        }
        if rank == control.rank { continue }
        try checkReach(PushPlace(words: words[5...]), of: rank, from: place, device)
      }
    }
    return secrets
  }

  private func checkReach(
    _ other: PushPlace, of rank: Int, from place: PushPlace, _ device: CUDADevice
  ) throws(EngineError) {
    guard other.isOnHost(of: place) else {
      throw EngineError(
        .unsupported,
        "it runs on host \(place.hostName), and rank \(rank) on host \(other.hostName), or in another"
          + " container; GPUs of several hosts exchange rows over NCCL")
    }
    guard try device.reachesMemory(of: other.gpu) else {
      throw EngineError(
        .unsupported,
        "its CUDA device \(device.ordinal) does not reach the memory of rank \(rank)'s GPU, or this"
          + " process does not see that one (CUDA_VISIBLE_DEVICES); such GPUs exchange rows over NCCL"
      )
    }
  }

  /// Allocates this rank's memory, and maps that of the others.
  func share(
    _ rings: PushRings, on device: CUDADevice, _ secrets: PushSecrets, seconds: Double
  ) throws(EngineError) -> PushMemory {
    let (rank, size) = (control.rank, control.size)
    var descriptor: Int32 = -1
    defer { if descriptor >= 0 { close(descriptor) } }
    let (own, host, sockets) = try onEveryRank { () throws(EngineError) in
      try asUnsupported { () throws(EngineError) in
        let own = try SharedMemory(byteCount: rings.memoryBytes, on: device) { descriptor = $0 }
        try device.context.clear(rings.flagBytes, at: own.address)
        return (
          own, try PushHost(in: device.context),
          try DescriptorExchange(name: secrets.name, key: secrets.key, rank: rank, size: size)
        )
      }
    }
    return try onEveryRank { () throws(EngineError) in
      try asUnsupported { () throws(EngineError) in
        var parts: [SharedMemory] = []
        for received in try sockets.run(descriptor, seconds: seconds) {
          guard let received else {
            parts.append(own)
            continue
          }
          parts.append(
            try SharedMemory(opening: received, byteCount: rings.memoryBytes, for: device))
        }
        return PushMemory(parts, rings: rings, rank: rank, host: host)
      }
    }
  }
}

/// Runs a part of sharing memory. What the driver or the system refuses there, as in some containers and virtual GPUs, is
/// `.unsupported`, so that a program can go on with another transport.
private func asUnsupported<Result>(
  _ body: () throws(EngineError) -> Result
) throws(EngineError) -> Result {
  do throws(EngineError) {
    return try body()
  } catch {
    guard error.kind == .internal else { throw error }
    throw EngineError(.unsupported, "this system does not let GPUs share memory: \(error.message)")
  }
}

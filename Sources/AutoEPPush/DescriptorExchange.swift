import AutoEPSystem
import CDescriptors
import Glibc

/// Gives a file descriptor to every other rank of a host, and receives one from each.
///
/// Other users of the host can send to an abstract socket too, so every message carries a key that only the ranks know.
final class DescriptorExchange {
  private let socket: Int32
  private let name: UInt64
  private let key: [UInt64]
  private let rank: Int
  private let size: Int
  private var received: [Int32?]

  /// Opens this rank's socket. The others can send to it from now on.
  ///
  /// - Parameters:
  ///   - name: What distinguishes the group's sockets.
  ///   - key: Two numbers that only the ranks know.
  init(name: UInt64, key: [UInt64], rank: Int, size: Int) throws(EngineError) {
    (self.name, self.key, self.rank, self.size) = (name, key, rank, size)
    received = Array(repeating: nil, count: size)
    socket = unsafe descriptors_open(Self.socketName(name, rank))
    guard socket >= 0 else {
      throw EngineError(.internal, "a unix socket: \(errorText(errno))")
    }
  }

  deinit {
    close(socket)
    for case let descriptor? in received { close(descriptor) }
  }

  /// Returns the descriptors of the other ranks, `[size]`, which stay this object's; nil for this rank.
  func run(_ descriptor: Int32, seconds: Double) throws(EngineError) -> [Int32?] {
    let deadline = Deadline(seconds: seconds)
    var unsent = (0..<size).filter { $0 != rank }
    var pause = PollingPause()
    while true {
      var later: [Int] = []
      for peer in unsent where try !send(descriptor, to: peer) { later.append(peer) }
      unsent = later
      try receive()
      let missing = (0..<size).filter { $0 != rank && received[$0] == nil }
      if unsent.isEmpty && missing.isEmpty { return received }
      if deadline.hasPassed {
        throw .missingRanks(
          missing.isEmpty ? unsent : missing, step: PushOpening.step, rank: rank, size: size,
          seconds: seconds)
      }
      pause.take()
    }
  }

  /// Returns false while the peer's socket is full.
  private func send(_ descriptor: Int32, to peer: Int) throws(EngineError) -> Bool {
    let message = key + [UInt64(rank)]
    let error = unsafe message.withUnsafeBytes {
      unsafe descriptors_send(
        socket, Self.socketName(name, peer), $0.baseAddress, $0.count, descriptor)
    }
    if error == EAGAIN || error == EINTR || error == ENOBUFS { return false }
    guard error == 0 else {
      throw EngineError(
        error == ECONNREFUSED ? .unsupported : .internal,
        "a message to rank \(peer) over a unix socket: \(errorText(error))"
          + (error == ECONNREFUSED ? "; do the ranks have networks of their own?" : ""))
    }
    return true
  }

  /// Takes the messages that have arrived; does not wait.
  private func receive() throws(EngineError) {
    while true {
      var message = [UInt64](repeating: 0, count: key.count + 1)
      var descriptor: Int32 = -1
      let error = unsafe message.withUnsafeMutableBytes {
        unsafe descriptors_receive(socket, $0.baseAddress, $0.count, &descriptor)
      }
      switch error {
      case 0: keep(descriptor, message)
      case EAGAIN: return
      case EINTR, EBADMSG: continue
      default:
        throw EngineError(.internal, "receiving over a unix socket: \(errorText(error))")
      }
    }
  }

  private func keep(_ descriptor: Int32, _ message: [UInt64]) {
    guard message.dropLast().elementsEqual(key),
      let source = message.last.map({ Int(clamping: $0) }),
      source < size, source != rank, received[source] == nil
    else {
      close(descriptor)
      return
    }
    received[source] = descriptor
  }

  private static func socketName(_ name: UInt64, _ rank: Int) -> String {
    "autoep-push-\(String(name, radix: 16))-\(rank)"
  }
}

private func errorText(_ error: Int32) -> String {
  unsafe strerror(error).map { unsafe String(cString: $0) } ?? "error \(error)"
}

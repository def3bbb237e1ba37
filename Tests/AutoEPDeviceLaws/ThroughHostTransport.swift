import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem

/// A transport whose exchanges of device memory go through the host's, over the transport in it: dispatchers of several
/// ranks can then be checked on one device.
public final class ThroughHostTransport: Transport {
  private let base: any Transport
  private let memory: DeviceMemory

  /// - Parameter memory: Its reading waits for the work before an exchange.
  public init(_ base: any Transport, _ memory: DeviceMemory) {
    self.base = base
    self.memory = memory
  }

  /// The rank of the wrapped transport.
  public var rank: Int { base.rank }
  /// The number of ranks of the wrapped transport.
  public var size: Int { base.size }
  /// The health of the wrapped transport.
  public var health: GroupHealth { base.health }

  /// Any memory.
  public func reaches(_ space: MemorySpace) -> Bool { true }

  /// Exchanges copies of the rows.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    guard case .device = exchange.send else { return try base.start(exchange) }
    do {
      let count = exchange.sendRows.reduce(0, +) * exchange.rowBytes
      let sent = try memory.bytes(at: exchange.send, count: count)
      var received = [UInt8](
        repeating: 0, count: exchange.receiveRows.reduce(0, +) * exchange.rowBytes)
      try sent.withUnsafeBytes { sent in
        try received.withUnsafeMutableBytes { received in
          try base.exchange(
            RowExchange(
              send: sent.baseAddress, sendRows: exchange.sendRows, receive: received.baseAddress,
              receiveRows: exchange.receiveRows, rowBytes: exchange.rowBytes, step: exchange.step))
        }
      }
      try memory.write(received, to: exchange.receive)
    } catch let error as EngineError {
      throw error
    } catch {
      throw EngineError(.internal, "\(exchange.step): \(error)")
    }
    return DoneExchange()
  }
}

/// An exchange that has ended.
private struct DoneExchange: PendingExchange {
  func wait() throws(EngineError) {}
}

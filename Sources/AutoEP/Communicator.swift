import AutoEPCore

/// The ranks of one group.
final class Communicator: Sendable {
  let transport: any Transport

  init(_ transport: any Transport) { self.transport = transport }
}

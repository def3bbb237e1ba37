import AutoEPCore
import AutoEPSystem

extension TransportLaw {
  /// Wrong arguments are refused locally, before anything is sent, and the group stays usable.
  static let argumentLaws = [
    TransportLaw("wrong row counts are refused") { transport in
      let size = transport.size
      let one = Array(repeating: 1, count: size)
      try refuses(transport, sendRows: one + [1], receiveRows: one)
      try refuses(transport, sendRows: one, receiveRows: [])
      try refuses(transport, sendRows: one, receiveRows: Array(repeating: -1, count: size))
      try refuses(transport, sendRows: Array(repeating: .max, count: size), receiveRows: one)
      try transport.barrier()
    },
    TransportLaw("rows without memory are refused") { transport in
      let one = Array(repeating: 1, count: transport.size)
      let none = Array(repeating: 0, count: transport.size)
      try refuses(transport, sendRows: one, receiveRows: none, memory: nil)
      try refuses(transport, sendRows: none, receiveRows: one, memory: nil)
      try transport.barrier()
    },
    TransportLaw("memory of a space that it does not reach is refused") { transport in
      let memory = UnsafeMutableRawPointer(bitPattern: 64)
      let device = Storage.device(DeviceAddress(1 << 20))
      try require(transport.reaches(.host), "the host's memory is for every transport")
      guard !(0..<64).contains(where: { transport.reaches(.device($0)) }) else { return }
      for (send, receive) in [(device, .host(memory)), (.host(memory), device), (device, device)] {
        let one = Array(repeating: 1, count: transport.size)
        let error = try failure(of: "exchange of device memory") { () throws(EngineError) in
          _ = try transport.start(
            RowExchange(
              send: send, sendRows: one, receive: receive, receiveRows: one, rowBytes: 8,
              step: "refused", queue: .stream(0)))
        }
        try require(
          error.kind == .unsupported && error.message.contains("refused"),
          "got \(error.kind): \(error)")
      }
      try require(transport.health.failure == nil, "a refused exchange ended the group")
      try transport.barrier()
    },
    TransportLaw("a sum of integers is refused") { transport in
      var failure: EngineError?
      do throws(EngineError) {
        try transport.allReduceSum(TensorView(data: nil, shape: [0], dtype: .i32))
      } catch {
        failure = error
      }
      try require(failure?.kind == .unsupported, "got \(String(describing: failure))")
      try transport.barrier()
    },
  ]
}

private func refuses(
  _ transport: any Transport, sendRows: [Int], receiveRows: [Int],
  memory: UnsafeMutableRawPointer? = UnsafeMutableRawPointer(bitPattern: 64)
) throws {
  var failure: EngineError?
  do throws(EngineError) {
    _ = try transport.start(
      RowExchange(
        send: memory, sendRows: sendRows, receive: memory, receiveRows: receiveRows, rowBytes: 8,
        step: "refused"))
  } catch {
    failure = error
  }
  try require(
    failure?.kind == .invalidArgument && failure?.message.contains("refused") == true,
    "sendRows \(sendRows), receiveRows \(receiveRows): got \(String(describing: failure))")
}

import AutoEPCore
import AutoEPTransportLaws
import Testing

@Suite("Transport laws")
struct TransportLawTests {
  @Test func selfTransport() throws {
    try checkTransport(sizes: [1]) { _ in [SelfTransport()] }
  }

  @Test func inProcessTransport() throws {
    try checkTransport(sizes: [1, 2, 3, 4, 7]) {
      try InProcessTransport.makeWorld(size: $0, timeout: 60)
    }
  }

  @Test func callbackTransport() throws {
    try checkTransport { size in
      try InProcessTransport.makeWorld(size: size, timeout: 60).map {
        try callbackTwin(of: $0, timeout: 60)
      }
    }
  }
}

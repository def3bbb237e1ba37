import AutoEPCore
import AutoEPSystem

/// The blocks of a grid or cluster, or the threads of a block.
struct LaunchSize: Sendable, ExpressibleByIntegerLiteral {
  let x: Int
  let y: Int
  let z: Int

  init(_ x: Int, _ y: Int = 1, _ z: Int = 1) { (self.x, self.y, self.z) = (x, y, z) }

  init(integerLiteral x: Int) { self.init(x) }

  var isEmpty: Bool { x == 0 || y == 0 || z == 0 }

  /// The size as the driver's integers; throws if it is too large.
  func checked(_ what: StaticString) throws(EngineError) -> (x: UInt32, y: UInt32, z: UInt32) {
    guard let x = UInt32(exactly: x), let y = UInt32(exactly: y), let z = UInt32(exactly: z) else {
      throw EngineError(.internal, "a \(what) of \(self) exceeds the driver's limits")
    }
    return (x, y, z)
  }
}

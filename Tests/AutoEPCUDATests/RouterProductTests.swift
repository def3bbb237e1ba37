import AutoEPCore
import AutoEPSystem
import FakeCUDA
import Testing

@testable import AutoEPCUDA

/// The launch of a router's product, on a driver that only records calls.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct RouterProductTests {
  /// Blocks of 32 tokens and 16, 32, 64 or 128 experts.
  private static let sizes: [(tokens: Int, experts: Int, grid: Int, shared: Int)] = [
    (1, 1, 1, 6 * 16 * 48 * 16), (4096, 8, 128, 6 * 16 * 48 * 16),
    (4096, 32, 128, 6 * 16 * 64 * 16), (4096, 60, 128, 4 * 16 * 96 * 16),
    (4225, 128, 133, 4 * 16 * 160 * 8), (32768, 64, 1024, 4 * 16 * 96 * 16),
    (31, 288, 3, 4 * 16 * 160 * 8),
  ]

  @Test("grid, block, shared memory and arguments", arguments: sizes)
  func launch(
    size: (tokens: Int, experts: Int, grid: Int, shared: Int)
  ) throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    try backend.routerLogits(
      tensor(1 << 20, [size.tokens, 256]), router: tensor(1 << 21, [size.experts, 256]),
      into: tensor(1 << 22, [size.tokens, size.experts]))
    let config = fake.state.pointee.config
    #expect([config.grid_x, config.grid_y, config.grid_z] == [UInt32(size.grid), 1, 1])
    #expect([config.block_x, config.block_y, config.block_z] == [256, 1, 1])
    #expect(config.shared_bytes == UInt32(size.shared))
    // The limit per block on sm_86, which has the least shared memory.
    #expect(size.shared <= 99 * 1024)
    #expect((0..<3).map { fake.argument($0, as: UInt64.self) } == [1 << 20, 1 << 21, 1 << 22])
    #expect(fake.argument(3, as: Int64.self) == Int64(size.tokens))
    #expect(fake.argument(4, as: Int32.self) == Int32(size.experts))
    #expect(fake.argument(5, as: Int64.self) == 256)
  }

  @Test("rows that are not whole vectors are read by element; no launch for 0 tokens")
  func variants() throws {
    func isAligned(_ address: Int, _ width: Int) throws -> Bool {
      let product = try RouterProduct(
        tensor(address, [3, width]), tensor(1 << 20, [4, width]))
      return product.defines.contains(KernelSource.Define(name: "ALIGNED", value: 1))
    }
    #expect(try isAligned(1 << 20, 24))
    #expect(try !isAligned(1 << 20, 20))
    #expect(try !isAligned(1 << 20 | 2, 24))
    let fake = try FakeDevice()
    try CUDABackend(try fake.open(), stream: nil).routerLogits(
      tensor(0, [0, 8]), router: tensor(1 << 20, [4, 8]), into: tensor(0, [0, 4]))
    #expect(fake.state.pointee.launches == 0)
  }

  @Test("float64 is refused")
  func float64() throws {
    let error = #expect(throws: EngineError.self) {
      _ = try RouterProduct(
        tensor(0, [0, 8], .f64), tensor(0, [4, 8], .f64))
    }
    #expect(error?.kind == .unsupported)
    #expect(error?.message.contains("router's product") == true)
  }

  private func tensor(_ address: Int, _ shape: [Int], _ dtype: DataType = .bf16) -> TensorView {
    TensorView(.device(DeviceAddress(UInt64(address))), shape: shape, dtype: dtype)
  }
}

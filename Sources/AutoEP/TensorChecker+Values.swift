import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Checks of scalars, and checks that several calls share.
extension TensorChecker {
  /// Checks a number that must be 1 or more.
  func positive(_ value: Int, _ name: String) throws(EngineError) -> Int {
    guard value > 0 else { throw error(name, "is \(value); expected 1 or more") }
    return value
  }

  /// Checks a pointer that a result is written to.
  func pointer<Pointee>(
    _ pointer: UnsafeMutablePointer<Pointee>?, _ name: String
  ) throws(EngineError) -> UnsafeMutablePointer<Pointee> {
    guard let pointer = unsafe pointer else {
      throw error(name, "is NULL; expected a pointer to write the result to")
    }
    return unsafe pointer
  }

  /// Converts a raw value to its enum case.
  func enumValue<Enum: RawRepresentable>(
    _ value: Int32, _ name: String, _ type: Enum.Type, _ expected: String
  ) throws(EngineError) -> Enum where Enum.RawValue == Int32 {
    guard let enumCase = Enum(rawValue: value) else {
      throw error(name, "is \(value); expected one of \(expected)")
    }
    return enumCase
  }

  /// The number of slots of a [T,K] tensor; row numbers have 32 bits.
  @discardableResult
  func slotCount(_ slots: TensorView) throws(EngineError) -> Int {
    try slotCount(slots.shape[0], slots.shape[1])
  }

  /// T·K; row numbers have 32 bits.
  @discardableResult
  func slotCount(_ numTokens: Int, _ topK: Int) throws(EngineError) -> Int {
    let most = Int(Int32.max)
    guard topK == 0 || numTokens <= most / topK else {
      throw error("T * K", "is \(numTokens) * \(topK); expected at most \(most) per call")
    }
    return numTokens * topK
  }

  /// Checks a field that must be 0 or 1.
  func flag(_ value: Int32, _ name: String) throws(EngineError) -> Bool {
    guard value == 0 || value == 1 else { throw error(name, "is \(value); expected 0 or 1") }
    return value == 1
  }

  /// row_of_slot [T,K].
  mutating func rowOfSlot(
    _ tensor: UnsafePointer<autoep_tensor>?
  ) throws(EngineError) -> TensorView {
    let slots = try unsafe self.tensor(tensor, "row_of_slot", ["T", "K"], [.i32])
    try slotCount(slots)
    return slots
  }

  /// Copies a config struct of the caller. A newer caller's struct is longer: the fields that this library does not
  /// know must be zero. An older caller's struct is shorter: its missing fields are set to zero.
  ///
  /// - Parameter oldest: The size of the first version of a struct that has grown.
  func structure<Structure: BitwiseCopyable>(
    _ address: UnsafePointer<Structure>?, _ name: String,
    oldest: Int = MemoryLayout<Structure>.size
  ) throws(EngineError) -> Structure {
    guard let address = unsafe address else {
      throw error(name, "is NULL; expected an \(Structure.self)")
    }
    // The size comes first in every struct, so it can be read before the rest is trusted.
    let size = unsafe UnsafeRawPointer(address).load(as: Int.self)
    let known = MemoryLayout<Structure>.size
    guard size >= oldest else {
      throw error(
        "\(name).struct_size", "is \(size); expected sizeof(\(Structure.self)) = \(known)")
    }
    let given = unsafe UnsafeRawBufferPointer(start: address, count: min(size, known + 4096))
    guard unsafe given.dropFirst(known).allSatisfy({ $0 == 0 }) else {
      throw error(name, "sets fields that this library is too old to know; use a newer library")
    }
    return unsafe withUnsafeTemporaryAllocation(of: Structure.self, capacity: 1) { copy in
      let bytes = UnsafeMutableRawBufferPointer(copy)
      unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
      unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: given.prefix(known)))
      return unsafe copy[0]
    }
  }
}

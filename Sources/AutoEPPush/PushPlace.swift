import AutoEPCUDA
import AutoEPSystem
import Glibc

/// Where a rank runs.
struct PushPlace: Equatable {
  /// Longer names are cut.
  private static let nameWords = 8

  /// Differs between machines, and between two starts of one.
  let bootID: [UInt64]
  let hostName: String
  var gpu: DeviceUUID

  /// The place of this process and one of its GPUs.
  init(_ device: CUDADevice) throws(EngineError) {
    self.init(bootID: ownBootID(), hostName: ownHostName(), gpu: try device.uuid())
  }

  init(bootID: [UInt64], hostName: String, gpu: DeviceUUID) {
    (self.bootID, self.hostName, self.gpu) = (bootID, hostName, gpu)
  }

  /// Whether processes at both places reach each other by sockets and shared memory. Containers have host names of
  /// their own.
  func isOnHost(of other: PushPlace) -> Bool {
    bootID == other.bootID && hostName == other.hostName
  }

  // ---- As numbers, which ranks exchange ----

  static let wordCount = 2 + nameWords + 2

  var words: [UInt64] { bootID + packed(hostName, words: Self.nameWords) + gpu.words }

  init(words: ArraySlice<UInt64>) {
    self.init(
      bootID: Array(words.prefix(2)), hostName: unpacked(words.dropFirst(2).dropLast(2)),
      gpu: DeviceUUID(words: Array(words.suffix(2))))
  }
}

/// Packs the bytes of a text into `count` words; a longer text is cut, a shorter one is followed by zeros.
func packed(_ text: String, words count: Int) -> [UInt64] {
  var words = [UInt64](repeating: 0, count: count)
  for (index, byte) in text.utf8.prefix(8 * count).enumerated() {
    words[index / 8] |= UInt64(byte) << (8 * UInt64(index % 8))
  }
  return words
}

/// Returns the text that `packed` has packed.
func unpacked(_ words: ArraySlice<UInt64>) -> String {
  let bytes = words.flatMap { word in
    (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) }
  }
  return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
}

private func ownHostName() -> String {
  var name = [CChar](repeating: 0, count: 256)
  unsafe gethostname(&name, name.count - 1)
  return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// The 128 random bits that Linux draws when it boots; 0 if they cannot be read.
private func ownBootID() -> [UInt64] {
  var words: [UInt64] = [0, 0]
  guard let file = unsafe fopen("/proc/sys/kernel/random/boot_id", "re") else { return words }
  defer { unsafe fclose(file) }
  var bytes = [UInt8](repeating: 0, count: 64)
  let count = unsafe fread(&bytes, 1, bytes.count, file)
  let digits = bytes.prefix(count).compactMap { Character(UnicodeScalar($0)).hexDigitValue }
  for (index, digit) in digits.prefix(32).enumerated() {
    words[index / 16] = words[index / 16] << 4 | UInt64(digit)
  }
  return words
}

import AutoEPCore
import AutoEPSystem
import Glibc

/// Compiled images on disk, in a folder that belongs to this user. No function throws: an image that cannot be read
/// and verified is compiled again, and one that cannot be written is not cached.
struct KernelCache: Sendable {
  private static let magic = Array("AUTOEPK1".utf8)
  /// Larger than any image, because an image is read as a whole.
  private static let largestImage = 1 << 28

  let folder: String

  /// This user's cache: $AUTOEP_CACHE_DIR, else the folder autoep in $XDG_CACHE_HOME or ~/.cache;
  /// nil if none of these variables is set.
  static func ofUser(_ environment: (String) -> String? = environmentValue) -> KernelCache? {
    if let folder = environment("AUTOEP_CACHE_DIR") { return KernelCache(folder: folder) }
    if let base = environment("XDG_CACHE_HOME") { return KernelCache(folder: "\(base)/autoep") }
    if let home = environment("HOME") { return KernelCache(folder: "\(home)/.cache/autoep") }
    return nil
  }

  /// The key of an image: a hash of everything that it depends on.
  static func key(_ parts: [[UInt8]]) -> String {
    // Prefixed with the lengths, so that different lists never give the same message.
    let message = parts.flatMap { Array("\($0.count):".utf8) + $0 }
    let digits = Array("0123456789abcdef")
    return String(SHA256.hash(message).flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
  }

  /// Loads the image with this key; nil if it is missing or damaged.
  func load(_ key: String) -> [UInt8]? {
    guard let folder = openFolder(),
      let file = FileDescriptor(folder.openFile(key, O_RDONLY)),
      let bytes = read(file), bytes.starts(with: Self.magic)
    else { return nil }
    let digestStart = Self.magic.count
    let imageStart = digestStart + 32
    let image = Array(bytes.dropFirst(imageStart))
    guard SHA256.hash(image).elementsEqual(bytes[digestStart..<min(imageStart, bytes.count)])
    else { return nil }
    return image
  }

  /// Stores an image atomically: readers see all of it or nothing.
  func store(_ image: [UInt8], _ key: String) {
    makeFolder()
    guard let folder = openFolder() else { return }
    let temporary = "\(key).\(getpid()).\(UInt32.random(in: 0 ... .max)).part"
    guard let file = FileDescriptor(folder.openFile(temporary, O_WRONLY | O_CREAT | O_EXCL)) else {
      return
    }
    if write(Self.magic + SHA256.hash(image) + image, to: file) {
      if unsafe renameat(folder.number, temporary, folder.number, key) == 0 { return }
    }
    _ = unsafe unlinkat(folder.number, temporary, 0)
  }

  /// Opens the cache's folder; nil unless this user owns it and nobody else can access it.
  private func openFolder() -> FileDescriptor? {
    guard
      let folder = FileDescriptor(
        unsafe open(self.folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)),
      let status = folder.status, status.st_uid == geteuid(), status.st_mode & 0o7777 == 0o700
    else { return nil }
    return folder
  }

  /// Creates the folder and its parents.
  private func makeFolder() {
    for end in folder.indices.dropFirst() where folder[end] == "/" {
      _ = unsafe mkdir(String(folder[..<end]), 0o755)
    }
    _ = unsafe mkdir(folder, 0o700)
  }

  /// Reads a regular file; nil unless only this user can have written it.
  private func read(_ file: borrowing FileDescriptor) -> [UInt8]? {
    guard let status = file.status, status.st_mode & S_IFMT == S_IFREG,
      status.st_uid == geteuid(), status.st_mode & 0o022 == 0,
      (1...Self.largestImage).contains(Int(status.st_size))
    else { return nil }
    let size = Int(status.st_size)
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      while count < size {
        let arrived = unsafe Glibc.read(
          file.number, buffer.baseAddress.map { unsafe $0 + count }, size - count)
        guard arrived > 0 else { break }
        count += arrived
      }
    }
    return bytes.count == size ? bytes : nil
  }

  private func write(_ bytes: [UInt8], to file: borrowing FileDescriptor) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
      let written = unsafe rest.withUnsafeBytes {
        unsafe Glibc.write(file.number, $0.baseAddress, $0.count)
      }
      guard written > 0 else { return false }
      rest = rest.dropFirst(written)
    }
    return true
  }
}

/// An open file, closed when its owner is destroyed.
private struct FileDescriptor: ~Copyable {
  let number: Int32

  /// Takes ownership of the result of `open`; nil if that failed.
  init?(_ number: Int32) {
    guard number >= 0 else { return nil }
    self.number = number
  }

  var status: stat? {
    var status = stat()
    return unsafe fstat(number, &status) == 0 ? status : nil
  }

  /// Opens a file in this folder and returns the result of `openat`.
  func openFile(_ name: String, _ flags: Int32) -> Int32 {
    unsafe openat(number, name, flags | O_NOFOLLOW | O_CLOEXEC, 0o600)
  }

  deinit { close(number) }
}

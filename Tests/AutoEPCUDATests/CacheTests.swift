import Foundation
import Testing

@testable import AutoEPCUDA

@Suite struct CacheTests {
  /// A cache in a temporary folder, which is removed with the object.
  private final class TestCache {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    var cache: KernelCache { KernelCache(folder: "\(folder)/a/autoep") }
    var entry: String { "\(folder)/a/autoep/\(key)" }
    let key = KernelCache.key([Array("source".utf8)])
    let image = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 7) }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func mode(_ path: String) throws -> Int {
      try #require(
        FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
    }

    func change(_ path: String, mode: Int) throws {
      try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
    }
  }

  @Test("a stored image is loaded again; only this user can access its folder and file")
  func roundTrip() throws {
    let test = TestCache()
    #expect(test.cache.load(test.key) == nil)
    test.cache.store(test.image, test.key)
    #expect(test.cache.load(test.key) == test.image)
    #expect(test.cache.load(KernelCache.key([[1]])) == nil)
    #expect(try test.mode("\(test.folder)/a/autoep") == 0o700)
    #expect(try test.mode(test.entry) == 0o600)
    let files = try FileManager.default.contentsOfDirectory(atPath: "\(test.folder)/a/autoep")
    #expect(files == [test.key])
  }

  @Test("a modified, truncated, lengthened or emptied file is ignored and replaced")
  func tampered() throws {
    let test = TestCache()
    test.cache.store(test.image, test.key)
    let whole = try Data(contentsOf: URL(filePath: test.entry))
    var spoiled: [Data] = [Data(), whole.dropLast(), whole + [0]]
    for index in [0, 7, 8, 39, 40, whole.count - 1] {
      var copy = whole
      copy[index] ^= 1
      spoiled.append(copy)
    }
    spoiled += [8, 20, 40].map { Data(whole.prefix($0)) }
    for data in spoiled {
      try data.write(to: URL(filePath: test.entry))
      #expect(test.cache.load(test.key) == nil, "\(data.count) bytes")
      test.cache.store(test.image, test.key)
      #expect(test.cache.load(test.key) == test.image)
    }
  }

  @Test("folders and files that others can write are not used", arguments: [0o777, 0o770, 0o755])
  func modes(mode: Int) throws {
    let test = TestCache()
    test.cache.store(test.image, test.key)
    try test.change("\(test.folder)/a/autoep", mode: mode)
    #expect(test.cache.load(test.key) == nil)
    test.cache.store(test.image, KernelCache.key([[2]]))
    #expect(
      !FileManager.default.fileExists(atPath: "\(test.folder)/a/autoep/\(KernelCache.key([[2]]))"))
    try test.change("\(test.folder)/a/autoep", mode: 0o700)
    #expect(test.cache.load(test.key) == test.image)
    try test.change(test.entry, mode: 0o666)
    #expect(test.cache.load(test.key) == nil)
  }

  @Test("files of another user are not used", .enabled(if: geteuid() == 0, "needs root"))
  func owners() throws {
    let test = TestCache()
    test.cache.store(test.image, test.key)
    #expect(chown(test.entry, 1, 1) == 0)
    #expect(test.cache.load(test.key) == nil)
    #expect(chown(test.entry, 0, 0) == 0)
    #expect(test.cache.load(test.key) == test.image)
    #expect(chown("\(test.folder)/a/autoep", 1, 1) == 0)
    #expect(test.cache.load(test.key) == nil)
  }

  @Test("links are not followed")
  func links() throws {
    let test = TestCache()
    test.cache.store(test.image, test.key)
    let (folder, moved) = ("\(test.folder)/a/autoep", "\(test.folder)/moved")
    try FileManager.default.moveItem(atPath: test.entry, toPath: moved)
    try FileManager.default.createSymbolicLink(atPath: test.entry, withDestinationPath: moved)
    #expect(test.cache.load(test.key) == nil)
    test.cache.store(test.image, test.key)
    #expect(test.cache.load(test.key) == test.image)
    try FileManager.default.moveItem(atPath: folder, toPath: "\(test.folder)/b")
    try FileManager.default.createSymbolicLink(
      atPath: folder, withDestinationPath: "\(test.folder)/b")
    #expect(test.cache.load(test.key) == nil)
  }

  @Test("an unusable folder is not an error")
  func unusable() {
    for folder in ["/proc/autoep", "/dev/null/autoep", ""] {
      let cache = KernelCache(folder: folder)
      cache.store([1, 2, 3], "key")
      #expect(cache.load("key") == nil)
    }
  }

  @Test("many writers and readers: readers see a whole image or none")
  func concurrent() {
    let test = TestCache()
    let (cache, key) = (test.cache, test.key)
    let images = (0..<8).map { [UInt8](repeating: UInt8($0), count: 20_000) }
    cache.store(images[0], key)
    DispatchQueue.concurrentPerform(iterations: 64) { round in
      if round % 2 == 0 { cache.store(images[round / 2 % 8], key) }
      guard let image = cache.load(key) else {
        Issue.record("round \(round) found nothing")
        return
      }
      #expect(images.contains(image))
    }
    withExtendedLifetime(test) {}
  }

  @Test("the environment determines the user's folder")
  func places() {
    let all = ["AUTOEP_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y", "HOME": "/z"]
    func folder(_ names: String...) -> String? {
      KernelCache.ofUser { names.contains($0) ? all[$0] : nil }?.folder
    }
    #expect(folder("AUTOEP_CACHE_DIR", "XDG_CACHE_HOME", "HOME") == "/x")
    #expect(folder("XDG_CACHE_HOME", "HOME") == "/y/autoep")
    #expect(folder("HOME") == "/z/.cache/autoep")
    #expect(folder() == nil)
  }

  @Test("different lists of parts have different keys")
  func keys() {
    let keys = [
      KernelCache.key([[1, 2], [3]]), KernelCache.key([[1], [2, 3]]), KernelCache.key([[1, 2, 3]]),
      KernelCache.key([]), KernelCache.key([[]]),
    ]
    #expect(Set(keys).count == keys.count)
    #expect(keys.allSatisfy { $0.count == 64 })
  }
}

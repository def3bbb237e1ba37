import AutoEPCore
import AutoEPSystem
import CCUDA
import Glibc

/// NVIDIA's run-time compiler, looked up once per process, when the first CUDA context is created.
@safe
struct NVRTCLibrary: @unchecked Sendable {
  static let sonames = ["libnvrtc.so.13", "libnvrtc.so.12"]
  static let variable = "AUTOEP_NVRTC"
  private static let found = Locked<NVRTCLibrary?>(nil)
  /// Held during each compilation: NVRTC 13.0 occasionally crashes if two threads compile at once.
  private static let compiling = Locked(())

  /// The path or soname of the library.
  let name: String
  /// The major and minor version.
  let version: (major: Int, minor: Int)
  private let getErrorString: nvrtcGetErrorString_t
  private let createProgram: nvrtcCreateProgram_t
  private let destroyProgram: nvrtcDestroyProgram_t
  private let compileProgram: nvrtcCompileProgram_t
  private let getProgramLogSize: nvrtcGetProgramLogSize_t
  private let getProgramLog: nvrtcGetProgramLog_t
  private let getCUBINSize: nvrtcGetCUBINSize_t
  private let getCUBIN: nvrtcGetCUBIN_t

  /// The compiler of this process. The first call finds it; `path` is one of the places it looks in.
  static func shared(path: String?) throws(EngineError) -> NVRTCLibrary {
    try found.withLock { found throws(EngineError) in
      if let found { return found }
      let library = try find(environment: environmentValue(variable), path: path)
      found = library
      return library
    }
  }

  /// Opens the library named by the environment variable, else one that is already loaded, else `path`, else the one
  /// that the loader finds.
  static func find(environment: String?, path: String?) throws(EngineError) -> NVRTCLibrary {
    if let environment { return try open(environment, from: variable) }
    for soname in sonames {
      if let library = try? DynamicLibrary(loaded: soname) { return try use(library) }
    }
    if let path { return try open(path, from: "config.nvrtc_path") }
    for soname in sonames {
      if let library = try? DynamicLibrary(opening: soname) { return try use(library) }
    }
    throw missing("neither \(sonames.joined(separator: " nor ")) can be found")
  }

  private static func open(_ path: String, from source: String) throws(EngineError) -> NVRTCLibrary
  {
    do throws(LoaderError) {
      return try NVRTCLibrary(DynamicLibrary(opening: path))
    } catch {
      throw missing("\(error.reason) (\(source) is \(path))")
    }
  }

  private static func use(_ library: DynamicLibrary) throws(EngineError) -> NVRTCLibrary {
    do throws(LoaderError) {
      return try NVRTCLibrary(library)
    } catch {
      throw missing(error.reason)
    }
  }

  private static func missing(_ reason: String) -> EngineError {
    EngineError(
      .missingLibrary,
      """
      cannot compile CUDA kernels: \(reason). The library is NVIDIA's NVRTC, which comes with \
      PyTorch's CUDA packages and with `pip install nvidia-cuda-nvrtc`: hand its path in as \
      config.nvrtc_path or as \(variable)
      """)
  }

  private init(_ library: DynamicLibrary) throws(LoaderError) {
    name = library.name
    unsafe getErrorString = try library.function("nvrtcGetErrorString")
    unsafe createProgram = try library.function("nvrtcCreateProgram")
    unsafe destroyProgram = try library.function("nvrtcDestroyProgram")
    unsafe compileProgram = try library.function("nvrtcCompileProgram")
    unsafe getProgramLogSize = try library.function("nvrtcGetProgramLogSize")
    unsafe getProgramLog = try library.function("nvrtcGetProgramLog")
    unsafe getCUBINSize = try library.function("nvrtcGetCUBINSize")
    unsafe getCUBIN = try library.function("nvrtcGetCUBIN")
    let getVersion: nvrtcVersion_t = unsafe try library.function("nvrtcVersion")
    var (major, minor): (Int32, Int32) = (0, 0)
    guard unsafe getVersion(&major, &minor) == nvrtc_success else {
      throw LoaderError(reason: "\(library.name) does not report its version")
    }
    version = (Int(major), Int(minor))
    loadBuiltins(beside: library)
  }

  /// Loads the compiler's builtins library from the same folder, where the loader does not search. If it is not there,
  /// the compiler searches for it itself.
  private func loadBuiltins(beside library: DynamicLibrary) {
    guard let folder = library.folder(ofFunction: "nvrtcVersion") else { return }
    let name = "libnvrtc-builtins.so.\(version.major).\(version.minor)"
    _ = try? DynamicLibrary(opening: "\(folder)/\(name)")
  }

  /// An image and the compiler's log.
  struct Output {
    let image: [UInt8]
    let log: String
  }

  /// Compiles a source, which can include any kernel header; throws the compiler's log if that fails.
  func compile(_ source: [UInt8], name: String, options: [String]) throws(EngineError) -> Output {
    try Self.compiling.withLock { _ throws(EngineError) in
      try compileAlone(source, name: name, options: options)
    }
  }

  private func compileAlone(
    _ source: [UInt8], name: String, options: [String]
  ) throws(EngineError) -> Output {
    var program: nvrtc_program?
    let created = unsafe withCStrings([String(decoding: source, as: UTF8.self)]) { source in
      unsafe withCStrings(KernelHeader.all.map { String(decoding: $0.text, as: UTF8.self) }) {
        texts in
        unsafe withCStrings(KernelHeader.all.map(\.name)) { names in
          unsafe createProgram(
            &program, source[0], name, Int32(texts.count), texts.baseAddress, names.baseAddress)
        }
      }
    }
    try check("nvrtcCreateProgram", created)
    defer { _ = unsafe destroyProgram(&program) }
    let result = unsafe withCStrings(options) { options in
      unsafe compileProgram(program, Int32(options.count), options.baseAddress)
    }
    let log = try unsafe bytes(
      "nvrtcGetProgramLog", size: { unsafe getProgramLogSize(program, $0) },
      copy: { unsafe getProgramLog(program, $0) })
    let logText = String(decoding: log.prefix { $0 != 0 }, as: UTF8.self)
    try check(
      "nvrtcCompileProgram of \(name) with \(options.joined(separator: " "))", result, log: logText)
    let image = try unsafe bytes(
      "nvrtcGetCUBIN", size: { unsafe getCUBINSize(program, $0) },
      copy: { unsafe getCUBIN(program, $0) })
    return Output(image: image, log: logText)
  }

  /// Queries a size, then reads that many bytes.
  private func bytes(
    _ call: String, size: (UnsafeMutablePointer<Int>) -> nvrtc_result,
    copy: (UnsafeMutablePointer<CChar>) -> nvrtc_result
  ) throws(EngineError) -> [UInt8] {
    var count = 0
    try check("\(call)Size", unsafe size(&count))
    // One extra byte, so that the buffer has an address even for size 0.
    var bytes = [CChar](repeating: 0, count: count + 1)
    try check(call, unsafe copy(&bytes))
    return bytes.prefix(count).map { UInt8(bitPattern: $0) }
  }

  private func check(
    _ call: String, _ result: nvrtc_result, log: String = ""
  ) throws(EngineError) {
    guard result != nvrtc_success else { return }
    let text = unsafe getErrorString(result).map { unsafe String(cString: $0) }
    throw EngineError(.internal, "\(call): \(text ?? "the unknown error \(result)")\n\(log)")
  }
}

/// Lends an array of C strings to `body`.
private func withCStrings<Result>(
  _ texts: [String], _ body: (UnsafeMutableBufferPointer<UnsafePointer<CChar>?>) -> Result
) -> Result {
  let copies = unsafe texts.map { unsafe strdup($0) }
  defer { unsafe copies.forEach { copy in unsafe free(copy) } }
  var pointers = unsafe copies.map { unsafe UnsafePointer($0) }
  return unsafe pointers.withUnsafeMutableBufferPointer { unsafe body($0) }
}

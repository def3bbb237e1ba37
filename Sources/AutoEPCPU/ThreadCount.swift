import AutoEPCore
import AutoEPSystem
import CMicroKernels

/// The number of threads of a backend.
enum ThreadCount {
  private static let variable = "AUTOEP_NUM_THREADS"
  private static let allowed = 1...1024

  /// The requested number, else AUTOEP_NUM_THREADS, else the number of cores that this process may use.
  static func resolve(
    _ requested: Int?, environment: String? = environmentValue(variable)
  ) throws(EngineError) -> Int {
    if let requested { return try checked(requested, given: "\(requested)", for: "num_threads") }
    if let text = environment {
      return try checked(Int(text), given: "'\(text)'", for: variable)
    }
    return min(usable_cores(), allowed.upperBound)
  }

  private static func checked(
    _ count: Int?, given: String, for name: String
  ) throws(EngineError) -> Int {
    guard let count, allowed.contains(count) else {
      throw EngineError(
        .invalidArgument,
        "\(name) is \(given); expected a number from \(allowed.lowerBound) to "
          + "\(allowed.upperBound)")
    }
    return count
  }
}

/// The signs of a slow kernel in a compiler's log.
struct CompileLog {
  let text: String

  /// The lines that no kernel may have: warnings, ignored setmaxnreg (C7508), serialised WGMMA (C7509 to C7515), and
  /// register spills.
  var problems: [String] {
    text.split(separator: "\n").map(String.init).filter { line in
      ["warning", "C7508", "Performance Loss"].contains { line.contains($0) }
        || usesLocalMemory(line)
    }
  }

  /// Whether the log mentions at least one kernel.
  var tellsOfKernels: Bool { text.contains("bytes stack frame") }

  private func usesLocalMemory(_ line: String) -> Bool {
    let numbers = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/
    guard let match = line.firstMatch(of: numbers) else { return false }
    return [match.1, match.2, match.3].contains { $0 != "0" }
  }
}

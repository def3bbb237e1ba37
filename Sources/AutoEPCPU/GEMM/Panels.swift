/// The values of some columns at each depth, packed for a kernel: consecutive panels of a tile's columns,
/// of which the last may be narrower.
@safe
struct Panels {
  /// The columns of all panels, a multiple of a vector.
  let columns: Int
  /// The depth in words.
  let depth: Int
  let memory: UnsafeMutableRawPointer

  init(_ memory: UnsafeMutableRawPointer, columns: Int, depth: Int) {
    unsafe self.memory = unsafe memory
    self.columns = columns
    self.depth = depth
  }
}

/// For each depth the values of some columns, packed for a kernel: in panels of a tile's columns, one after
/// the other, the last one of what is left.
@safe
struct Panels {
  /// Of all panels, a multiple of whole vectors.
  let columns: Int
  /// In words.
  let depth: Int
  let memory: UnsafeMutableRawPointer

  init(_ memory: UnsafeMutableRawPointer, columns: Int, depth: Int) {
    unsafe self.memory = unsafe memory
    self.columns = columns
    self.depth = depth
  }
}

/// For each depth the values of some columns, packed for a kernel; or several such panels, one after the
/// other, all as wide as a tile but for the last.
@safe
struct Panel {
  let columns: Int
  let memory: UnsafeMutableRawPointer

  init(_ memory: UnsafeMutableRawPointer, columns: Int) {
    unsafe self.memory = unsafe memory
    self.columns = columns
  }
}

/// For each depth the values of some columns, packed for a kernel.
@safe
struct Panel {
  let columns: Int
  let memory: UnsafeMutableRawPointer

  init(_ memory: UnsafeMutableRawPointer, columns: Int) {
    unsafe self.memory = unsafe memory
    self.columns = columns
  }
}

/// Rows in transit between two ranks of this process.
struct Parcel: Sendable {
  let step: String
  let rows: Int
  let rowBytes: Int
  let bytes: TransportBuffer
}

/// Rows on their way from one rank of this process to another.
struct Parcel: Sendable {
  let step: String
  let rows: Int
  let rowBytes: Int
  let bytes: TransportBuffer
}

/// The experts of one rank when `numExperts` are split over `numRanks` as torch.chunk splits:
/// ceil(E/P) each, the last ranks fewer or none.
public func expertRange(numExperts: Int, numRanks: Int, rank: Int) -> Range<Int> {
  let perRank = (numExperts - 1) / numRanks + 1
  let first = min(rank * perRank, numExperts)
  return first..<min(first + perRank, numExperts)
}

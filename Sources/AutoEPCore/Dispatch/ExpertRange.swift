/// The experts of one rank when `numExperts` are sharded over `numRanks` as by torch.chunk: ceil(E/P) per rank,
/// fewer or none on the last ranks.
public func expertRange(numExperts: Int, numRanks: Int, rank: Int) -> Range<Int> {
  let perRank = (numExperts - 1) / numRanks + 1
  let first = min(rank * perRank, numExperts)
  return first..<min(first + perRank, numExperts)
}

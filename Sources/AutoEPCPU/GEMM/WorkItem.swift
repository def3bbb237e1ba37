/// A part of a grouped product that one thread makes.
struct WorkItem {
  let group: Int
  /// Rows of all groups.
  let rows: Range<Int>
  /// Columns of the result, or rows of a gradient.
  let features: Range<Int>

  /// Its rows times its features. Of a group without rows a gradient is cleared, which takes as long
  /// as one row; all features together are 0..<0.
  var area: Double { Double(max(rows.count, 1)) * Double(max(features.count, 1)) }

  /// Items take rows enough to make reading the weights cheap beside the products.
  private static var mostRows: Int { 288 }
  /// The most rows whose sums with a strip of columns stay in the cache.
  private static var mostPackedRows: Int { 768 }
  /// Items of a gradient take features enough to make packing the rows cheap.
  private static var leastFeatures: Int { 256 }
  /// Items a thread, at least, where there is enough to do: they even out unequal groups.
  private static var itemsPerThread: Int { 4 }

  /// Items of products of rows, all their features together: the largest first.
  static func products(
    _ groups: GroupRanges, features: Int, rowUnit: Int, threadCount: Int
  ) -> [WorkItem] {
    let rowCount = groups.rowCount
    let share = (rowCount / (threadCount * itemsPerThread)).roundedUp(to: rowUnit)
    let most = threadCount == 1 ? mostRows : max(min(share, mostRows), rowUnit)
    return groups.ranges.enumerated().flatMap { group, rows in
      rows.parts(most: most, unit: rowUnit).map {
        WorkItem(group: group, rows: $0, features: 0..<features)
      }
    }.sorted { $0.rows.count > $1.rows.count }
  }

  /// Items of products with weights that have to be packed: packing is shared by all rows of an item, and
  /// what packs different columns is cut between threads. The largest first.
  static func packedProducts(
    _ groups: GroupRanges, features: Int, featureUnit: Int, threadCount: Int
  ) -> [WorkItem] {
    let work = groups.rowCount * features
    let share = work / (threadCount * itemsPerThread)
    return groups.ranges.enumerated().flatMap { group, rows in
      rows.parts(most: mostPackedRows, unit: 1).flatMap { rows in
        (0..<features).parts(
          most: threadCount == 1 ? features : share / rows.count, unit: featureUnit
        ).map { WorkItem(group: group, rows: rows, features: $0) }
      }
    }.sorted { $0.rows.count * $0.features.count > $1.rows.count * $1.features.count }
  }

  /// Items of gradients of weights [features, width], all their rows together: the largest first.
  static func gradients(
    _ groups: GroupRanges, features: Int, width: Int, threadCount: Int
  ) -> [WorkItem] {
    guard width > 0 else { return [] }
    let work = groups.rowCount * features
    let share = max(work / (threadCount * itemsPerThread), 1)
    return groups.ranges.enumerated().flatMap { group, rows in
      let most = threadCount == 1 ? features : max(share / max(rows.count, 1), leastFeatures)
      return (0..<features).parts(most: most, unit: leastFeatures).map {
        WorkItem(group: group, rows: rows, features: $0)
      }
    }.sorted { $0.rows.count * $0.features.count > $1.rows.count * $1.features.count }
  }

  /// Cuts items by features too, where they are fewer than the threads want.
  static func split(_ items: [WorkItem], threadCount: Int) -> [WorkItem] {
    let parts = threadCount * itemsPerThread / max(items.count, 1)
    guard threadCount > 1, parts > 1 else { return items }
    return items.flatMap { item in
      let most = max(item.features.count / parts, leastFeatures)
      return item.features.parts(most: most, unit: leastFeatures).map {
        WorkItem(group: item.group, rows: item.rows, features: $0)
      }
    }
  }
}

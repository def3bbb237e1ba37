import Glibc
import Synchronization
import Testing

@testable import AutoEPCPU

@Suite struct ThreadPoolTests {
  @Test(arguments: [1, 2, 3, 8], [0, 1, 7, 1000])
  func eachItemIsDoneOnce(threads: Int, count: Int) {
    let pool = ThreadPool(threadCount: threads)
    for grain in [1, 3, 5000] {
      #expect(itemsDone(by: pool, count, grain) == Array(repeating: 1, count: count))
    }
  }

  @Test(arguments: [1, 1e9])
  func itemsAreDoneOnce(multiplyAdds: Double) {
    let done = Mutex([Int](repeating: 0, count: 50))
    ThreadPool(threadCount: 3).forEachItem(of: 50, multiplyAdds: multiplyAdds) { item in
      done.withLock { $0[item] += 1 }
    }
    #expect(done.withLock { $0 } == Array(repeating: 1, count: 50))
  }

  @Test func aSmallJobStaysOnItsCallersThread() {
    let caller = pthread_self()
    let strangers = Mutex(0)
    ThreadPool(threadCount: 4).forEachItem(of: 50, multiplyAdds: 1000) { _ in
      usleep(200)
      if pthread_equal(caller, pthread_self()) == 0 { strangers.withLock { $0 += 1 } }
    }
    #expect(strangers.withLock { $0 } == 0)
  }

  @Test func hostThreadsMayShareAPool() async {
    let pool = ThreadPool(threadCount: 2)
    await withTaskGroup(of: Bool.self) { group in
      for _ in 0..<8 {
        group.addTask {
          (0..<50).allSatisfy { _ in itemsDone(by: pool, 64, 1) == Array(repeating: 1, count: 64) }
        }
      }
      for await allDone in group { #expect(allDone) }
    }
  }

  @Test func aBodyMayUseThePool() {
    let pool = ThreadPool(threadCount: 3)
    let total = Mutex(0)
    pool.forEachRange(of: 6, grain: 1) { outer in
      pool.forEachRange(of: 10, grain: 1) { inner in
        total.withLock { $0 += outer.count * inner.count }
      }
    }
    #expect(total.withLock { $0 } == 60)
  }
}

private func itemsDone(by pool: ThreadPool, _ count: Int, _ grain: Int) -> [Int] {
  let done = Mutex([Int](repeating: 0, count: count))
  pool.forEachRange(of: count, grain: grain) { range in
    done.withLock { done in
      for item in range { done[item] += 1 }
    }
  }
  return done.withLock { $0 }
}

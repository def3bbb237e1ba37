import AutoEPSystem
import Testing

@Suite struct EnvironmentTests {
  @Test("a variable that is not set has no value")
  func values() {
    #expect(environmentValue("PATH") != nil)
    #expect(environmentValue("AUTOEP_NO_SUCH_VARIABLE") == nil)
  }
}

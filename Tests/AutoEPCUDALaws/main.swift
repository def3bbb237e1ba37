// Runs the laws of backends and dispatchers on CUDA device 0:
//   AutoEPCUDALaws [path of libnvrtc.so.*] [part of a law's name]
// Without a path, AUTOEP_NVRTC or the loader's search gives it. Prints one line per law; exits with 1 if one is broken.
// AUTOEP_CUDA_KERNELS=portable checks the products for devices other than Hopper.
import AutoEPCUDA
import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem
import Glibc

let arguments = Array(CommandLine.arguments.dropFirst())
do {
  let nvrtcPath =
    arguments.first.flatMap { $0.isEmpty ? nil : $0 } ?? environmentValue("AUTOEP_NVRTC")
  let device = try CUDADevice.shared(0, nvrtcPath: nvrtcPath)
  let filter = arguments.dropFirst().first ?? ""
  guard
    filter.isEmpty
      || (backendLawNames + dispatcherLawNames).contains(where: { $0.contains(filter) })
  else {
    print("no law's name contains '\(filter)'")
    exit(2)
  }
  exit(CUDALaws(device, filter: filter).run() ? 0 : 1)
} catch {
  print("cannot use CUDA device 0: \(error)")
  exit(1)
}

// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
]

// Loops over tensors: without optimisation the tests would take minutes more, and test other code than users run.
let computing = strict + [.unsafeFlags(["-O"])]

let testing: [SwiftSetting] = [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)]

// References are plain loops over large arrays: without optimisation they take minutes.
let laws = testing + [.unsafeFlags(["-O"])]

let package = Package(
  name: "autoep",
  products: [
    .library(name: "autoep", type: .dynamic, targets: ["AutoEPLibrary"])
  ],
  targets: [
    // The C ABI, as the compiler sees it: each export is checked against this header.
    .systemLibrary(name: "CAutoEP", path: "include"),
    // Typedefs of the OpenBLAS functions that are looked up at run time.
    .systemLibrary(name: "COpenBLAS", path: "Sources/COpenBLAS"),
    // SIMD micro-kernels, one file an ISA, chosen at run time by a table.
    .target(
      name: "CMicroKernels",
      cSettings: [.unsafeFlags(["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"])]),
    // glibc's dladdr, which Swift does not see.
    .systemLibrary(name: "CLoader", path: "Sources/CLoader"),
    // The error type, locks, the dynamic loader, the environment. Links nothing but glibc.
    .target(name: "AutoEPSystem", dependencies: ["CLoader"], swiftSettings: strict),
    // Plans, the maths that define the semantics, and the protocols. Links nothing.
    .target(name: "AutoEPCore", dependencies: ["AutoEPSystem"], swiftSettings: strict),
    // The CPU backend: packing, blocking, threads.
    .target(
      name: "AutoEPCPU",
      dependencies: ["AutoEPCore", "AutoEPSystem", "CMicroKernels", "COpenBLAS"],
      swiftSettings: computing),
    // Typedefs of the CUDA driver's and NVRTC's functions, which are looked up at run time.
    .systemLibrary(name: "CCUDA", path: "Sources/CCUDA"),
    // The numbers that kernels and their launches agree on; kernels include the same header.
    .systemLibrary(name: "CKernels", path: "Sources/CKernels"),
    // The CUDA backend: the driver, the kernels, and their compiler at run time.
    .target(
      name: "AutoEPCUDA", dependencies: ["AutoEPCore", "AutoEPSystem", "CCUDA", "CKernels"],
      resources: [.embedInCode("Kernels")], swiftSettings: strict),
    // A transport that the host supplies as a table of C functions.
    .target(
      name: "AutoEPCallback", dependencies: ["AutoEPCore", "AutoEPSystem", "CAutoEP"],
      swiftSettings: strict),
    // Opens libautoep_mpi.so, whose C source lives in CMPI: it fills such a table.
    .target(
      name: "AutoEPMPI", dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPCallback", "CAutoEP"],
      swiftSettings: strict),
    // Typedefs of NCCL's functions, which are looked up at run time.
    .systemLibrary(name: "CNCCL", path: "Sources/CNCCL"),
    // A transport between GPUs over NCCL.
    .target(
      name: "AutoEPNCCL", dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "CNCCL"],
      swiftSettings: strict),
    // Sockets that pass file descriptors between processes.
    .systemLibrary(name: "CDescriptors", path: "Sources/CDescriptors"),
    // A transport between the GPUs of one host, over memory that all of them map.
    .target(
      name: "AutoEPPush",
      dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "CKernels", "CDescriptors"],
      swiftSettings: strict),
    // The exports: checks, translation, composition.
    .target(
      name: "AutoEP",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCPU", "AutoEPCUDA", "AutoEPCallback", "AutoEPMPI",
        "AutoEPNCCL", "AutoEPPush", "CAutoEP",
      ],
      swiftSettings: strict),
    // libautoep.so: carries its own Swift runtime and exports autoep_* only.
    .target(
      name: "AutoEPLibrary", dependencies: ["AutoEP"], exclude: ["exports.map"],
      linkerSettings: [
        .unsafeFlags([
          // lld, because gold lets Swift symbols past the version script.
          "-static-stdlib", "-use-ld=lld",
          "-Xlinker",
          "--version-script=\(Context.packageDirectory)/Sources/AutoEPLibrary/exports.map",
        ])
      ]),
    // What every transport must do, checked by tests and under mpirun.
    .target(
      name: "AutoEPTransportLaws", dependencies: ["AutoEPCore", "AutoEPSystem"],
      path: "Tests/AutoEPTransportLaws",
      swiftSettings: testing),
    // Routers and activations in f64, with exact gradients: what backends are compared with.
    .target(
      name: "AutoEPReferences", dependencies: ["AutoEPCore"], path: "Tests/AutoEPReferences",
      swiftSettings: laws),
    // The laws of every token dispatcher and every backend. Tests check them, also under mpirun and on GPUs.
    .target(
      name: "AutoEPLayerLaws", dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPReferences"],
      path: "Tests/AutoEPLayerLaws", swiftSettings: laws),
    // The laws of transports and dispatchers over MPI; a test starts it with mpirun.
    .executableTarget(
      name: "AutoEPMPILaws",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCPU", "AutoEPMPI", "AutoEPTransportLaws",
        "AutoEPLayerLaws",
      ],
      path: "Tests/AutoEPMPILaws", swiftSettings: testing),
    // The laws of backends and dispatchers on a GPU, as a program for machines without Swift.
    .executableTarget(
      name: "AutoEPCUDALaws",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "AutoEPLayerLaws", "AutoEPDeviceLaws",
      ],
      path: "Tests/AutoEPCUDALaws", swiftSettings: testing),
    // The memory of a device for the laws, and a transport that moves every exchange through it.
    .target(
      name: "AutoEPDeviceLaws", dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPLayerLaws"],
      path: "Tests/AutoEPDeviceLaws", swiftSettings: testing),
    // The ids by which processes with a GPU each open groups over NCCL.
    .target(
      name: "AutoEPGroupIDs", dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPNCCL"],
      path: "Tests/AutoEPGroupIDs", swiftSettings: testing),
    // The laws of transports and dispatchers over NCCL, a process per GPU.
    .executableTarget(
      name: "AutoEPNCCLLaws",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "AutoEPNCCL", "AutoEPTransportLaws",
        "AutoEPLayerLaws", "AutoEPDeviceLaws", "AutoEPGroupIDs",
      ],
      path: "Tests/AutoEPNCCLLaws", swiftSettings: testing),
    // The laws of transports and dispatchers over memory that the GPUs of one host share, and the rates of rows there.
    .executableTarget(
      name: "AutoEPPushLaws",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "AutoEPNCCL", "AutoEPPush",
        "AutoEPTransportLaws", "AutoEPLayerLaws", "AutoEPDeviceLaws", "AutoEPGroupIDs",
      ],
      path: "Tests/AutoEPPushLaws", swiftSettings: testing),
    // The laws of transports over a fake NCCL, which moves memory between threads, and its failures.
    .testTarget(
      name: "AutoEPNCCLTests",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "AutoEPNCCL", "AutoEPTransportLaws",
        "AutoEPDeviceLaws", "FakeCUDA", "CNCCL",
      ],
      swiftSettings: testing),
    // The laws of transports over memory that the ranks' threads share, and the failures of such a group.
    .testTarget(
      name: "AutoEPPushTests",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCUDA", "AutoEPPush", "AutoEPTransportLaws",
        "AutoEPDeviceLaws", "FakeCUDA", "CKernels",
      ],
      swiftSettings: testing),
    // The laws on the CPU backend, and on wrong ones.
    .testTarget(
      name: "AutoEPLayerTests",
      dependencies: ["AutoEPCore", "AutoEPSystem", "AutoEPCPU", "AutoEPLayerLaws"],
      swiftSettings: testing),
    // Locks, the loader, the health of a group.
    .testTarget(
      name: "AutoEPSystemTests", dependencies: ["AutoEPSystem"], swiftSettings: testing),
    // The laws on every transport; MPI's by starting the program above.
    .testTarget(
      name: "AutoEPTransportTests",
      dependencies: [
        "AutoEPCore", "AutoEPSystem", "AutoEPCallback", "AutoEPMPI", "AutoEPTransportLaws",
        "AutoEPMPILaws",
        "CAutoEP",
      ],
      swiftSettings: testing),
    // The CPU backend against naive loops in f64.
    .testTarget(
      name: "AutoEPCPUTests",
      dependencies: ["AutoEPCPU", "AutoEPCore", "AutoEPSystem", "AutoEPReferences"],
      swiftSettings: strict),
    // A CUDA driver that only remembers what it is told, for tests on machines without one.
    .target(name: "FakeCUDA", path: "Tests/FakeCUDA", swiftSettings: testing),
    // The CUDA backend without a GPU: the cache, the loaders, and every kernel compiled.
    .testTarget(
      name: "AutoEPCUDATests",
      dependencies: [
        "AutoEPCUDA", "AutoEPCore", "AutoEPSystem", "CCUDA", "CKernels", "FakeCUDA",
      ],
      swiftSettings: testing),
    // The C interface, called as a C program calls it.
    .testTarget(
      name: "AutoEPTests",
      dependencies: ["AutoEP", "AutoEPCore", "AutoEPSystem", "CAutoEP", "FakeCUDA"],
      swiftSettings: testing),
  ]
)

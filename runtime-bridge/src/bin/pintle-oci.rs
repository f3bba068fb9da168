//! The runtime by the OCI command line, for containerd (`runtime_type = "io.containerd.runc.v2"`, `BinaryName = ".../pintle-oci"`).

use std::process::ExitCode;

fn main() -> ExitCode {
    pintle_runtime_bridge::oci::main()
}

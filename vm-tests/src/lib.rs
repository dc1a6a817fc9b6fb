//! Boots Firstlight machines under QEMU and tests them from outside.
//!
//! A complete test of a cluster:
//!
//! ```no_run
//! use vm_tests::cluster::testbed::Testbed;
//!
//! # fn main() -> anyhow::Result<()> {
//! let Some(mut testbed) = Testbed::new("forms", "ha")? else { return Ok(()) };
//! testbed.start_all()?;
//! testbed.wait_ready()?;
//! testbed.assert_healthy()?;
//! testbed.passed();
//! # Ok(())
//! # }
//! ```
//!
//! Each module uses only those above it:
//!
//! | module | contents |
//! | --- | --- |
//! | [`host`] | the host: accelerator, Debian tools, programs under test, evidence of a run |
//! | [`machine`] | one QEMU machine: disks, console, journal, commands in the guest |
//! | [`sealed_image`] | small images with encrypted state, which boot in seconds |
//! | [`net`] | the network between machines, and ports of the host that lead into it |
//! | [`initrd`] | machines with a kernel and one static program |
//! | [`control_plane`] | etcd and kube-apiserver as processes of the host, without a machine |
//! | [`cluster`] | the machines of a topology, saved clusters, invariants of a healthy cluster |
//! | [`power_cut`] | what power cuts leave of the disks of a recorded formation |
//! | [`observe`] | what clients on a worker see while something fails |
//! | [`conformance`] | Kubernetes' own conformance tests against a formed cluster |
//! | [`baseline`] | the same machines set up by scripts and kubeadm, for benchmarks |
//! | [`stats`] | median, spread and ratio of benchmark rounds |

pub mod baseline;
pub mod cluster;
pub mod conformance;
pub mod control_plane;
pub mod host;
pub mod initrd;
pub mod machine;
pub mod net;
pub mod observe;
pub mod power_cut;
pub mod sealed_image;
pub mod stats;

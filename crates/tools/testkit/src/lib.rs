//! What end-to-end tests stand on: clusters of the real binary, the real kubectl, test images, HTTP, and waiting.
//!
//! Nothing here sleeps for a fixed time in place of a condition: [`wait()`] looks again until a limit and reports the last
//! thing it saw.

pub mod bench;
pub mod cluster;
pub mod debian;
pub mod http;
pub mod images;
pub mod kubectl;
pub mod load;
pub mod node;
pub mod python;
pub mod second;
pub mod wait;

pub use cluster::Cluster;
pub use kubectl::{Kubectl, Outcome};
pub use python::python;
pub use second::{Namespace, SecondNode, free_port};
pub use wait::{wait, wait_for};

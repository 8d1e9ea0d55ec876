//! systemd as the maker of cgroups: slices and scopes begin, are bounded and end when it is told so over D-Bus. Writing
//! beside it would last until it looks again.
//!
//! - [`names`]: groups and the units that stand for them; pure.
//! - [`properties`]: limits as a unit's properties; pure.
//! - [`Systemd`]: the calls.
//! - `fake`: a bus and a systemd for tests.
//!
//! Source: systemd.slice(5), systemd.scope(5) and systemd.resource-control(5), org.freedesktop.systemd1(5), and the names that
//! upstream's kubelet and its runtimes agree on.

#[cfg(feature = "fake")]
pub mod fake;
mod manager;
pub mod names;
pub mod properties;

pub use manager::{BUS, Made, NotHere, Systemd, SystemdError};
pub use properties::Property;

//! Which pod holds which address: one file per address in a directory, so that a crash at any point leaves
//! either a whole allocation or none.
//!
//! The file is named for the address and holds the container, the interface and the host ports as JSON. It is
//! written under a temporary name and given its own by `link(2)`, which fails if the name is taken.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::hostports::HostPort;

/// Who holds an address, and what was published for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The sandbox's id at the runtime.
    pub container_id: String,
    /// The interface inside the pod, `eth0`.
    pub interface: String,
    /// Ports of the node forwarded to this pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// An address could not be given or returned.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Every address of the range is taken.
    #[error("no free address in {range}: {used} in use")]
    Exhausted {
        /// The node's pod CIDR.
        range: Cidr,
        /// How many addresses are taken.
        used: usize,
    },
    /// The directory cannot be read or written.
    #[error("address record {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The addresses of one node. Safe between processes: every change holds a lock on the directory.
#[derive(Debug)]
pub struct Addresses {
    directory: PathBuf,
    range: Cidr,
}

impl Addresses {
    /// The allocations kept in `directory` (made if missing), out of `range`. The first address is the network's, the second
    /// the gateway's and the last the broadcast address: none of them is given out.
    pub fn open(directory: &Path, range: Cidr) -> Result<Self, AddressError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| AddressError::Io { path: directory.to_owned(), source })?;
        Ok(Addresses { directory: directory.to_owned(), range })
    }

    /// The address the container already holds on this interface, or the next free one after the one given out last:
    /// an address is reused as late as possible, so that stale connections and caches do not meet a new pod.
    pub fn allocate(&self, wanted: &Allocation) -> Result<Ipv4Addr, AddressError> {
        let _lock = self.lock()?;
        let held = self.list()?;
        if let Some((address, _)) = held
            .iter()
            .find(|(_, a)| a.container_id == wanted.container_id && a.interface == wanted.interface)
        {
            return Ok(*address);
        }
        let last = fs::read_to_string(self.directory.join("last")).ok();
        let last = last.and_then(|text| text.trim().parse().ok()).and_then(|ip| self.range.offset_of(ip));
        let chosen = next_free(self.range, last, |ip| held.iter().any(|(taken, _)| *taken == ip))
            .ok_or(AddressError::Exhausted { range: self.range, used: held.len() })?;
        self.write(chosen, wanted)?;
        // Only a hint, so its loss in a crash costs nothing.
        let _ = fs::write(self.directory.join("last"), chosen.to_string());
        Ok(chosen)
    }

    /// Returns all addresses of a container's interface and says what was held. An unknown container holds none.
    pub fn release(
        &self,
        container_id: &str,
        interface: &str,
    ) -> Result<Vec<(Ipv4Addr, Allocation)>, AddressError> {
        let _lock = self.lock()?;
        let mut released = self.list()?;
        released.retain(|(_, a)| a.container_id == container_id && a.interface == interface);
        for (address, _) in &released {
            let path = self.directory.join(address.to_string());
            fs::remove_file(&path).map_err(|source| AddressError::Io { path, source })?;
        }
        Ok(released)
    }

    /// All allocations, by address. A record that does not parse still occupies its address.
    pub fn list(&self) -> Result<Vec<(Ipv4Addr, Allocation)>, AddressError> {
        let io = |source| AddressError::Io { path: self.directory.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let allocation = fs::read(entry.path())
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or(Allocation {
                    container_id: String::new(),
                    interface: String::new(),
                    host_ports: Vec::new(),
                });
            found.push((address, allocation));
        }
        found.sort_by_key(|(address, _)| *address);
        Ok(found)
    }

    fn write(&self, address: Ipv4Addr, allocation: &Allocation) -> Result<(), AddressError> {
        let temporary = self.directory.join(format!("new-{}", std::process::id()));
        let path = self.directory.join(address.to_string());
        let attempt = || -> io::Result<()> {
            let _ = fs::remove_file(&temporary);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(allocation)?)?;
            fs::hard_link(&temporary, &path)
        };
        let outcome = attempt();
        let _ = fs::remove_file(&temporary);
        outcome.map_err(|source| AddressError::Io { path, source })
    }

    fn lock(&self) -> Result<Flock<File>, AddressError> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| AddressError::Io { path: path.clone(), source })?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| AddressError::Io { path, source: errno.into() })
    }
}

/// The first free address after `last` (an offset), going round. Pure.
fn next_free(range: Cidr, last: Option<u64>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    // Offsets 2 to size-2: not the network, the gateway, or the broadcast address.
    let first = 2;
    let end = range.size().saturating_sub(1);
    let count = end.checked_sub(first).filter(|count| *count > 0)?;
    let start = last.map_or(0, |last| (last + 1).saturating_sub(first));
    (0..count)
        .map(|step| first + (start + step) % count)
        .filter_map(|offset| range.nth(offset))
        .find(|address| !taken(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(id: &str) -> Allocation {
        Allocation { container_id: id.to_owned(), interface: "eth0".to_owned(), host_ports: Vec::new() }
    }

    #[test]
    fn gives_each_container_its_own_address_and_the_same_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(dir.path(), "10.1.0.0/29".parse().unwrap()).unwrap();
        let a = addresses.allocate(&allocation("a")).unwrap();
        let b = addresses.allocate(&allocation("b")).unwrap();
        assert_eq!((a, b), (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)));
        assert_eq!(addresses.allocate(&allocation("a")).unwrap(), a);
    }

    #[test]
    fn a_returned_address_is_reused_last_and_exhaustion_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(dir.path(), "10.1.0.0/29".parse().unwrap()).unwrap();
        let a = addresses.allocate(&allocation("a")).unwrap();
        assert_eq!(addresses.release("a", "eth0").unwrap().len(), 1);
        let mut seen = Vec::new();
        for id in ["b", "c", "d", "e", "f"] {
            seen.push(addresses.allocate(&allocation(id)).unwrap());
        }
        assert_eq!(seen.last(), Some(&a));
        let error = addresses.allocate(&allocation("g")).unwrap_err();
        assert_eq!(error.to_string(), "no free address in 10.1.0.0/29: 5 in use");
        assert!(addresses.release("nobody", "eth0").unwrap().is_empty());
    }

    #[test]
    fn a_torn_record_keeps_its_address_occupied() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(dir.path(), "10.1.0.0/29".parse().unwrap()).unwrap();
        fs::write(dir.path().join("10.1.0.2"), "{\"contai").unwrap();
        assert_eq!(addresses.allocate(&allocation("a")).unwrap(), Ipv4Addr::new(10, 1, 0, 3));
    }

    #[test]
    fn concurrent_callers_never_share_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let got: Vec<Ipv4Addr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|t| {
                    let path = dir.path();
                    scope.spawn(move || {
                        let addresses = Addresses::open(path, "10.1.0.0/24".parse().unwrap()).unwrap();
                        (0..10)
                            .map(|i| addresses.allocate(&allocation(&format!("{t}-{i}"))).unwrap())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        let unique: std::collections::HashSet<_> = got.iter().collect();
        assert_eq!((got.len(), unique.len()), (80, 80));
    }

    proptest::proptest! {
        #[test]
        fn next_free_is_free_and_within(last in proptest::option::of(0u64..70), taken in proptest::collection::hash_set(0u64..64, 0..64)) {
            let range: Cidr = "10.9.8.0/26".parse().unwrap();
            let free = next_free(range, last, |ip| taken.contains(&range.offset_of(ip).unwrap()));
            let any_free = (2..63).any(|o| !taken.contains(&o));
            proptest::prop_assert_eq!(free.is_some(), any_free);
            if let Some(ip) = free {
                let offset = range.offset_of(ip).unwrap();
                proptest::prop_assert!((2..63).contains(&offset) && !taken.contains(&offset));
            }
        }
    }
}

//! What cAdvisor tells of the machine as a whole: the families `machine_*`, and the rows of the container `/`.

use std::{collections::BTreeSet, fs, path::PathBuf};

use nix::sys::statvfs::statvfs;

use crate::server::{host::Host, metrics::Text};

/// A file system of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) device: String,
    pub(super) capacity: u64,
    pub(super) used: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// Writes the families that are about nothing but the machine.
pub(super) fn write(text: &mut Text, host: &dyn Host) {
    let (cores, sockets) = host.cores_and_sockets();
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let [machine, system, boot] = host.machine_ids();
    let labels = [("boot_id", boot), ("machine_id", machine), ("system_uuid", system)];
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", host.cpus()),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", number(cores)),
        ("machine_cpu_sockets", "Number of CPU sockets.", number(sockets)),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", host.memory_bytes()),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", host.swap_bytes()),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &labels, value);
    }
    let name = "machine_scrape_error";
    text.family(name, "gauge", "1 if there was an error while getting machine metrics, 0 otherwise.");
    text.sample(name, &[], 0);
}

/// The file systems that hold something: on devices, and in memory. Blocking.
pub(super) fn file_systems() -> Vec<FileSystem> {
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let measured = mounts.into_iter().filter_map(|(device, at)| {
        let found = statvfs(&at).ok()?;
        let size = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Some(FileSystem {
            device,
            capacity: size(found.blocks()),
            used: size(found.blocks().saturating_sub(found.blocks_free())),
            inodes: found.files(),
            inodes_free: found.files_free(),
        })
    });
    measured.filter(|one| one.capacity > 0).collect()
}

/// Where file systems are mounted, each once, by the names that cAdvisor gives to their devices: of one in memory that is where it
/// is mounted. Those of pods are theirs.
fn mounts(table: &str) -> Vec<(String, PathBuf)> {
    // Blanks and the like are written as octal escapes.
    let unescape = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (mut left, mut right) = (left.split(' '), right.split(' '));
        let (Some(numbers), Some(at)) = (left.nth(2), left.nth(1)) else { continue };
        let (Some(kind), Some(source)) = (right.next(), right.next()) else { continue };
        let device = match kind {
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" => unescape(source),
            "tmpfs" if !at.contains("/kubernetes.io~") => unescape(at),
            _ => continue,
        };
        if seen.insert(numbers) {
            found.push((device, PathBuf::from(unescape(at))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_once() {
        let table = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:20 / /proc rw - proc proc rw\n\
            24 22 0:21 / /dev/my\\040shm rw - tmpfs tmpfs rw\n\
            25 22 8:1 /var/x /x rw shared:1 - ext4 /dev/sda1 rw\n\
            26 22 0:30 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s rw - tmpfs tmpfs rw\n\
            27 22 0:40 / /m rw - overlay overlay rw\n\
            odd\n";
        assert_eq!(
            mounts(table),
            [("/dev/sda1".to_owned(), "/".into()), ("/dev/my shm".to_owned(), "/dev/my shm".into())]
        );
    }

    #[test]
    fn this_machine_has_some() {
        // In a container there may be none of a kind that counts.
        for one in file_systems() {
            assert!(one.used <= one.capacity && one.inodes_free <= one.inodes, "{one:?}");
        }
    }
}

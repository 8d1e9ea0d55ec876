//! Which images go: pure. Order and rules are upstream's (`pkg/kubelet/images/image_gc_manager.go`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podium_cri::v1;

use crate::{backoff::elapsed, pod};

/// What is remembered of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    first_detected: Timestamp,
    /// None: never used since the kubelet started.
    last_used: Option<Timestamp>,
    bytes: u64,
    pinned: bool,
}

/// An image that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unused {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    last_used: Option<Timestamp>,
    first_detected: Timestamp,
}

/// All images by id.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<String, Record>);

impl Records {
    /// Takes note of what is here now. The answer is what may go, the longest unused first.
    pub(crate) fn see(&mut self, images: &[v1::Image], used: &Used, now: Timestamp) -> Vec<Unused> {
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let new = Record { first_detected: now, last_used: None, bytes: 0, pinned: false };
            let record = self.0.entry(image.id.clone()).or_insert(new);
            (record.bytes, record.pinned) = (image.size, image.pinned);
            if used.has(image) {
                record.last_used = Some(now);
            } else if !record.pinned {
                unused.push(Unused {
                    id: image.id.clone(),
                    bytes: record.bytes,
                    last_used: record.last_used,
                    first_detected: record.first_detected,
                });
            }
        }
        unused.sort_by(|a, b| {
            (a.last_used, a.first_detected, &a.id).cmp(&(b.last_used, b.first_detected, &b.id))
        });
        unused
    }
}

/// The names that containers, and pods whose containers are yet to be made, have of images.
#[derive(Debug, Default)]
pub(crate) struct Used(BTreeSet<String>);

impl Used {
    pub(crate) fn of<'a>(containers: &[v1::Container], pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut names = BTreeSet::new();
        for one in containers {
            names.extend([one.image_ref.clone(), one.image_id.clone()]);
            names.extend(one.image.iter().map(|image| image.image.clone()));
        }
        names.remove("");
        for pod in pods {
            let ephemeral = pod::ephemeral_containers(pod);
            let containers = pod::containers(pod).iter().chain(pod::init_containers(pod)).chain(&ephemeral);
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let wanted = containers
                .filter_map(|container| container.image.clone())
                .chain(volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone()));
            for name in wanted {
                let full = podium_cri::normalize_image_name(&name).ok();
                names.extend(full.as_deref().and_then(without_tag));
                names.extend(full);
                names.insert(name);
            }
        }
        Self(names)
    }

    fn has(&self, image: &v1::Image) -> bool {
        let mut names = std::iter::once(&image.id).chain(&image.repo_tags).chain(&image.repo_digests);
        names.any(|name| self.0.contains(name))
    }
}

/// A whole name that has both a tag and a digest, as runtimes list it: by its digest.
fn without_tag(full: &str) -> Option<String> {
    let (path, digest) = full.split_once('@')?;
    let slash = path.rfind('/').map_or(0, |at| at + 1);
    let colon = path[slash..].find(':')?;
    Some(format!("{}@{digest}", &path[..slash + colon]))
}

/// Those not used for longer than `most`, which nobody knows before the kubelet itself has run so long.
pub(crate) fn old(unused: &[Unused], most: Duration, began: Timestamp, now: Timestamp) -> Vec<Unused> {
    if most.is_zero() || elapsed(began, now) <= most {
        return Vec::new();
    }
    let since = |one: &&Unused| one.last_used.is_none_or(|at| elapsed(at, now) > most);
    unused.iter().filter(since).cloned().collect()
}

/// Those that are not so young that a container may be about to use them.
pub(crate) fn grown(unused: &[Unused], least: Duration, now: Timestamp) -> Vec<Unused> {
    unused.iter().filter(|one| elapsed(one.first_detected, now) >= least).cloned().collect()
}

/// A file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
}

impl Disk {
    fn used_percent(self) -> u64 {
        let available = self.available.min(self.capacity);
        100 - available.saturating_mul(100) / self.capacity.max(1)
    }

    /// How much to free to come down to `low` percent; None while use is below `high` percent.
    pub(crate) fn excess(self, high: u8, low: u8) -> Option<u64> {
        if self.used_percent() < u64::from(high) {
            return None;
        }
        let wanted = self.capacity / 100 * u64::from(100 - low.min(100));
        Some(wanted.saturating_sub(self.available))
    }

    /// That too little could be freed, in upstream's words.
    pub(crate) fn not_enough(self, freed: u64) -> String {
        format!(
            "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by \
             deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, \
             logs, volumes, or other data.",
            self.used_percent(),
            shown(self.capacity)
        )
    }
}

fn shown(bytes: u64) -> String {
    let mut divisor: u64 = 1;
    for (unit, next) in
        [("B", 1_u64 << 10), ("KiB", 1 << 20), ("MiB", 1 << 30), ("GiB", 1 << 40), ("TiB", u64::MAX)]
    {
        if bytes < next || unit == "TiB" {
            let tenths = u128::from(bytes) * 10 / u128::from(divisor);
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            };
        }
        divisor = next;
    }
    unreachable!("the last unit takes everything")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn image(id: &str, tag: &str, bytes: u64) -> v1::Image {
        v1::Image { id: id.into(), repo_tags: vec![tag.into()], size: bytes, ..Default::default() }
    }

    fn ids(unused: &[Unused]) -> Vec<&str> {
        unused.iter().map(|one| one.id.as_str()).collect()
    }

    fn used(names: &[&str]) -> Used {
        Used(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let images = [image("a", "r/a:1", 1), image("b", "r/b:1", 2), image("c", "r/c:1", 3)];
        let mut records = Records::default();
        assert_eq!(ids(&records.see(&images, &used(&["a", "r/b:1"]), at(0))), ["c"]);
        assert_eq!(ids(&records.see(&images, &used(&["a"]), at(10))), ["c", "b"]);
        let after = records.see(&images, &used(&[]), at(20));
        assert_eq!(ids(&after), ["c", "b", "a"]);
        assert_eq!(ids(&old(&after, Duration::from_secs(15), at(0), at(20))), ["c", "b"]);
        assert_eq!(ids(&old(&after, Duration::from_secs(15), at(10), at(20))), [] as [&str; 0]);
        assert_eq!(ids(&old(&after, Duration::ZERO, at(0), at(20))), [] as [&str; 0]);
        let more = [images[1].clone(), image("d", "r/d:1", 4)];
        let after = records.see(&more, &used(&[]), at(30));
        assert_eq!(ids(&after), ["d", "b"]);
        assert_eq!(ids(&grown(&after, Duration::from_secs(20), at(30))), ["b"]);
        let pinned = [v1::Image { pinned: true, ..image("p", "r/p:1", 9) }];
        assert!(records.see(&pinned, &used(&[]), at(40)).is_empty());
    }

    #[test]
    fn what_pods_are_about_to_use_counts() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "app:v1"}, {"name": "d", "image": format!("q.io:5000/both:v1@{digest}")}],
            "volumes": [{"name": "v", "image": {"reference": "data:v1"}}]}}))
        .unwrap();
        let container = v1::Container { image_ref: "id-x".into(), ..Default::default() };
        let used = Used::of(&[container], [&pod]);
        for (id, tag, expected) in [
            ("1", "docker.io/library/app:v1", true),
            ("2", "docker.io/library/data:v1", true),
            ("id-x", "other:v1", true),
            ("3", "docker.io/library/app:v2", false),
        ] {
            assert_eq!(used.has(&image(id, tag, 1)), expected, "{tag}");
        }
        let digests =
            |name: String| v1::Image { id: "4".into(), repo_digests: vec![name], ..Default::default() };
        assert!(used.has(&digests(format!("q.io:5000/both@{digest}"))));
        assert!(!used.has(&digests(format!("q.io:5000/other@{digest}"))));
    }

    #[test]
    fn disks() {
        let disk = |available| Disk { capacity: 1000 << 20, available };
        assert_eq!(disk(200 << 20).excess(85, 80), None);
        assert_eq!(disk(100 << 20).excess(85, 80), Some(100 << 20));
        assert_eq!(disk(150 << 20).excess(85, 80), Some(50 << 20));
        assert!(disk(100 << 20).not_enough(7).contains("(90% of 1000.0 MiB used). Failed to free sufficient space by deleting unused images (freed 7 bytes)."));
        assert_eq!(
            (shown(12), shown(1536), shown(3 << 40)),
            ("12 B".into(), "1.5 KiB".into(), "3.0 TiB".into())
        );
    }
}

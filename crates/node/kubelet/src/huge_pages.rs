//! Huge pages: which sizes the machine has, how resources, runtimes and volumes name them, and who may have how many.

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::api::core::v1::{Container, Pod};
use podium_api::quantity::Quantity;
use podium_cri::v1;

use crate::{pod, resources};

/// What resources of huge pages are named after.
pub(crate) const PREFIX: &str = "hugepages-";
/// Where the kernel keeps its pages.
pub(crate) const KERNEL: &str = "/sys/kernel/mm/hugepages";

/// The size of a page in bytes, a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageSize(u64);

impl PageSize {
    fn new(bytes: u64) -> Option<Self> {
        bytes.is_power_of_two().then_some(Self(bytes))
    }

    /// The size that a directory of the kernel's is about: `hugepages-2048kB`.
    pub(crate) fn of_directory(name: &str) -> Option<Self> {
        let kib: u64 = name.strip_prefix(PREFIX)?.strip_suffix("kB")?.parse().ok()?;
        Self::new(kib.checked_mul(1024)?)
    }

    /// The size that a resource is about: `hugepages-2Mi`.
    pub(crate) fn of_resource(name: &str) -> Option<Self> {
        let size: Quantity = name.strip_prefix(PREFIX)?.parse().ok()?;
        Self::new(u64::try_from(size.value()).ok()?)
    }

    pub(crate) fn bytes(self) -> u64 {
        self.0
    }

    /// The resource of pages of this size.
    pub(crate) fn resource(self) -> String {
        format!("{PREFIX}{}", binary(self.0))
    }

    /// As the kernel's groups and runtimes name it: `2MB`.
    pub(crate) fn group_name(self) -> String {
        let (number, bits) = largest_unit(self.0);
        format!("{number}{}", ["B", "KB", "MB", "GB", "TB"][bits / 10])
    }
}

/// The number and the power of two of the largest unit that divides it.
fn largest_unit(bytes: u64) -> (u64, usize) {
    let bits =
        [40, 30, 20, 10].into_iter().find(|bits| bytes != 0 && bytes.is_multiple_of(1 << bits)).unwrap_or(0);
    (bytes >> bits, bits)
}

/// Bytes as quantities write them.
pub(crate) fn binary(bytes: u64) -> String {
    let (number, bits) = largest_unit(bytes);
    format!("{number}{}", ["", "Ki", "Mi", "Gi", "Ti"][bits / 10])
}

/// A set of sizes: as each is a power of two, the sum of them says which they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PageSizes(u64);

impl PageSizes {
    pub(crate) fn iter(self) -> impl Iterator<Item = PageSize> {
        (0..u64::BITS).map(|bit| 1 << bit).filter(move |size| self.0 & size != 0).map(PageSize)
    }
}

impl FromIterator<PageSize> for PageSizes {
    fn from_iter<I: IntoIterator<Item = PageSize>>(sizes: I) -> Self {
        Self(sizes.into_iter().fold(0, |all, size| all | size.0))
    }
}

/// The bytes that a directory of the kernel's has set aside as pages, by their size: those of the machine, or of a node of it.
pub(crate) fn read(directory: &Path) -> BTreeMap<PageSize, u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let size = PageSize::of_directory(&entry.file_name().to_string_lossy())?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
            let count: u64 = count.trim().parse().unwrap_or(0);
            Some((size, count.saturating_mul(size.0)))
        })
        .collect()
}

/// What a container may have of each size that the machine has: its own limit, or else the pod's as a whole, or none.
pub(crate) fn limits(pod: &Pod, container: &Container, sizes: PageSizes) -> Vec<v1::HugepageLimit> {
    let whole = resources::of_pod(pod);
    let limit = |size: PageSize| {
        let name = size.resource();
        let own = resources::limit(container.resources.as_ref(), &name);
        let bytes = own.or_else(|| resources::limit(whole, &name)).map_or(0, |limit| limit.value());
        v1::HugepageLimit { page_size: size.group_name(), limit: u64::try_from(bytes).unwrap_or(0) }
    };
    sizes.iter().map(limit).collect()
}

/// The size of page of an emptyDir volume of a medium of huge pages: the one in the medium's name, or the only one that the pod
/// asks for. The error is upstream's text.
pub(crate) fn of_medium(medium: &str, pod: &Pod) -> Result<PageSize, String> {
    let whole = resources::of_pod(pod);
    let containers = pod::containers(pod).iter().chain(pod::init_containers(pod));
    let mut asked: Vec<PageSize> = containers
        .filter_map(|container| container.resources.as_ref())
        .chain(whole)
        .flat_map(|resources| resources.requests.iter().flatten())
        .filter_map(|(name, _)| PageSize::of_resource(name))
        .collect();
    asked.sort();
    asked.dedup();
    if let Some(size) = medium.strip_prefix("HugePages-") {
        let size = PageSize::of_resource(&format!("{PREFIX}{size}"));
        asked.retain(|asked| Some(*asked) == size);
    }
    match asked[..] {
        [size] => Ok(size),
        [] => Err(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )),
        _ => Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn size(name: &str) -> PageSize {
        PageSize::of_resource(&format!("{PREFIX}{name}")).unwrap()
    }

    fn pod(containers: &[Value], whole: &Value) -> Pod {
        let containers: Vec<Value> =
            containers.iter().map(|resources| json!({"name": "c", "resources": resources})).collect();
        serde_json::from_value(json!({"spec": {"containers": containers, "resources": whole}})).unwrap()
    }

    #[test]
    fn names() {
        for (directory, resource, group) in [
            ("hugepages-64kB", "hugepages-64Ki", "64KB"),
            ("hugepages-2048kB", "hugepages-2Mi", "2MB"),
            ("hugepages-1048576kB", "hugepages-1Gi", "1GB"),
        ] {
            let size = PageSize::of_directory(directory).unwrap();
            assert_eq!((size.resource().as_str(), size.group_name().as_str()), (resource, group));
            assert_eq!(PageSize::of_resource(resource), Some(size));
        }
        assert_eq!(PageSize::of_resource("hugepages-2048Ki"), Some(size("2Mi")));
        assert_eq!(PageSize::of_resource("hugepages-3Mi"), None);
        assert_eq!((binary(0).as_str(), binary(6 << 20).as_str(), binary(1).as_str()), ("0", "6Mi", "1"));
        let sizes: PageSizes = [size("1Gi"), size("2Mi"), size("2Mi")].into_iter().collect();
        assert_eq!(sizes.iter().collect::<Vec<_>>(), [size("2Mi"), size("1Gi")]);
    }

    #[test]
    fn the_kernels_directory_is_read() {
        let directory = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n"), ("other", "1\n")] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        let found = read(directory.path());
        assert_eq!(found, BTreeMap::from([(size("2Mi"), 6 << 20), (size("1Gi"), 0)]));
        assert!(read(&directory.path().join("none")).is_empty());
    }

    #[test]
    fn what_containers_may_have() {
        let sizes = [size("2Mi"), size("1Gi")].into_iter().collect();
        let pages = |amount: &str| json!({"limits": {"hugepages-2Mi": amount, "hugepages-64Ki": "64Ki"}});
        for (own, whole, expected) in [
            (json!({}), json!(null), 0),
            (pages("4Mi"), json!(null), 4 << 20),
            (json!({}), pages("8Mi"), 8 << 20),
            (pages("4Mi"), pages("8Mi"), 4 << 20),
        ] {
            let pod = pod(std::slice::from_ref(&own), &whole);
            let limits = limits(&pod, &pod::containers(&pod)[0], sizes);
            let shown: Vec<_> = limits.iter().map(|one| (one.page_size.as_str(), one.limit)).collect();
            assert_eq!(shown, [("2MB", expected), ("1GB", 0)], "{own} {whole}");
        }
    }

    #[test]
    fn pages_of_volumes() {
        let asks = |name: &str| json!({"requests": {name: "1Gi"}});
        let (small, large) = (asks("hugepages-2Mi"), asks("hugepages-1Gi"));
        let both = pod(&[small.clone(), large.clone()], &json!(null));
        let one = pod(&[small.clone(), small], &json!(null));
        assert_eq!(of_medium("HugePages", &one), Ok(size("2Mi")));
        assert_eq!(of_medium("HugePages-1Gi", &both), Ok(size("1Gi")));
        assert_eq!(
            of_medium("HugePages", &pod(&[json!({})], &large)),
            Ok(size("1Gi")),
            "by the pod as a whole"
        );
        assert!(of_medium("HugePages", &both).unwrap_err().contains("multiple huge page sizes"));
        for medium in ["HugePages-1Gi", "HugePages-x"] {
            assert!(of_medium(medium, &one).unwrap_err().contains("no resource request for huge pages"));
        }
    }
}

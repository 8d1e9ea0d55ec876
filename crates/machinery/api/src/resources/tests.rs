//! The table against the discovery documents of a v1.36 API server.

use super::*;

#[test]
fn looks_up_by_url_name_and_kind() {
    let pods = find("", "v1", "pods").unwrap();
    assert_eq!(pods.kind, "Pod");
    assert!(std::ptr::eq(pods, by_kind("", "v1", "Pod").unwrap()));
    assert!(find("apps", "v1beta1", "deployments").is_none());
    let eviction = pods.subresource("eviction").unwrap();
    assert_eq!(eviction.group_version(pods), ("policy", "v1"));
    assert_eq!(pods.subresource("status").unwrap().group_version(pods), ("", "v1"));
}

#[test]
fn storage_versions_are_served() {
    for r in all().iter().filter(|r| r.is_stored()) {
        assert!(by_kind(r.storage_group, r.storage_version, r.kind).is_some(), "{r:?}");
    }
}

#[test]
fn versions_of_a_group_are_together() {
    let order: Vec<_> = all().iter().map(|r| (r.group, r.version)).collect();
    let mut seen = vec![];
    for gv in order {
        if seen.last() != Some(&gv) {
            assert!(!seen.contains(&gv), "{gv:?} is split");
            seen.push(gv);
        }
    }
}

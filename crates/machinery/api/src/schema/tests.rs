//! The table is complete and agrees with upstream's published OpenAPI document.

use super::*;
use crate::resources;

#[test]
fn every_served_kind_has_a_type_and_a_list() {
    for r in resources::all() {
        assert!(type_of(r.group, r.version, r.kind).is_some(), "{}/{} {}", r.group, r.version, r.kind);
        if r.allows("list") {
            let list = format!("{}List", r.kind);
            assert!(type_of(r.group, r.version, &list).is_some(), "{}/{} {list}", r.group, r.version);
        }
    }
}

#[test]
fn types_and_fields_are_sorted_and_descriptions_line_up() {
    let names: Vec<_> = all().map(TypeId::name).collect();
    assert!(names.is_sorted());
    for id in all() {
        assert!(id.fields().is_sorted_by_key(|f| f.name), "{}", id.name());
    }
    let pod = type_of("", "v1", "Pod").unwrap();
    assert!(pod.description().starts_with("Pod is a collection of containers"), "{}", pod.description());
    let spec = by_name("core.v1.PodSpec").unwrap();
    let containers = spec.field_index("containers").unwrap();
    assert!(spec.field_description(containers).starts_with("List of containers belonging to the pod"));
    let last = all().last().unwrap();
    assert!(!last.description().is_empty());
}

#[test]
fn knows_merge_keys_embedded_structs_and_go_types() {
    let spec = by_name("core.v1.PodSpec").unwrap();
    let containers = spec.field("containers").unwrap();
    assert_eq!((containers.merge_key(), containers.merges()), (Some("name"), true));
    assert_eq!(containers.list_map_keys(), ["name"]);
    assert_eq!(containers.go_type(), "[]v1.Container");
    let volumes = spec.field("volumes").unwrap();
    assert!(volumes.merges() && volumes.retains_keys());
    let volume = by_name("core.v1.Volume").unwrap();
    assert_eq!(volume.field("emptyDir").unwrap().tags, [2, 2, 0]);
    let container = by_name("core.v1.Container").unwrap();
    assert_eq!(container.field("imagePullPolicy").unwrap().go_type(), "v1.PullPolicy");
    assert_eq!(by_name("apps.v1.DeploymentSpec").unwrap().field("replicas").unwrap().go_type(), "int32");
    let limits = by_name("core.v1.ResourceRequirements").unwrap().field("limits").unwrap();
    assert_eq!(limits.go_type(), "v1.ResourceList");
}

#[test]
fn meta_kinds_are_in_every_group() {
    assert_eq!(type_of("apps", "v1", "DeleteOptions"), by_name("meta.v1.DeleteOptions"));
    assert_eq!(type_of("", "v1", "Status"), by_name("meta.v1.Status"));
    assert_eq!(type_of("apps", "v1", "Nothing"), None);
}

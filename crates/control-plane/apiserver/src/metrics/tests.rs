//! Names and labels that dashboards look for.

use std::time::Duration;

use super::*;
use crate::catalogue::Catalogue;

#[test]
fn text_has_upstreams_names() {
    let metrics = Metrics::default();
    let pods =
        Catalogue::built_in(&podium_api::resources::Selection::default()).find("", "v1", "pods").unwrap();
    let labels = Labels {
        verb: "GET",
        resource: Some(Resource(Arc::clone(&pods))),
        subresource: None,
        path: "",
        scope: "resource",
        dry_run: "",
    };
    let series = metrics.series(&labels);
    series.answered(200, "", Some(Duration::from_millis(7)), Duration::from_millis(1), Some(5000));
    metrics.series(&labels).terminated(504);
    metrics.watch(&pods).sent(1500);
    metrics.committed("create", &pods.prefix, Duration::from_millis(1), false);
    metrics.committed("create", &pods.prefix, Duration::from_millis(1), true);
    let counted = metrics.kind(&pods);
    counted.body("create", 60_000);
    counted.body("deletecollection", 10);
    counted.body("get", 10);
    counted.listed(7, 5);
    counted.waited(Duration::from_millis(30));
    let kind = Stored { group: "apps".to_owned(), resource: "deployments".to_owned(), objects: 3, bytes: 12 };
    let text = metrics.render(&[kind], 42);
    let rest = "group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"";
    for row in [
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",system_client=\"\",verb=\"GET\",version=\"v1\"} 1".to_owned(),
        format!("apiserver_request_duration_seconds_bucket{{component=\"apiserver\",dry_run=\"\",{rest},le=\"0.005\"}} 0"),
        format!("apiserver_request_duration_seconds_bucket{{component=\"apiserver\",dry_run=\"\",{rest},le=\"0.025\"}} 1"),
        format!("apiserver_request_sli_duration_seconds_bucket{{component=\"apiserver\",{rest},le=\"0.05\"}} 1"),
        format!("apiserver_response_sizes_bucket{{component=\"apiserver\",{rest},le=\"10000\"}} 1"),
        format!("apiserver_response_sizes_bucket{{component=\"apiserver\",{rest},le=\"1e+09\"}} 1"),
        format!("apiserver_request_terminations_total{{code=\"504\",component=\"apiserver\",{rest}}} 1"),
        "apiserver_watch_events_total{group=\"\",resource=\"pods\",version=\"v1\"} 1".to_owned(),
        "apiserver_watch_events_sizes_bucket{group=\"\",resource=\"pods\",version=\"v1\",le=\"2048\"} 1".to_owned(),
        "apiserver_storage_objects{resource=\"deployments.apps\"} 3".to_owned(),
        "apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} 3".to_owned(),
        "etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"pods\"} 2".to_owned(),
        "etcd_requests_total{group=\"\",operation=\"create\",resource=\"pods\"} 2".to_owned(),
        "etcd_request_errors_total{group=\"\",operation=\"create\",resource=\"pods\"} 1".to_owned(),
        "apiserver_watch_cache_resource_version{group=\"apps\",resource=\"deployments\"} 42".to_owned(),
        "apiserver_watch_cache_read_wait_seconds_bucket{group=\"\",resource=\"pods\",le=\"0.025\"} 0".to_owned(),
        "apiserver_watch_cache_read_wait_seconds_bucket{group=\"\",resource=\"pods\",le=\"0.05\"} 1".to_owned(),
        "apiserver_cache_list_total{group=\"\",index=\"\",resource=\"pods\"} 1".to_owned(),
        "apiserver_cache_list_fetched_objects_total{group=\"\",index=\"\",resource=\"pods\"} 7".to_owned(),
        "apiserver_cache_list_returned_objects_total{group=\"\",resource=\"pods\"} 5".to_owned(),
        "apiserver_request_body_size_bytes_bucket{group=\"\",resource=\"pods\",verb=\"create\",le=\"50000\"} 0".to_owned(),
        "apiserver_request_body_size_bytes_bucket{group=\"\",resource=\"pods\",verb=\"create\",le=\"3.05e+06\"} 1".to_owned(),
        "apiserver_request_body_size_bytes_count{group=\"\",resource=\"pods\",verb=\"delete_collection\"} 1".to_owned(),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == row), "{row}\nis not in\n{text}");
    }
    assert!(!text.contains("verb=\"get\""), "what does not write has no body");
    assert!(!text.contains("apiserver_storage_list_total{"), "the engine was not asked");
    // Every metric has its two lines of head, once.
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
    }
    assert!(!text.contains('\u{0}'));
}

#[test]
fn the_most_of_the_last_second() {
    let mark = Watermark::default();
    mark.change(1);
    mark.change(1);
    mark.change(-1);
    assert_eq!(mark.most(), 2);
}

#[test]
fn components_are_known_by_their_user_agent() {
    assert_eq!(system_client(Some("kube-scheduler/v1.36.0 (linux/amd64)")), "kube-scheduler");
    assert_eq!(system_client(Some("kubectl/v1.36.0")), "");
    assert_eq!(system_client(None), "");
}

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
    metrics.committed("create", &pods.prefix, Duration::from_millis(1));
    let kind = Stored { group: "apps".to_owned(), resource: "deployments".to_owned(), objects: 3, bytes: 12 };
    let text = metrics.render(&[kind]);
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
        "etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"pods\"} 1".to_owned(),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == row), "{row}\nis not in\n{text}");
    }
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

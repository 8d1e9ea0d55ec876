//! Durations and shared cells.

use serde_json::json;

use super::*;

#[test]
fn durations() {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    for (seconds, text) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (312, "5m12s"),
        (10 * MINUTE + 5, "10m"),
        (179 * MINUTE, "179m"),
        (180 * MINUTE, "3h"),
        (3 * HOUR + 40 * MINUTE, "3h40m"),
        (8 * HOUR + MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY, "2d"),
        (2 * DAY + 3 * HOUR, "2d3h"),
        (8 * DAY + HOUR, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (731 * DAY, "2y1d"),
        (9 * 365 * DAY, "9y"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn ages() {
    let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
    for (then, text) in [
        (json!("2026-01-01T23:59:30Z"), "30s"),
        (json!("2026-01-01T23:59:30.900000Z"), "29s"),
        (json!("2026-01-02T00:00:05Z"), "<invalid>"),
        (json!(null), "<unknown>"),
    ] {
        assert_eq!(since(&then, now), text, "{then}");
    }
    let object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(name_age_row(&object, now), [json!("a"), json!("24h")]);
}

#[test]
fn selectors_and_labels() {
    assert_eq!(selector(&json!({"matchLabels": {"app": "web"}})), "app=web");
    assert_eq!(selector(&json!({})), "<none>");
    assert_eq!(selector(&Value::Null), "<none>");
    assert_eq!(labels(&json!({"labels": {"b": "2", "a": "1"}}), "labels"), "a=1,b=2");
    assert_eq!(labels(&json!({}), "labels"), "<none>");
}

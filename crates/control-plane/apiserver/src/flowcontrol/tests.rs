//! Requests passing through: classes, waiting, leaving, being turned away.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::json;

use super::*;
use crate::metrics::Watermark;
use crate::request;

/// One level with one queue of one place and one seat, for everybody.
fn narrow() -> Arc<FlowControl> {
    let control = FlowControl::new(1, Duration::from_millis(200));
    let mut levels = defaults::levels();
    levels.retain(|level| level["metadata"]["name"] == "global-default");
    levels[0]["spec"]["limited"]["limitResponse"]["queuing"] =
        json!({"queues": 1, "handSize": 1, "queueLengthLimit": 1});
    control.configure(&defaults::schemas(), &levels);
    Arc::new(control)
}

async fn admit(control: &FlowControl, user: &User) -> (Option<Classified>, Result<Seats, Refusal>) {
    let info = request::parse(&Method::GET, "/api/v1/namespaces/a/pods/b", "");
    control.admit(user, &info, &Query::default(), None, &Watermark::default()).await
}

fn waiting(control: &FlowControl) -> usize {
    control.current.read().levels.iter().map(|level| level.state.lock().queues.waiting()).sum()
}

fn person() -> User {
    User::new("jane", &["system:authenticated"])
}

async fn until_waiting(control: &FlowControl, count: usize) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while waiting(control) != count {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the request joins its queue");
}

#[tokio::test]
async fn who_waits_begins_when_a_seat_is_free() {
    let control = narrow();
    let (_, first) = admit(&control, &person()).await;
    let first = first.unwrap();
    let second = tokio::spawn({
        let control = Arc::clone(&control);
        async move { admit(&control, &person()).await.1.map(|_| ()) }
    });
    until_waiting(&control, 1).await;
    drop(first);
    assert_eq!(second.await.unwrap(), Ok(()));
    assert_eq!(waiting(&control), 0);
}

#[tokio::test(start_paused = true)]
async fn too_many_and_too_long() {
    let control = narrow();
    let first = admit(&control, &person()).await.1.unwrap();
    let second = tokio::spawn({
        let control = Arc::clone(&control);
        async move { admit(&control, &person()).await.1.map(|_| ()) }
    });
    until_waiting(&control, 1).await;
    // The queue is full; the administrator's requests are not limited.
    assert_eq!(admit(&control, &person()).await.1.map(|_| ()), Err(Refusal { retry_after: 1 }));
    assert!(admit(&control, &User::new("admin", &["system:masters"])).await.1.is_ok());
    assert_eq!(second.await.unwrap(), Err(Refusal { retry_after: 1 }), "its patience ended");
    assert_eq!(waiting(&control), 0);
    drop(first);
    let mut text = String::new();
    control.render(&mut text);
    for reason in ["queue-full", "time-out"] {
        let row = format!(
            "apiserver_flowcontrol_rejected_requests_total{{flow_schema=\"global-default\",priority_level=\"global-default\",reason=\"{reason}\"}} 1"
        );
        assert!(text.contains(&row), "{text}");
    }
}

#[tokio::test]
async fn how_full_levels_are_is_told() {
    let control = narrow();
    let text = |control: &FlowControl| {
        let mut text = String::new();
        control.render(&mut text);
        text
    };
    let value = |text: &str, row: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(row)?.trim().parse().ok())
    };
    let level = "priority_level=\"global-default\"";
    let executing = format!(
        "apiserver_flowcontrol_priority_level_request_utilization_sum{{phase=\"executing\",{level}}}"
    );
    let next = format!("apiserver_flowcontrol_next_s_bounds{{bound=\"min\",{level}}}");
    let idle = text(&control);
    assert_eq!((value(&idle, &executing), value(&idle, &next)), (Some(0.0), None), "{idle}");
    let first = admit(&control, &person()).await.1.unwrap();
    let second = tokio::spawn({
        let control = Arc::clone(&control);
        async move { admit(&control, &person()).await.1.map(|_| ()) }
    });
    until_waiting(&control, 1).await;
    let busy = text(&control);
    assert!(value(&busy, &executing) > Some(0.0) && value(&busy, &next).is_some(), "{busy}");
    assert!(value(&busy, &format!("apiserver_flowcontrol_demand_seats_count{{{level}}}")) > Some(0.0));
    assert!(value(&busy, &format!("apiserver_flowcontrol_current_r{{{level}}}")).is_some());
    drop(first);
    assert_eq!(second.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn who_leaves_gives_up_the_place() {
    let control = narrow();
    let first = admit(&control, &person()).await.1.unwrap();
    let second = tokio::spawn({
        let control = Arc::clone(&control);
        async move { admit(&control, &person()).await.1.map(|_| ()) }
    });
    until_waiting(&control, 1).await;
    second.abort();
    assert!(second.await.is_err());
    assert_eq!(waiting(&control), 0);
    drop(first);
    assert!(admit(&control, &person()).await.1.is_ok(), "the seat is free again");
}

#[tokio::test]
async fn a_level_that_goes_lets_its_requests_end() {
    let control = narrow();
    let first = admit(&control, &person()).await.1.unwrap();
    let second = tokio::spawn({
        let control = Arc::clone(&control);
        async move { admit(&control, &person()).await.1.map(|_| ()) }
    });
    until_waiting(&control, 1).await;
    control.configure(&defaults::schemas(), &[]);
    drop(first);
    assert_eq!(second.await.unwrap(), Ok(()));
    let (classified, seats) = admit(&control, &person()).await;
    assert!(seats.is_ok() && classified.is_some(), "the catch-all takes what nothing else does");
}

//! Schedules, decisions, and the controller against a server.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{
    CronJob, CronJobSpec, CronJobStatus, Job, JobCondition, JobSpec, JobStatus, JobTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Decision, Observed, decide, job_name, with_job};
use super::schedule::{Schedule, latest};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{controlled_by, meta, template};

fn ts(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn schedules_say_what_comes_next() {
    for (schedule, zone, after, expected) in [
        ("* * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        ("*/15 * * * *", "UTC", "2026-01-01T00:46:00Z", "2026-01-01T01:00:00Z"),
        ("5/20 * * * *", "UTC", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
        ("30 4 1,15 * *", "UTC", "2026-01-01T04:30:00Z", "2026-01-15T04:30:00Z"),
        ("0 0 13 * FRI", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("0 0 * * mon-tue", "UTC", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("@hourly", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
        ("@yearly", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@every 1h30m", "UTC", "2026-01-01T00:00:05Z", "2026-01-01T01:30:05Z"),
        ("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z"),
        // The hour that summer time skips does not come that day.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
    ] {
        let zone = if zone == "UTC" {
            TimeZone::UTC
        } else {
            TimeZone::get(zone).expect("time zone data is installed")
        };
        let next = Schedule::parse(schedule, &zone).unwrap().next(ts(after));
        assert_eq!(next, Some(ts(expected)), "{schedule}");
    }
    let never = Schedule::parse("0 0 30 2 *", &TimeZone::UTC).unwrap();
    assert_eq!(never.next(ts("2026-01-01T00:00:00Z")), None);
    for bad in [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "x * * * *",
        "@often",
        "@every x",
        "* * * * 7",
    ] {
        assert!(Schedule::parse(bad, &TimeZone::UTC).is_err(), "{bad}");
    }
}

/// Where clocks are set forward an hour is missing, where they are set back one comes twice, and a leap day is rare.
#[test]
fn times_that_do_not_exist_and_times_that_come_twice() {
    let berlin = TimeZone::get("Europe/Berlin").expect("time zone data is installed");
    let utc = TimeZone::UTC;
    for (case, schedule, zone, after, expected) in [
        ("in the gap", "30 2 * * *", &berlin, "2026-03-28T12:00:00Z", &["2026-03-30T00:30:00Z"][..]),
        (
            "across the gap",
            "30 * * * *",
            &berlin,
            "2026-03-29T00:00:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"],
        ),
        (
            "in the overlap",
            "30 2 * * *",
            &berlin,
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        (
            "across the overlap",
            "*/30 * * * *",
            &berlin,
            "2026-10-25T00:20:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
        ),
        (
            "leap day",
            "0 0 29 2 *",
            &utc,
            "2026-01-01T00:00:00Z",
            &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
        ),
    ] {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        let mut moment = ts(after);
        for expected in expected {
            moment = schedule.next(moment).unwrap();
            assert_eq!(moment, ts(expected), "{case}");
        }
    }
}

/// What `latest` finds, and how often it asks for a next time.
fn latest_of(schedule: &str, zone: &TimeZone, since: &str, now: &str) -> (Option<Timestamp>, usize) {
    let (schedule, asked) = (Schedule::parse(schedule, zone).unwrap(), std::cell::Cell::new(0));
    let next = |after| {
        asked.set(asked.get() + 1);
        schedule.next(after)
    };
    let first = schedule.next(ts(since)).filter(|first| *first <= ts(now));
    (first.map(|first| latest(next, first, ts(now))), asked.get())
}

#[test]
fn the_latest_time_is_found_in_a_few_steps() {
    let year = "2025-01-01T00:00:00Z";
    for (schedule, now, expected) in [
        ("* 0-11 * * *", "2026-01-01T23:00:00Z", "2026-01-01T11:59:00Z"),
        ("* * * * *", "2026-01-01T23:00:00.5Z", "2026-01-01T23:00:00Z"),
        ("* * 1 2 *", "2026-01-31T23:59:59Z", "2025-02-01T23:59:00Z"),
        ("0 0 * * *", "2025-01-02T00:00:00Z", "2025-01-02T00:00:00Z"),
        ("0 0 1 1 *", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    ] {
        let (found, asked) = latest_of(schedule, &TimeZone::UTC, year, now);
        assert_eq!(found, Some(ts(expected)), "{schedule}");
        assert!(asked < 60, "{schedule}: {asked}");
    }
    let every = Schedule::parse("@every 90m", &TimeZone::UTC).unwrap();
    assert_eq!(
        every.latest(ts("2026-01-01T00:00:05Z"), ts("2026-01-01T04:30:04Z")),
        ts("2026-01-01T03:00:05Z")
    );
    assert_eq!(
        every.latest(ts("2026-01-01T00:00:05Z"), ts("2026-01-01T04:30:05Z")),
        ts("2026-01-01T04:30:05Z")
    );
}

proptest::proptest! {
    // Walking takes its time.
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// It is the time that going through them one by one ends at, also where clocks are set back and forth.
    #[test]
    fn the_latest_time_is_where_walking_ends(
        schedule in proptest::sample::select(vec!["*/7 * * * *", "30 1-3 * * *", "5,50 2 * * *", "0 22 * * 6", "* 0-11 * * *"]),
        spring in proptest::bool::ANY,
        begin in 0..150_000i64,
        length in 0..60_000i64,
    ) {
        let berlin = TimeZone::get("Europe/Berlin").expect("time zone data is installed");
        let origin = ts(if spring { "2026-03-27T12:00:00Z" } else { "2026-10-23T12:00:00Z" }).as_second();
        let (since, now) = (crate::testing::at(origin + begin), crate::testing::at(origin + begin + length));
        let parsed = Schedule::parse(schedule, &berlin).unwrap();
        let walk = std::iter::successors(parsed.next(since), |time| parsed.next(*time));
        let expected = walk.take_while(|time| *time <= now).last();
        let (found, _) = latest_of(schedule, &berlin, &since.to_string(), &now.to_string());
        proptest::prop_assert_eq!(found, expected);
    }
}

const CREATED: &str = "2026-01-01T00:00:30Z";

fn cron(schedule: &str) -> CronJob {
    let mut metadata = meta("nightly");
    metadata.creation_timestamp = Some(Time(ts(CREATED)));
    let spec = JobSpec { template: template(&[], "v1"), ..JobSpec::default() };
    CronJob {
        metadata,
        spec: CronJobSpec {
            schedule: schedule.to_owned(),
            job_template: JobTemplateSpec { metadata: None, spec: Some(spec) },
            successful_jobs_history_limit: Some(1),
            failed_jobs_history_limit: Some(1),
            ..CronJobSpec::default()
        },
        status: None,
    }
}

fn edited(mut cron: CronJob, edit: impl FnOnce(&mut CronJobSpec)) -> CronJob {
    edit(&mut cron.spec);
    cron
}

fn job(cron: &CronJob, due: &str, end: Option<&str>) -> Job {
    let mut metadata = meta(&job_name(cron, ts(due)));
    metadata.owner_references = Some(vec![controlled_by("batch/v1", "CronJob", "nightly")]);
    let condition = |type_: &str| JobCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(ts(due))),
        ..JobCondition::default()
    };
    let status = JobStatus {
        start_time: Some(Time(ts(due))),
        completion_time: end.filter(|end| *end == "Complete").map(|_| Time(ts(due))),
        conditions: end.map(|end| vec![condition(end)]),
        ..JobStatus::default()
    };
    Job { metadata, spec: None, status: Some(status) }
}

fn running(cron: &CronJob, due: &str) -> CronJob {
    let status = with_job(CronJobStatus::default(), &job(cron, due, None), ts(due));
    CronJob { status: Some(status), ..cron.clone() }
}

fn decided(cron: &CronJob, jobs: Vec<Job>, now: &str) -> Decision {
    let jobs: Vec<_> = jobs.into_iter().map(Arc::new).collect();
    decide(&Observed { cron, jobs: &jobs }, ts(now))
}

fn reasons(decision: &Decision) -> Vec<&str> {
    decision.events.iter().map(|event| event.1).collect()
}

#[test]
fn jobs_are_made_when_their_time_comes() {
    let every = cron("*/10 * * * *");
    let early = decided(&every, vec![], "2026-01-01T00:09:00Z");
    assert_eq!((early.create.is_none(), early.next_check), (true, Some(ts("2026-01-01T00:10:00Z"))));
    let due = decided(&every, vec![], "2026-01-01T00:10:00Z");
    let created = due.create.unwrap();
    assert_eq!(created.metadata.name.as_deref(), Some("nightly-29453770"));
    let stamp = &created.metadata.annotations.unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(stamp, "2026-01-01T00:10:00Z");
    let late = decided(&every, vec![], "2026-01-01T01:05:00Z");
    assert_eq!(late.scheduled, Some(ts("2026-01-01T01:00:00Z")), "only the latest");
    assert_eq!(reasons(&decided(&every, vec![], "2026-01-09T00:00:00Z")), ["TooManyMissedTimes"]);
    let strict = edited(every.clone(), |spec| spec.starting_deadline_seconds = Some(60));
    assert!(decided(&strict, vec![], "2026-01-01T00:12:00Z").create.is_none(), "too late");
    assert!(decided(&strict, vec![], "2026-01-01T00:10:30Z").create.is_some());
    let suspended = edited(every, |spec| spec.suspend = Some(true));
    assert_eq!(decided(&suspended, vec![], "2026-01-01T00:10:00Z"), Decision::default());
}

#[test]
fn policies_decide_what_happens_to_a_running_job() {
    let first = "2026-01-01T00:10:00Z";
    let second = "2026-01-01T00:20:00Z";
    let with = |policy: &str| {
        running(
            &edited(cron("*/10 * * * *"), |spec| spec.concurrency_policy = Some(policy.to_owned())),
            first,
        )
    };
    let now = |cron: &CronJob| decided(cron, vec![job(cron, first, None)], second);
    let allowed = now(&with("Allow"));
    assert!(allowed.create.is_some() && allowed.delete.is_empty());
    let forbidden = now(&with("Forbid"));
    assert!(forbidden.create.is_none());
    assert_eq!(reasons(&forbidden), ["JobAlreadyActive"]);
    let replaced = now(&with("Replace"));
    assert_eq!((replaced.create.is_some(), replaced.delete.len()), (true, 1));
    assert!(replaced.status.unwrap().active.is_none());
    let again = with("Allow");
    assert!(decided(&again, vec![job(&again, first, None)], "2026-01-01T00:10:05Z").create.is_none(), "once");
}

#[test]
fn ends_are_noted_and_old_jobs_dropped() {
    let first = "2026-01-01T00:10:00Z";
    let cron = running(&cron("*/10 * * * *"), first);
    let done = decided(&cron, vec![job(&cron, first, Some("Complete"))], "2026-01-01T00:12:00Z");
    let status = done.status.clone().unwrap();
    assert_eq!((status.active, status.last_successful_time), (None, Some(Time(ts(first)))));
    assert_eq!(reasons(&done), ["SawCompletedJob"]);
    assert!(done.delete.is_empty());
    let times = ["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z", "2026-01-01T00:03:00Z"];
    let jobs: Vec<Job> = times
        .iter()
        .map(|due| job(&cron, due, Some("Complete")))
        .chain([job(&cron, first, Some("Failed"))])
        .collect();
    let dropped = decided(&cron, jobs, "2026-01-01T00:12:00Z").delete;
    let names: Vec<_> = dropped.iter().map(|job| job.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, [job_name(&cron, ts(times[0])), job_name(&cron, ts(times[1]))]);
    let lost = decided(&cron, vec![], "2026-01-01T00:12:00Z");
    assert_eq!(reasons(&lost), ["MissingJob"]);
    let bad = self::cron("nonsense");
    assert_eq!(reasons(&decided(&bad, vec![], first)), ["UnparseableSchedule"]);
}

#[tokio::test(start_paused = true)]
async fn the_clock_makes_jobs() {
    let api = FakeApi::default();
    let forbid = edited(cron("*/5 * * * *"), |spec| spec.concurrency_policy = Some("Forbid".to_owned()));
    api.create("batch/cronjobs", &forbid);
    let clock = crate::testing::at(1_000_000);
    api.edit("batch/cronjobs", "ns", "nightly", |cron| {
        cron["metadata"]["creationTimestamp"] = clock.to_string().into();
    });
    let running = Running::start(&api, &["cronjob-controller"]);
    let jobs = |api: &FakeApi| api.list::<Job>("batch/jobs");
    crate::testing::pass(301).await;
    api.until("the first", |_| {}, |api| jobs(api).len() == 1).await;
    crate::testing::pass(300).await;
    assert_eq!(jobs(&api).len(), 1, "it still runs");
    let name = jobs(&api)[0].metadata.name.clone().unwrap();
    api.edit("batch/jobs", "ns", &name, |job| {
        job["status"] = serde_json::json!({"completionTime": "1970-01-12T14:00:00Z", "conditions":
            [{"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-12T14:00:00Z"}]});
    });
    api.until("the next", |_| {}, |api| jobs(api).len() == 2).await;
    let status = api.get::<CronJob>("batch/cronjobs", "ns", "nightly").unwrap().status.unwrap();
    assert_eq!(status.active.unwrap_or_default().len(), 1);
    running.stop().await;
}

//! What one CronJob needs next.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_client::EventType;

use super::schedule::Schedule;
use crate::clock;
use crate::job;
use crate::owner;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told about. Source: `mostRecentScheduleTime`.
const MANY: i64 = 100;

/// What the caches show. The shell has waited until they show all that was written for the CronJob.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) cron: &'a CronJob,
    /// The Jobs it controls.
    pub(crate) jobs: &'a [Arc<Job>],
}

/// To be carried out in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// Jobs to delete: replaced ones, and finished ones beyond the history.
    pub(crate) delete: Vec<Arc<Job>>,
    pub(crate) create: Option<Job>,
    pub(crate) events: Vec<(EventType, &'static str, String)>,
    /// The new status, when it is another one; without the Job to be created.
    pub(crate) status: Option<CronJobStatus>,
    /// The time that the Job to be created is for.
    pub(crate) scheduled: Option<Timestamp>,
    pub(crate) next_check: Option<Timestamp>,
}

/// Chooses what one CronJob needs next. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, now: Timestamp) -> Decision {
    let spec = &seen.cron.spec;
    let mut work = Work {
        cron: seen.cron,
        spec,
        jobs: seen.jobs,
        now,
        status: seen.cron.status.clone().unwrap_or_default(),
        out: Decision::default(),
    };
    work.follow_jobs();
    work.trim_history();
    if seen.cron.metadata.deletion_timestamp.is_none() {
        work.schedule();
    }
    work.finish()
}

struct Work<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    jobs: &'a [Arc<Job>],
    now: Timestamp,
    status: CronJobStatus,
    out: Decision,
}

/// Whether the Job has ended, and well.
fn ended(job: &Job) -> Option<bool> {
    job::finished_at(job)?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    Some(conditions.iter().any(|it| it.type_ == "Complete" && it.status == "True"))
}

impl Work<'_> {
    fn warn(&mut self, reason: &'static str, message: String) {
        self.out.events.push((EventType::Warning, reason, message));
    }

    fn tell(&mut self, reason: &'static str, message: String) {
        self.out.events.push((EventType::Normal, reason, message));
    }

    fn is_active(&self, job: &Job) -> bool {
        self.status.active.iter().flatten().any(|it| it.uid == job.metadata.uid)
    }

    fn forget(&mut self, uid: Option<&String>) {
        if let Some(active) = &mut self.status.active {
            active.retain(|it| it.uid.as_ref() != uid);
        }
    }

    /// Brings the list of active Jobs up to date.
    fn follow_jobs(&mut self) {
        for job in self.jobs {
            let name = owner::name(&job.metadata);
            match (ended(job), self.is_active(job)) {
                (None, false) => {
                    self.warn(
                        "UnexpectedJob",
                        format!("Saw a job that the controller did not create or forgot: {name}"),
                    );
                }
                (Some(well), true) => {
                    let condition = if well { "Complete" } else { "Failed" };
                    self.tell(
                        "SawCompletedJob",
                        format!("Saw completed job: {name}, condition: {condition}"),
                    );
                    self.forget(job.metadata.uid.as_ref());
                }
                _ => {}
            }
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            if ended(job) == Some(true) && completed > self.status.last_successful_time {
                self.status.last_successful_time = completed;
            }
        }
        let missing: Vec<ObjectReference> = self
            .status
            .active
            .iter()
            .flatten()
            .filter(|active| !self.jobs.iter().any(|job| job.metadata.uid == active.uid))
            .cloned()
            .collect();
        for active in missing {
            self.tell(
                "MissingJob",
                format!("Active job went missing: {}", active.name.clone().unwrap_or_default()),
            );
            self.forget(active.uid.as_ref());
        }
    }

    /// Drops the oldest finished Jobs beyond what is to be kept.
    fn trim_history(&mut self) {
        let limits =
            [(true, self.spec.successful_jobs_history_limit), (false, self.spec.failed_jobs_history_limit)];
        for (well, limit) in limits {
            let Some(limit) = limit else { continue };
            let mut finished: Vec<_> =
                self.jobs.iter().filter(|job| ended(job) == Some(well)).cloned().collect();
            finished.sort_by_key(|job| {
                (
                    job.status.as_ref().and_then(|status| status.start_time.clone()),
                    owner::name(&job.metadata).to_owned(),
                )
            });
            finished.truncate(finished.len().saturating_sub(usize::try_from(limit).unwrap_or_default()));
            for job in finished {
                self.forget(job.metadata.uid.as_ref());
                self.out.delete.push(job);
            }
        }
    }

    /// Makes the Job whose time has come.
    fn schedule(&mut self) {
        if self.spec.suspend == Some(true) {
            return;
        }
        let zone = match self.zone() {
            Ok(zone) => zone,
            Err(message) => return self.warn("UnknownTimeZone", message),
        };
        let schedule = match Schedule::parse(&self.spec.schedule, &zone) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: \"{}\" : {error}", self.spec.schedule);
                return self.warn("UnparseableSchedule", message);
            }
        };
        self.out.next_check = schedule.next(self.now);
        let Some((due, missed)) = self.due(&schedule) else { return };
        if missed > MANY {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", message.to_owned());
        }
        if self.spec.starting_deadline_seconds.is_some_and(|limit| clock::after(due, limit) < self.now) {
            let when = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
            return self.warn("MissSchedule", format!("Missed scheduled time to start a job: {when}"));
        }
        let name = job_name(self.cron, due);
        let last = self.status.last_schedule_time.as_ref().map(|time| time.0);
        if last == Some(due) || self.status.active.iter().flatten().any(|it| it.name.as_ref() == Some(&name))
        {
            return;
        }
        let running = self.status.active.iter().flatten().count();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if running > 0 => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.tell("JobAlreadyActive", message.to_owned());
            }
            Some("Replace") => self.replace_running(),
            _ => {}
        }
        self.out.create = Some(self.new_job(name, due, zone));
        self.out.scheduled = Some(due);
    }

    fn zone(&self) -> Result<TimeZone, String> {
        match self.spec.time_zone.as_deref() {
            None | Some("") => Ok(TimeZone::UTC),
            // The host's table may be newer than the binary's, but hosts need not have one.
            Some(name) => TimeZone::get(name)
                .or_else(|error| podium_api::time_zone::get(name).ok_or(error))
                .map_err(|error| format!("invalid timeZone: \"{name}\": {error}")),
        }
    }

    /// The latest time that has come and gone unused, and how many have.
    fn due(&self, schedule: &Schedule) -> Option<(Timestamp, i64)> {
        let created = self.cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut since = self.status.last_schedule_time.as_ref().map(|time| time.0).or(created)?;
        if let Some(limit) = self.spec.starting_deadline_seconds {
            since = since.max(clock::after(self.now, -limit));
        }
        let first = schedule.next(since).filter(|first| *first <= self.now)?;
        let second = schedule.next(first)?;
        let interval = (second.as_second() - first.as_second()).max(1);
        let missed = (self.now.as_second() - first.as_second()) / interval + 1;
        Some((schedule.latest(first, self.now), missed))
    }

    fn replace_running(&mut self) {
        let active = self.status.active.take().unwrap_or_default();
        let running = self.jobs.iter().filter(|job| active.iter().any(|it| it.uid == job.metadata.uid));
        self.out.delete.extend(running.cloned());
    }

    fn new_job(&self, name: String, due: Timestamp, zone: TimeZone) -> Job {
        let template = &self.spec.job_template;
        let source = template.metadata.clone().unwrap_or_default();
        let mut annotations = source.annotations.unwrap_or_default();
        let local = due.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        annotations.insert(SCHEDULED.to_owned(), local.replace("+00:00", "Z"));
        Job {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.cron.metadata.namespace.clone(),
                labels: source.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![owner::controller_reference(self.cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    }

    fn finish(mut self) -> Decision {
        self.status.active.take_if(|active| active.is_empty());
        self.out.status =
            (self.cron.status.clone().unwrap_or_default() != self.status).then_some(self.status);
        self.out
    }
}

/// The Job of that time: its name says which minute, so that no time gets two.
pub(crate) fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", owner::name(&cron.metadata), due.as_second() / 60)
}

/// The status once the Job is there.
pub(crate) fn with_job(mut status: CronJobStatus, job: &Job, due: Timestamp) -> CronJobStatus {
    status.active.get_or_insert_default().push(ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    status.last_schedule_time = Some(clock::time(due));
    status
}

//! Watches CronJobs and Jobs, decides, and carries it out.

use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_client::{
    Change, Informer, ObjectKey, WorkQueue, is_already_exists, is_conflict, is_not_found, reference_of,
};

use super::decide::{Decision, Observed, decide, with_job};
use crate::children::owner_of;
use crate::clock;
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::{Expectations, Expected};
use crate::metrics;
use crate::owner::{self, controller_of};

/// Index of Jobs by the uid of their controller.
const BY_OWNER: &str = "controllers/owner";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let jobs = context.informers.of::<Job>();
    jobs.add_index(BY_OWNER, |job| {
        controller_of(&job.metadata).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    let controller = Arc::new(Controller {
        crons: context.informers.of::<CronJob>(),
        jobs,
        queue: WorkQueue::new("cronjob"),
        expectations: Expectations::default(),
        own_writes: Expectations::default(),
        context: context.clone(),
    });
    let queue = controller.queue.clone();
    controller.crons.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let queue = controller.queue.clone();
    controller.jobs.on_event(move |change| {
        let mut keys: Vec<_> = owner_of::<CronJob>(&change.object().metadata).into_iter().collect();
        if let Change::Modified { old, .. } = change {
            keys.extend(owner_of::<CronJob>(&old.metadata));
        }
        keys.into_iter().for_each(|key| queue.add(key));
    });
    context.ready([controller.crons.synced().boxed(), controller.jobs.synced().boxed()]).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    queue: WorkQueue<ObjectKey>,
    /// Writes to Jobs.
    expectations: Expectations,
    /// Writes to the CronJob's status, which says which times are done.
    own_writes: Expectations,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(cron) = controller.crons.get(&key) else {
        controller.expectations.forget(&key);
        controller.own_writes.forget(&key);
        return Ok(());
    };
    let now = controller.context.now();
    let shown = controller.expectations.satisfied(&key, &controller.jobs, now)
        && controller.own_writes.satisfied(&key, &controller.crons, now);
    if !shown {
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let jobs = controller.jobs.by_index(BY_OWNER, owner::uid(&cron.metadata));
    let decision = decide(&Observed { cron: &cron, jobs: &jobs }, now);
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key.clone(), clock::until(moment, now));
    }
    Sync { controller: &controller, key: &key, cron: &cron }.apply(decision).await
}

/// One reconcile's calls.
struct Sync<'a> {
    controller: &'a Controller,
    key: &'a ObjectKey,
    cron: &'a CronJob,
}

impl Sync<'_> {
    fn context(&self) -> &Context {
        &self.controller.context
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.context().client.clone(), &self.key.namespace)
    }

    async fn apply(&self, decision: Decision) -> Result<(), Error> {
        for (type_, reason, message) in decision.events {
            self.context().event_about(&reference_of(self.cron), type_, reason, message);
        }
        for job in &decision.delete {
            self.delete(job).await?;
        }
        let mut status = decision.status;
        let mut outcome = Ok(());
        if let (Some(job), Some(due)) = (decision.create, decision.scheduled) {
            match self.create(&job, due).await {
                Ok(Some(created)) => {
                    let before = status.take().or_else(|| self.cron.status.clone()).unwrap_or_default();
                    status = Some(with_job(before, &created, due));
                }
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        if let Some(status) = status {
            self.write_status(status).await?;
        }
        outcome
    }

    /// The Job of that time, created now or before a status could be written. `None` when it is somebody else's.
    async fn create(&self, job: &Job, due: Timestamp) -> Result<Option<Job>, Error> {
        let name = owner::name(&job.metadata);
        let error = match self.jobs().create(&PostParams::default(), job).await {
            Ok(created) => {
                self.controller.expectations.wrote(self.key, &created, self.context().now());
                if let Some(time) = &created.metadata.creation_timestamp {
                    metrics::CRON_SKEW.with([]).observe(time.0.duration_since(due).as_secs_f64());
                }
                self.context().normal(self.cron, "SuccessfulCreate", format!("Created job {name}"));
                return Ok(Some(created));
            }
            Err(error) => error,
        };
        if is_already_exists(&error) {
            let found = self.jobs().get(name).await.map_err(Error::call("get job", name))?;
            return Ok(
                owner::is_controlled_by(&found.metadata, owner::uid(&self.cron.metadata)).then_some(found)
            );
        }
        if !context::namespace_is_terminating(&error) {
            let message = format!("Error creating job: {}", context::words(&error));
            self.context().warning(self.cron, "FailedCreate", message);
        }
        Err(Error::call("create job", name)(error))
    }

    async fn delete(&self, job: &Job) -> Result<(), Error> {
        let name = owner::name(&job.metadata);
        let uid = owner::uid(&job.metadata).to_owned();
        let precondition = Preconditions { uid: Some(uid.clone()), resource_version: None };
        match self.jobs().delete(name, &DeleteParams::background().preconditions(precondition)).await {
            Ok(_) => {
                let expected = Expected::Deleted { key: ObjectKey::of(job), uid };
                self.controller.expectations.note(self.key, expected, self.context().now());
                self.context().normal(self.cron, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {}", context::words(&error));
                self.context().warning(self.cron, "FailedDelete", message);
                Err(Error::call("delete job", name)(error))
            }
        }
    }

    async fn write_status(&self, status: CronJobStatus) -> Result<(), Error> {
        let api: Api<CronJob> = Api::namespaced(self.context().client.clone(), &self.key.namespace);
        let updated = CronJob { status: Some(status), ..self.cron.clone() };
        match api.replace_status(&self.key.name, &PostParams::default(), &updated).await {
            Ok(stored) => {
                self.controller.own_writes.wrote(self.key, &stored, self.context().now());
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("update status of cron job", self.key.to_string())(error)),
        }
    }
}

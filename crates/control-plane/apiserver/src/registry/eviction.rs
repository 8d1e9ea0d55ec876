//! `pods/eviction`: a delete that a PodDisruptionBudget can hold back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use podium_store::RangeOptions;
use serde_json::{Value, json};

use podium_api::field::{Errors, Path};
use podium_api::kinds::Part;
use podium_api::selector::LabelSelector;
use podium_api::status::ApiError;

use super::binding::set_condition;
use super::update::Outcome;
use super::{Call, Change};
use crate::admission::Operation;
use crate::options::{self, DeleteOptions, WriteOptions};
use crate::response::{self, Reply};
use crate::{clock, storage};

/// More evicted pods than this that the disruption controller has not seen go, and something is wrong. Source:
/// `MaxDisruptedPodSize`.
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What a budget says about a pod, decided purely.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Go ahead if the pod is still as it was seen; the budget is not touched.
    Free,
    /// Go ahead with this new state of the budget.
    Charged(Value),
    /// Not now.
    Refused(ApiError),
}

/// What it took that the pod may go.
#[derive(Debug, PartialEq, Eq)]
enum Permission {
    /// It has no budget, or its budget was charged: it may go whatever becomes of it meanwhile.
    Granted,
    /// It is not healthy, and the budget of this name lets such pods go.
    Unhealthy(String),
}

impl Call {
    pub(super) async fn evict(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "CreateOptions")?;
        let mut eviction = self.decode(body, "policy", "v1", "Eviction", write.validation)?;
        if eviction["metadata"]["name"].as_str().unwrap_or_default() != self.info.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        self.check_namespace(&mut eviction["metadata"])?;
        let given = Some(&eviction["deleteOptions"]).filter(|options| options.is_object()).cloned();
        let given = given.unwrap_or_else(|| json!({}));
        self.check_options(&given)?;
        let mut delete = match DeleteOptions::read(Some(&given), &self.query) {
            Ok(delete) => delete,
            // They are looked at by the deletion, which comes to it where there is a pod.
            Err(refusal) => return Err(self.current().err().unwrap_or(refusal)),
        };
        delete.dry_run |= write.dry_run;
        {
            let mut request = self.admission(
                Operation::Create,
                "Eviction",
                &mut eviction,
                None,
                &write.object,
                write.dry_run,
            );
            self.core.admission.mutate(&mut request)?;
            self.core.admission.validate(&mut request)?;
        }
        self.remove(&delete).await?;
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        Ok(self.reply_other(StatusCode::CREATED, &status))
    }

    /// What a deletion may be asked for and an eviction not.
    fn check_options(&self, options: &Value) -> Result<(), ApiError> {
        const UNSAFE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
        if options[UNSAFE] != json!(true) {
            return Ok(());
        }
        let mut errors = Errors::new();
        let path = Path::new("deleteOptions");
        let fault = "can not be set for pod eviction, try after removing the option";
        errors.invalid(&path.child(UNSAFE), true, fault);
        Err(ApiError::invalid("policy", "Eviction", &self.info.name, &errors))
    }

    /// Deletes the pod if its budget permits. A pod that may go only because of the state it is in goes only in that state:
    /// one that has become healthy meanwhile is a disruption.
    async fn remove(&self, asked: &DeleteOptions) -> Result<(), ApiError> {
        let is_ours = asked.resource_version.is_none();
        let in_state = |pod: &Value| {
            let mut delete = asked.clone();
            if is_ours {
                delete.resource_version = pod["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            }
            delete
        };
        // Each round is lost to another writer of the pod, so this ends with the last of them, or with the request's time. A
        // pod with another uid than was asked for is nobody's write: waiting would not make it the right one.
        let pod = loop {
            let pod = storage::parse(&*self.current()?)?;
            if !ignores_budgets(&pod) {
                break pod;
            }
            self.check_delete_preconditions(&pod, asked)?;
            let delete = if is_over(&pod) { asked.clone() } else { in_state(&pod) };
            match self.mark_and_delete(delete).await {
                Err(error) if error.code == 409 && is_ours => {}
                outcome => return outcome,
            }
        };
        match self.charge_budget(&pod, asked.dry_run).await? {
            Permission::Granted => self.mark_and_delete(asked.clone()).await,
            Permission::Unhealthy(budget) => match self.mark_and_delete(in_state(&pod)).await {
                Err(error) if error.code == 409 && is_ours => Err(still_processed(&budget)),
                outcome => outcome,
            },
        }
    }

    async fn mark_and_delete(&self, mut delete: DeleteOptions) -> Result<(), ApiError> {
        if !delete.dry_run {
            match self.mark_disrupted(&delete).await? {
                // The mark is ours and no reason not to go on.
                Outcome::Stored(record) if delete.resource_version.is_some() => {
                    let marked = storage::parse(&record)?;
                    delete.resource_version =
                        marked["metadata"]["resourceVersion"].as_str().map(str::to_owned);
                }
                Outcome::Deleted(_) => return Ok(()),
                Outcome::Stored(_) | Outcome::DryRun(_) => {}
            }
        }
        self.delete_object(&delete).await?;
        Ok(())
    }

    /// Says in the pod's status why it goes, so that its owners can tell.
    async fn mark_disrupted(&self, delete: &DeleteOptions) -> Result<Outcome, ApiError> {
        let now = clock::now();
        let write = crate::system::internal();
        let change = Change { part: Part::Status, write: &write, body: None, internal: true, tracked: true };
        self.change(&change, |old| {
            let mut new = old.clone();
            new["metadata"]["uid"] = json!(delete.uid.as_deref().unwrap_or_default());
            new["metadata"]["resourceVersion"] =
                json!(delete.resource_version.as_deref().unwrap_or_default());
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            });
            set_condition(&mut new, condition, &now);
            Ok(new)
        })
        .await
    }

    /// Takes one disruption from the pod's budget, if it has one.
    async fn charge_budget(&self, pod: &Value, dry_run: bool) -> Result<Permission, ApiError> {
        let Some(kind) = self.core.catalogue.stored("policy", "poddisruptionbudgets") else {
            return Ok(Permission::Granted);
        };
        let range = storage::range(&kind, &self.info.namespace)?;
        let found = self
            .core
            .store
            .range(&range, RangeOptions::default())
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let budgets: Vec<Value> = found
            .records
            .iter()
            .filter_map(|record| storage::parse(record).ok())
            .filter(|budget| {
                LabelSelector::from_value(&budget["spec"]["selector"])
                    .is_ok_and(|selector| selector.matches_value(pod))
            })
            .collect();
        let budget = match budgets.as_slice() {
            [] => return Ok(Permission::Granted),
            [one] => one,
            _ => {
                let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, "", text));
            }
        };
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        let mut call = Call::internal(&self.core, Arc::clone(&kind), &self.info.namespace, name);
        call.info.subresource = "status".to_owned();
        let write = WriteOptions { dry_run, ..crate::system::internal() };
        let change = Change { part: Part::Status, write: &write, body: None, internal: true, tracked: true };
        let now = clock::now();
        let is_free = AtomicBool::new(false);
        call.change(&change, |budget| {
            let verdict = judge(pod, budget, &now);
            is_free.store(verdict == Verdict::Free, Ordering::Relaxed);
            match verdict {
                Verdict::Free => Ok(budget.clone()),
                Verdict::Charged(new) => Ok(new),
                Verdict::Refused(error) => Err(error),
            }
        })
        .await?;
        match is_free.into_inner() {
            true => Ok(Permission::Unhealthy(name.to_owned())),
            false => Ok(Permission::Granted),
        }
    }
}

/// 429: the budget is about to say something else.
fn still_processed(budget: &str) -> ApiError {
    let message = format!("The disruption budget {budget} is still being processed by the server.");
    refused(&message, 10)
}

/// 429 with the cause; a client is told when to come again where that can be said.
fn refused(cause: &str, seconds: u64) -> ApiError {
    let mut error = response::too_many_requests(REFUSED, seconds);
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
    if seconds > 0 {
        details["retryAfterSeconds"] = json!(seconds);
    }
    error.details = Some(details);
    error
}

/// A pod that is over or going already cannot become healthy any more.
fn is_over(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed") || pod["metadata"]["deletionTimestamp"].is_string()
}

/// A pod that is over, has not started, or is going already disrupts nothing.
fn ignores_budgets(pod: &Value) -> bool {
    is_over(pod) || pod["status"]["phase"] == "Pending"
}

fn judge(pod: &Value, budget: &Value, now: &str) -> Verdict {
    let status = &budget["status"];
    let number = |name: &str| status[name].as_i64().unwrap_or(0);
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|list| list.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if !ready {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy_enough =
            number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if always || healthy_enough {
            return Verdict::Free;
        }
    }
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Verdict::Refused(still_processed(name));
    }
    let forbidden =
        |why: &str| Verdict::Refused(ApiError::forbidden("policy", "poddisruptionbudget", name, why));
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Verdict::Refused(refused(&why_not(name, status), 0));
    }
    let mut new = budget.clone();
    // Two evictions must not spend the same disruption.
    new["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": status["observedGeneration"],
        });
        set_condition(&mut new, condition, now);
    }
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    new["status"]["disruptedPods"][pod_name] = json!(now);
    Verdict::Charged(new)
}

/// Why a budget allows no disruption, in upstream's words.
fn why_not(name: &str, status: &Value) -> String {
    let number = |name: &str| status[name].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let condition = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "DisruptionAllowed" && condition["status"] == "False");
    let text = |field: &str| condition.and_then(|it| it[field].as_str()).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    let says = !message.is_empty();
    // First, since the numbers are not to be trusted then.
    if says && reason == "SyncFailed" {
        format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        )
    } else if current <= desired {
        format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
    } else if says {
        format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_charged_until_they_are_spent() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let budget = json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        let Verdict::Charged(new) = judge(&pod, &budget, "t") else { panic!("must be allowed") };
        assert_eq!(new["status"]["disruptionsAllowed"], 0);
        assert_eq!(new["status"]["disruptedPods"]["a"], "t");
        assert_eq!(new["status"]["conditions"][0]["reason"], "InsufficientPods");
        let Verdict::Refused(error) = judge(&pod, &new, "t") else { panic!("must be refused") };
        assert_eq!((error.code, error.reason), (429, "TooManyRequests"));
        assert!(ignores_budgets(&json!({"status": {"phase": "Succeeded"}, "metadata": {}})));
    }

    #[test]
    fn a_refusal_says_why() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let budget =
            |status: Value| json!({"metadata": {"name": "b", "generation": 2}, "spec": {}, "status": status});
        let refused = |status: Value| match judge(&pod, &budget(status), "t") {
            Verdict::Refused(error) => error,
            other => panic!("{other:?}"),
        };
        let cause = |error: &ApiError| {
            error.details.as_ref().unwrap()["causes"][0]["message"].as_str().unwrap().to_owned()
        };
        let old = refused(json!({"observedGeneration": 1, "disruptionsAllowed": 3}));
        assert_eq!(cause(&old), "The disruption budget b is still being processed by the server.");
        assert_eq!(old.details.as_ref().unwrap()["retryAfterSeconds"], 10);
        let spent = refused(json!({"observedGeneration": 2, "desiredHealthy": 2, "currentHealthy": 2}));
        assert_eq!(cause(&spent), "The disruption budget b needs 2 healthy pods and has 2 currently");
        assert!(spent.details.as_ref().unwrap().get("retryAfterSeconds").is_none(), "nobody can say when");
        let failed = |reason: &str| {
            json!({"observedGeneration": 2, "desiredHealthy": 1, "currentHealthy": 2, "conditions": [
            {"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": "because"}]})
        };
        assert_eq!(
            cause(&refused(failed("SyncFailed"))),
            "The disruption budget b does not allow evicting pods currently because it failed sync: because"
        );
        assert_eq!(
            cause(&refused(failed("Other"))),
            "The disruption budget b does not allow evicting pods currently (Other): because"
        );
        assert_eq!(refused(json!({"observedGeneration": 2, "disruptionsAllowed": -1})).code, 403);
    }

    #[test]
    fn an_unhealthy_pod_is_free_where_the_policy_says_so() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"phase": "Running", "conditions": []}});
        let budget = |policy: Value, current: i32| {
            json!({
            "metadata": {"name": "b", "generation": 1}, "spec": {"unhealthyPodEvictionPolicy": policy},
            "status": {"observedGeneration": 1, "desiredHealthy": 2, "currentHealthy": current}})
        };
        for (policy, current, free) in [
            (Value::Null, 2, true),
            (Value::Null, 1, false),
            (json!("IfHealthyBudget"), 2, true),
            (json!("IfHealthyBudget"), 1, false),
            (json!("AlwaysAllow"), 0, true),
        ] {
            let verdict = judge(&pod, &budget(policy.clone(), current), "t");
            assert_eq!(verdict == Verdict::Free, free, "{policy} {current}");
        }
    }
}

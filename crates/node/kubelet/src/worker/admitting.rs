//! The worker's part of letting its pod in.

use k8s_openapi::api::core::v1::Node;
use podium_client::{Api, EventType, reference_of};

use crate::{
    admission::{self, Refused},
    metrics, node_shutdown, pod,
    status::Verdict,
    worker::Worker,
};

impl Worker {
    /// Decides once whether the pod may be here at all. One that ran before was let in before.
    pub(super) async fn admit(&mut self) {
        self.admitted = true;
        if !self.record.containers.is_empty() || !self.record.sandboxes.is_empty() {
            return;
        }
        let mut outcome = if *self.shared.leaving.borrow() {
            Err(node_shutdown::refusal())
        } else {
            let pressures = self.shared.pressures.lock().clone();
            admission::under_pressure(&self.pod, &pressures)
                .and_then(|()| self.mailbox.neighbours().admit(&self.pod, None))
        };
        if outcome.as_ref().is_err_and(Refused::is_about_node) {
            let nodes = Api::<Node>::all(self.shared.client.clone());
            if let Ok(node) = nodes.get(&self.shared.config.node_name).await {
                outcome = self.mailbox.neighbours().admit(&self.pod, Some(&node));
            }
        }
        if pod::is_critical(&self.pod) && outcome.as_ref().is_err_and(Refused::is_shortage) {
            outcome = self.make_room().await;
        }
        if outcome.is_ok() {
            outcome = self.shared.container_manager.admit(&self.pod).await;
        }
        if let Err(refused) = outcome {
            let about = reference_of(&*self.pod);
            self.shared.recorder.event(&about, EventType::Warning, &refused.reason, refused.message.clone());
            self.shared.metrics.count(&metrics::REJECTIONS, &[("reason", &refused.reason)]);
            let message = format!("Pod was rejected: {}", refused.message);
            self.verdict = Some(Verdict::plain(&refused.reason, message));
        }
    }

    /// Has other pods ended for this one, and waits until they have gone. Then there is room, whoever comes meanwhile: this
    /// pod counts already.
    async fn make_room(&mut self) -> Result<(), Refused> {
        let mut departure = self.mailbox.neighbours().make_room(&self.pod)?;
        loop {
            tokio::select! {
                () = &mut departure => return Ok(()),
                () = self.mailbox.wait() => {
                    self.read_mail();
                    if self.ending() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

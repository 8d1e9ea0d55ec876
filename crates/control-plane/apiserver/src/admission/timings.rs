//! How long admission takes: each plugin, and each phase as a whole.
//!
//! A phase reads the clock once behind every plugin, so that one plugin's end is the next one's beginning.

use std::time::Instant;

use podium_api::status::ApiError;
use podium_client::metrics::{Histogram, head};

use super::Operation;

/// Source: upstream `apiserver_admission_controller_admission_duration_seconds`, in seconds.
const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

/// The plugins under upstream's names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plugin {
    NamespaceLifecycle,
    EventRateLimit,
    LimitRanger,
    ServiceAccount,
    NodeRestriction,
    TaintNodesByCondition,
    PodSecurity,
    Priority,
    DefaultTolerationSeconds,
    DefaultStorageClass,
    StorageObjectInUseProtection,
    PersistentVolumeClaimResize,
    RuntimeClass,
    DefaultIngressClass,
    PodTopologyLabels,
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
    ClusterTrustBundleAttest,
    DenyServiceExternalIPs,
    NodeDeclaredFeatureValidator,
    ResourceQuota,
}

/// How many there are.
const PLUGINS: usize = Plugin::ResourceQuota as usize + 1;

/// The two phases.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Admit,
    Validate,
}

const PHASES: [&str; 2] = ["admit", "validate"];
const OPERATIONS: [Operation; 4] =
    [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];
const REJECTED: [&str; 2] = ["false", "true"];

/// Distributions by operation, rejection and phase.
const EACH: usize = OPERATIONS.len() * REJECTED.len() * PHASES.len();

fn index(operation: Operation, rejected: bool, phase: Phase) -> usize {
    (operation as usize * REJECTED.len() + usize::from(rejected)) * PHASES.len() + phase as usize
}

/// See the module.
pub(super) struct Timings {
    plugins: [[Histogram; EACH]; PLUGINS],
    steps: [Histogram; EACH],
    /// The plugins' names.
    names: [String; PLUGINS],
}

impl Default for Timings {
    fn default() -> Timings {
        let each = || std::array::from_fn(|_| Histogram::new(SECONDS));
        Timings {
            plugins: std::array::from_fn(|_| each()),
            steps: each(),
            names: ALL.map(|plugin| format!("{plugin:?}")),
        }
    }
}

/// In the order of their numbers, which a test checks.
const ALL: [Plugin; PLUGINS] = [
    Plugin::NamespaceLifecycle,
    Plugin::EventRateLimit,
    Plugin::LimitRanger,
    Plugin::ServiceAccount,
    Plugin::NodeRestriction,
    Plugin::TaintNodesByCondition,
    Plugin::PodSecurity,
    Plugin::Priority,
    Plugin::DefaultTolerationSeconds,
    Plugin::DefaultStorageClass,
    Plugin::StorageObjectInUseProtection,
    Plugin::PersistentVolumeClaimResize,
    Plugin::RuntimeClass,
    Plugin::DefaultIngressClass,
    Plugin::PodTopologyLabels,
    Plugin::CertificateApproval,
    Plugin::CertificateSigning,
    Plugin::CertificateSubjectRestriction,
    Plugin::ClusterTrustBundleAttest,
    Plugin::DenyServiceExternalIPs,
    Plugin::NodeDeclaredFeatureValidator,
    Plugin::ResourceQuota,
];

/// One phase of one request, as it goes on.
pub(super) struct Walk<'t> {
    timings: &'t Timings,
    operation: Operation,
    phase: Phase,
    began: Instant,
    /// When the last plugin ended.
    last: Instant,
}

impl Timings {
    pub(super) fn walk(&self, phase: Phase, operation: Operation) -> Walk<'_> {
        let now = Instant::now();
        Walk { timings: self, operation, phase, began: now, last: now }
    }

    /// Writes all of it.
    pub(super) fn render(&self, out: &mut String) {
        let name = "apiserver_admission_controller_admission_duration_seconds";
        head(out, name, "histogram", "[STABLE] How long an admission plugin took over a request.");
        for (plugin, each) in self.names.iter().zip(&self.plugins) {
            rows(out, name, &format!("name=\"{plugin}\","), each);
        }
        let name = "apiserver_admission_step_admission_duration_seconds";
        let help = "[STABLE] How long a phase of admission took over a request, plugin after plugin.";
        head(out, name, "histogram", help);
        rows(out, name, "", &self.steps);
    }
}

fn rows(out: &mut String, name: &str, plugin: &str, each: &[Histogram; EACH]) {
    for operation in OPERATIONS {
        for (rejected, text) in REJECTED.iter().enumerate() {
            for (phase, kind) in [Phase::Admit, Phase::Validate].into_iter().zip(PHASES) {
                let labels =
                    format!("{plugin}operation=\"{}\",rejected=\"{text}\",type=\"{kind}\"", operation.name());
                each[index(operation, rejected == 1, phase)].render(out, name, &labels);
            }
        }
    }
}

impl Walk<'_> {
    /// A plugin has ended.
    pub(super) fn ran(&mut self, plugin: Plugin, outcome: Result<(), ApiError>) -> Result<(), ApiError> {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.last, now);
        let index = index(self.operation, outcome.is_err(), self.phase);
        self.timings.plugins[plugin as usize][index].observe(took.as_secs_f64());
        outcome
    }

    /// A plugin that refuses nothing has ended.
    pub(super) fn filled(&mut self, plugin: Plugin) {
        // It cannot fail.
        let _ = self.ran(plugin, Ok(()));
    }

    /// The phase has ended.
    pub(super) fn end(self, outcome: Result<(), ApiError>) -> Result<(), ApiError> {
        let index = index(self.operation, outcome.is_err(), self.phase);
        self.timings.steps[index].observe(self.began.elapsed().as_secs_f64());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plugin_and_each_phase_has_rows_of_its_own() {
        assert!(ALL.iter().enumerate().all(|(index, plugin)| *plugin as usize == index));
        let timings = Timings::default();
        let mut walk = timings.walk(Phase::Admit, Operation::Create);
        walk.ran(Plugin::NamespaceLifecycle, Ok(())).unwrap();
        walk.filled(Plugin::LimitRanger);
        let refusal = walk.ran(Plugin::ServiceAccount, Err(ApiError::internal("no")));
        walk.end(refusal).unwrap_err();
        let walk = timings.walk(Phase::Validate, Operation::Delete);
        walk.end(Ok(())).unwrap();
        let mut text = String::new();
        timings.render(&mut text);
        let counts: Vec<_> = text.lines().filter(|line| line.contains("_count{")).collect();
        let controller = "apiserver_admission_controller_admission_duration_seconds_count";
        let step = "apiserver_admission_step_admission_duration_seconds_count";
        assert_eq!(
            counts,
            [
                format!(
                    "{controller}{{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"}} 1"
                ),
                format!(
                    "{controller}{{name=\"LimitRanger\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"}} 1"
                ),
                format!(
                    "{controller}{{name=\"ServiceAccount\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"}} 1"
                ),
                format!("{step}{{operation=\"CREATE\",rejected=\"true\",type=\"admit\"}} 1"),
                format!("{step}{{operation=\"DELETE\",rejected=\"false\",type=\"validate\"}} 1"),
            ]
        );
    }
}

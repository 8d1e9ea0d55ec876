//! Watches requests, asks, signs, writes.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_client::{Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};
use podium_pki::certificate::{Facts, from_pem};

use super::decide::{self, Recognized, Signing};
use crate::clock;
use crate::context::{Context, Error};

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    queue: WorkQueue<ObjectKey>,
}

impl Controller {
    async fn new(context: Context, name: &'static str) -> Arc<Self> {
        let requests = context.informers.of::<CertificateSigningRequest>();
        let queue = WorkQueue::new(name);
        let to = queue.clone();
        requests.on_event(move |change| to.add(ObjectKey::of(change.object().as_ref())));
        context.ready([requests.synced().boxed()]).await;
        Arc::new(Controller { context, requests, queue })
    }

    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.context.client.clone())
    }

    /// Writes the request's approval or status.
    async fn write(&self, part: &'static str, request: &CertificateSigningRequest) -> Result<(), Error> {
        let name = request.metadata.name.clone().unwrap_or_default();
        match self.api().replace_subresource(part, &name, &PostParams::default(), request).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("decide about certificate signing request", name.clone())(error)),
        }
    }
}

/// Approves client certificates of kubelets, until shutdown.
pub(crate) async fn run_approving(context: Context) {
    let controller = Controller::new(context.clone(), "csr-approving").await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| approve(Arc::clone(&controller), key)).await;
}

async fn approve(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(request) = controller.requests.get(&key) else { return Ok(()) };
    if !decide::is_for_approval(&request) {
        return Ok(());
    }
    let parsed = decide::read(&request).map_err(|why| Error::Unusable { object: key.name.clone(), why })?;
    let recognized = decide::recognize(&request.spec, &parsed);
    for kind in &recognized {
        if !may(&controller, &request, *kind).await? {
            continue;
        }
        let mut request = (*request).clone();
        let now = controller.context.now();
        let condition = decide::condition("Approved", "AutoApproved", kind.message, now);
        request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        return controller.write("approval", &request).await;
    }
    match recognized.first() {
        // Tried again: the permission may come.
        Some(_) => Err(Error::Unusable {
            object: key.name,
            why: "recognized as a kubelet's request for a client certificate, but subject access review was not approved"
                .to_owned(),
        }),
        None => Ok(()),
    }
}

async fn may(
    controller: &Controller,
    request: &CertificateSigningRequest,
    kind: Recognized,
) -> Result<bool, Error> {
    let spec = request.spec.clone();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username,
            uid: spec.uid,
            groups: spec.groups,
            extra: spec.extra,
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                version: Some("*".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(kind.subresource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(controller.context.client.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(Error::call("review access for", kind.subresource))?;
    Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}

/// Signs approved requests, until shutdown.
pub(crate) async fn run_signing(context: Context) {
    if context.settings.signers.is_empty() {
        tracing::info!("no signing key: certificate signing requests are not signed");
        context.shutdown.cancelled().await;
        return;
    }
    let controller = Controller::new(context.clone(), "csr-signing").await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| issue(Arc::clone(&controller), key)).await;
}

async fn issue(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(request) = controller.requests.get(&key) else { return Ok(()) };
    let signers = &controller.context.settings.signers;
    let Some(authority) = signers.of(&request.spec.signer_name) else { return Ok(()) };
    let now = controller.context.now();
    let (failure, certificate) = match decide::sign(&request, signers.longest) {
        Signing::Nothing => return Ok(()),
        Signing::Fail(why) => (Some(decide::condition("Failed", "SignerValidationFailure", &why, now)), None),
        Signing::Sign(parsed, life) => {
            let usages = request.spec.usages.as_deref().unwrap_or_default();
            let certificate = authority
                .sign(&parsed, usages, life, now)
                .map_err(|error| Error::Unusable { object: key.name.clone(), why: error.to_string() })?;
            (None, Some(ByteString(certificate.into_bytes())))
        }
    };
    let mut request = (*request).clone();
    let status = request.status.get_or_insert_default();
    status.conditions.get_or_insert_default().extend(failure);
    status.certificate = certificate;
    controller.write("status", &request).await
}

/// Removes requests that are over, until shutdown.
pub(crate) async fn run_cleaning(context: Context) {
    let controller = Controller::new(context.clone(), "csr-cleaner").await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| clean(Arc::clone(&controller), key)).await;
}

async fn clean(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(request) = controller.requests.get(&key) else { return Ok(()) };
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    let expiry = certificate
        .and_then(|pem| from_pem(std::str::from_utf8(&pem.0).ok()?).ok())
        .and_then(|chain| Some(Facts::of(chain.first()?).ok()?.not_after));
    let now = controller.context.now();
    let Some(moment) = decide::remove_at(&request, expiry) else { return Ok(()) };
    if moment > now {
        controller.queue.add_after(key, clock::until(moment, now));
        return Ok(());
    }
    let meta = &request.metadata;
    let preconditions =
        Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    match controller.api().delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(Error::call("delete certificate signing request", key.name)(error)),
    }
}
